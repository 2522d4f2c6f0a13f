"""Change the configuration: judge requests, record what the leader observes of members, and notify
the members concerned.

Never appends a change that rules/membership.py does not allow, and drops the connection with a
removed member only when its removal is committed.
"""

from __future__ import annotations

from typing import Any, Final

from pysyncobj.node import Node

from coordinator.raft.core.environment import log
from coordinator.raft.core.leading.leader import Leader
from coordinator.raft.core.pysyncobj_library import MEMBERSHIP
from coordinator.raft.core.rules.membership import (
    Already,
    Configuration,
    Join,
    Move,
    Refusal,
    Situation,
    decide,
    decode_change,
    encode,
    founded,
)
from coordinator.raft.core.state import State

HISTORY_BYTES: Final = 16


class Changes:
    """The membership changes that this member makes as leader, and those that it learns of."""

    def __init__(self, state: State, leader: Leader) -> None:
        self._library, self._environment, self._log = state.pysyncobj, state.environment, state.log
        self._roster, self._eligibility = state.roster, state.eligibility
        self._terms, self._leader = state.terms, leader
        self._leaving: dict[str, None] = {}
        """Removed members that `say_farewell` has yet to notify, in the order of the nodes (a dict
        as an ordered set).
        """
        self._connections = 0
        """How often a member has connected: only then does it report an address."""
        self._looked_at: tuple[int, int] | None = None
        """How often the configuration had changed, and members had connected, when all addresses
        were found to be those in the configuration.
        """

    # ------------------------------------------------------------------------- as the leader

    def judge(self, encoded: bytes) -> Configuration | Already | Refusal:
        """Return the configuration that an encoded change leads to, or why there is none."""
        try:
            change = decode_change(encoded)
        except ValueError as exc:
            return Refusal(str(exc))
        return decide(self._roster.configuration, change, self.situation())

    def situation(self) -> Situation:
        """Return what this leader knows that decides whether a change is safe."""
        library, roster = self._library, self._roster
        since = self._environment.now() - library.conf.raftMaxTimeout
        heard, match = library.last_response, library.match_index
        last = self._log.last_index
        live = {node.id for node in roster.peers if heard.get(node, since) > since} | {roster.id}
        lag = {node.id: last - match[node] for node in roster.peers if match.get(node)}
        return Situation(
            leader=roster.id,
            pending=roster.pending,
            own_term_committed=self._leader.own_term_committed,
            live=frozenset(live),
            lag=lag,
            troubles={
                node.id: trouble for node in roster.peers if (trouble := roster.trouble(node.id))
            },
        )

    def found(self) -> None:
        """Append the log's origin, with a random history id, if the log has none yet. This is done
        by the cluster's first leader, before it appends any command.
        """
        configuration = self._roster.configuration
        if not configuration.origin.history:
            drawn = self._environment.rng.getrandbits(8 * HISTORY_BYTES)
            history = drawn.to_bytes(HISTORY_BYTES, "big")
            self._append(founded(configuration, history, self._roster.first))

    def maybe_note_joined(self) -> None:
        """Record which members have acknowledged the log, unless another change is pending."""
        roster = self._roster
        if roster.all_joined or not self._leader.own_term_committed:
            return
        no_op, match = self._library.no_op_index or 0, self._library.match_index
        ids = [roster.id, *(node.id for node in roster.peers if match.get(node, 0) >= no_op)]
        verdict = decide(roster.configuration, Join(tuple(ids)), self.situation())
        if isinstance(verdict, Configuration):
            self._append(verdict)

    def maybe_note_moved(self) -> None:
        """Record the new address of a connected member that reports one, unless another change is
        pending.
        """
        roster = self._roster
        state = roster.configured, self._connections
        if state == self._looked_at or roster.pending or not self._leader.own_term_committed:
            return
        for seat in roster.configuration.seats:
            address = roster.reported_address(seat.id)
            if address and address != seat.address:
                verdict = decide(roster.configuration, Move(seat.id, address), self.situation())
                if isinstance(verdict, Configuration):
                    log.info("member moved", member=roster.id, moved=seat.id, to=address)
                    self._append(verdict)
                return
        self._looked_at = state

    def note_connected(self) -> None:
        """Note that a member has connected, and may report another address than before."""
        self._connections += 1

    def _append(self, configuration: Configuration) -> None:
        self._leader.append(MEMBERSHIP + encode(configuration))

    # -------------------------------------------------------------------------- as any member

    def on_committed(self) -> None:
        """Announce the members' addresses to all connected peers, and mark removed members for
        `say_farewell`. If this member was removed itself, stop voting and leading.
        """
        roster, library = self._roster, self._library
        committed = roster.history.at(library.applied_index)
        contacts = roster.contacts(committed)
        for member, node in roster.known:
            if member in committed.retired:
                self._leaving[member] = None
            elif node in library.connected_nodes:
                library.send(node, contacts)
        if roster.id in committed.retired:
            self._eligibility.remove()
            self._terms.follow(library.term, library.leader)

    def say_farewell(self) -> None:
        """Notify removed members and drop the connections with them. Nobody dials a removed member
        that is away; it is notified when it connects again (net/peer_check.py).
        """
        if not self._leaving:
            return
        for member in self._leaving:
            node = self._roster.leave(member)
            if node is None:
                continue
            self._library.send(node, {"type": "removed", "term": self._library.term})
            self._leader.drop_peer(member)
            self._library.transport.dropNode(node)
        self._leaving.clear()

    def on_contacts(self, node: Node, message: dict[str, Any]) -> None:
        """Learn the members' addresses from a peer."""
        for member, address in message["members"]:
            self._roster.reach(member, address)
