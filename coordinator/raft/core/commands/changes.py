"""Change the configuration: judge what is asked for, note what a leader sees, tell who is
concerned.

Never appends a change that rules/membership.py does not allow, and leaves a removed member only
when its removal is committed.
"""

from __future__ import annotations

from typing import Any, Final

from pysyncobj.node import Node

from coordinator.raft.core.environment import log
from coordinator.raft.core.leading.leader import Leader
from coordinator.raft.core.library import MEMBERSHIP
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
    """The changes of membership that this member makes as the leader, and learns of as any."""

    def __init__(self, state: State, leader: Leader) -> None:
        self._library, self._environment, self._log = state.library, state.environment, state.log
        self._roster, self._eligibility = state.roster, state.eligibility
        self._terms, self._leader = state.terms, leader
        self._leaving: dict[str, None] = {}
        """Removed members to take leave of, in the order of the nodes."""

    # ------------------------------------------------------------------------- as the leader

    def judge(self, encoded: bytes) -> Configuration | Already | Refusal:
        """Return the configuration that a change makes, or why it makes none."""
        try:
            change = decode_change(encoded)
        except ValueError as exc:
            return Refusal(str(exc))
        return decide(self._roster.configuration, change, self.situation())

    def situation(self) -> Situation:
        """Say what this leader knows that decides whether a change is safe."""
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
        """Say what the log began from, as the first leader of all, before all else is in it."""
        configuration = self._roster.configuration
        if not configuration.origin.history:
            drawn = self._environment.rng.getrandbits(8 * HISTORY_BYTES)
            history = drawn.to_bytes(HISTORY_BYTES, "big")
            self._append(founded(configuration, history, self._roster.first))

    def maybe_note_joined(self) -> None:
        """Note who has acknowledged the log, once there is nothing else to change."""
        roster = self._roster
        if (
            all(seat.joined for seat in roster.configuration.seats)
            or not self._leader.own_term_committed
        ):
            return
        no_op, match = self._library.no_op_index or 0, self._library.match_index
        ids = [roster.id, *(node.id for node in roster.peers if match.get(node, 0) >= no_op)]
        verdict = decide(roster.configuration, Join(tuple(ids)), self.situation())
        if isinstance(verdict, Configuration):
            self._append(verdict)

    def maybe_note_moved(self) -> None:
        """Note where members say that they are, once they are heard from there and there is nothing
        else to change.
        """
        roster = self._roster
        if roster.pending or not self._leader.own_term_committed:
            return
        for seat in roster.configuration.seats:
            address = roster.reported_address(seat.id)
            if address and address != seat.address:
                verdict = decide(roster.configuration, Move(seat.id, address), self.situation())
                if isinstance(verdict, Configuration):
                    log.info("member moved", member=roster.id, moved=seat.id, to=address)
                    self._append(verdict)
                    return

    def _append(self, configuration: Configuration) -> None:
        self._leader.append(MEMBERSHIP + encode(configuration))

    # -------------------------------------------------------------------------- as any member

    def on_committed(self) -> None:
        """Tell everyone where the members are now, and leave those behind who are none any more."""
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
        """Tell removed members, and leave them. One that is away hears it when it comes back
        (net/peer_check.py): nobody dials it.
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
        """Take in where members are."""
        for member, address in message["members"]:
            self._roster.reach(member, address)
