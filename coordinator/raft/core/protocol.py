"""The hardened core: PySyncObj 0.3.17 with every step replaced that can lose, duplicate or reorder
entries (docs/pysyncobj-hazards.md).

Never pickles, blocks or sleeps, nor raises because of what a command, a waiter or a peer did. It is
driven from outside: by messages through the transport's callbacks and by `tick`, which never waits.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Literal

from pysyncobj.node import Node

from coordinator.log import PeerAddress, Position, Replica
from coordinator.raft.core.commands.applier import CommandFailed, EntryApplier
from coordinator.raft.core.commands.changes import Changes
from coordinator.raft.core.commands.queue import CommandQueue
from coordinator.raft.core.commands.waiters import Waiters
from coordinator.raft.core.compaction import Compaction, LogBounds
from coordinator.raft.core.durable_log import DurableLog
from coordinator.raft.core.election import Elections
from coordinator.raft.core.eligibility import Eligibility
from coordinator.raft.core.environment import Environment, Spawn
from coordinator.raft.core.following.follower import Follower
from coordinator.raft.core.following.pull import Pull
from coordinator.raft.core.following.rebuild import Rebuild
from coordinator.raft.core.following.snapshot_receiver import SnapshotReceiver
from coordinator.raft.core.following.transfer import Transfer
from coordinator.raft.core.giving import Giving
from coordinator.raft.core.leading.leader import Leader
from coordinator.raft.core.log import RaftLog
from coordinator.raft.core.pysyncobj_library import Library
from coordinator.raft.core.roster import Roster
from coordinator.raft.core.rules.membership import Add, Configuration, Remove
from coordinator.raft.core.state import State
from coordinator.raft.core.terms import Role, Terms
from coordinator.raft.net.peer_identity import Origin
from coordinator.raft.storage.snapshot import SnapshotStore
from kv.ports import Clock

MessageHandler = Callable[[Node, dict[str, Any]], None]


class Core:
    """One member's Raft: its parts, the order of a tick, and the routing of messages to parts."""

    def __init__(
        self,
        library: Library,
        *,
        clock: Clock,
        rng: Random,
        replica: Replica,
        journal: DurableLog,
        snapshots: SnapshotStore,
        spawn: Spawn,
        wake: Callable[[], None] = lambda: None,
        wake_in: Callable[[float], object] = lambda seconds: None,
        on_fault: Callable[[BaseException], None] | None = None,
        configuration: Configuration | None = None,
        first: bytes = b"",
        leader_wait_s: float = 0.0,
        transfer_bytes_per_s: float = 64 << 20,
        log_bounds: LogBounds = LogBounds(),  # noqa: B008 frozen
    ) -> None:
        """Make the parts and load the state from the disk. `configuration` holds the members that
        the cluster began with, `first` the digest of that list (rules.membership.first_digest).

        `wake` asks for a tick soon, `wake_in` for one after so many seconds. `on_fault` receives an
        exception that a message handler raises (a bug of ours); without it, the exception goes to
        the caller of `on_message`.
        """
        self.pysyncobj, self._on_fault = library, on_fault
        environment = self.environment = Environment(
            member=library.selfNode.id,
            clock=clock,
            rng=rng,
            replica=replica,
            snapshots=snapshots,
            spawn=spawn,
            wake=wake,
            wake_in=wake_in,
        )
        self.flush: Callable[[], None] = lambda: None
        """Called when nothing more will be sent in this turn of the loop."""
        self.on_connection_lost: Callable[[Node], None] = lambda node: None
        """Called when a connection is lost or replaced, before the core's own parts react."""
        journal.on_synced = self._on_synced
        self.roster = Roster(library, configuration, first)
        self.eligibility = Eligibility(self.roster, journal, environment.now)
        self.log = RaftLog(library, journal, environment.now())
        self.terms = Terms(library, environment, journal, self.log.last_term)
        state = State(library, environment, self.log, self.roster, self.eligibility, self.terms)
        self.leader = Leader(state)
        self._lead_and_follow(state, transfer_bytes_per_s)
        self._order_commands(state, leader_wait_s)
        self.compaction = Compaction(state, self.leader, self.transfer, self.giving, log_bounds)
        self._handlers = self._routes()
        library.handler = self
        # Reading the disk took time; the election time-out must not count it.
        self.terms.timer.reset()
        self.rebuild.load()

    def _lead_and_follow(self, state: State, bytes_per_s: float) -> None:
        """Make the parts that elect, lead and follow."""
        self.elections = Elections(state, self.leader, on_won=self._take_over)
        self.transfer = Transfer(state)
        self.pull = Pull(state, self.transfer)
        self.giving = Giving(state, lambda: self.pull.lacks, bytes_per_s=bytes_per_s)
        self.rebuild = Rebuild(state, self.transfer)
        self.follower = Follower(state, self.elections, self.rebuild)
        self.waiters = Waiters(state)
        self.receiver = SnapshotReceiver(
            state, self.transfer, self.pull, self.rebuild, self.follower,
            on_installed=self.waiters.notify_below,
        )  # fmt: skip
        self.terms.on_left_leadership = self.leader.step_down
        self.roster.on_added = self.leader.add_peer

    def _order_commands(self, state: State, leader_wait_s: float) -> None:
        """Make the parts that a command passes through."""
        leader, waiters = self.leader, self.waiters
        self.changes = Changes(state, leader)
        self.commands = CommandQueue(
            state, leader, self.changes, waiters, leader_wait_s=leader_wait_s
        )
        self.applier = EntryApplier(state, leader, self.changes, waiters)

    def _routes(self) -> dict[str, MessageHandler]:
        """Return the handler of each message type."""
        return {
            "request_vote": self.elections.on_request_vote,
            "response_vote": self.elections.on_response_vote,
            "timeout_now": self.elections.on_timeout_now,
            "resigned": self.elections.on_resigned,
            "removed": self.elections.on_removed,
            "append_entries": self.follower.on_append_entries,
            "next_node_idx": self.leader.on_next_node_idx,
            "install_snapshot": self.receiver.on_install_snapshot,
            "snapshot_wanted": self.leader.on_snapshot_wanted,
            "state_offer": self.receiver.on_state_offer,
            "state_underway": self.leader.on_state_underway,
            "state_vetted": self.receiver.on_state_vetted,
            "state_wanted": self.giving.on_wanted,
            "state_chunk": self.receiver.on_state_chunk,
            "state_answer": self.pull.on_answer,
            "apply_command": self.commands.on_forwarded,
            "apply_command_response": self.commands.on_answered,
            "contacts": self.changes.on_contacts,
        }

    # ------------------------------------------------------------------------------- what drives it

    def tick(self) -> None:
        """Elect, commit, drain, send, sync, apply, compact: in this order, each at most once.

        The machine takes longest, so the disk and the other members have their work before it.
        """
        library, environment, leader = self.pysyncobj, self.environment, self.leader
        now = environment.now()
        self.log.each_second(now)
        self.log.note_tail(now)
        self.changes.say_farewell()
        self.elections.elect()
        self.transfer.maybe_ask()
        self.pull.maybe_ask()
        self.receiver.maybe_use()
        self.giving.tick()
        for step in (leader.check_quorum, leader.check_disk, leader.maybe_commit):
            if library.leads:
                step()
        synced = self.log.synced_index  # where no sync is promised, what is appended counts at once
        self.commands.drain()
        if library.leads:
            self.changes.maybe_note_joined()
            self.changes.maybe_note_moved()
            # Entries are sent before our own disk has them, so disk and network work in parallel.
            leader.send()
        self.log.maybe_sync(at_once=True)
        if library.leads and self.log.synced_index != synced and leader.maybe_commit():
            environment.wake()
        self.flush()
        self.applier.apply()
        self.compaction.maybe_save()

    def next_due(self) -> float:
        """Return the monotonic time at which a tick is due even if no event comes before."""
        due = float("inf")
        if self.pysyncobj.leads:
            due = self.pysyncobj.heartbeat_due
        elif self.eligibility.votes:
            due = self.pysyncobj.election_deadline
        now = self.environment.now()
        return min(due, self.giving.next_due(), self.commands.next_due(now))

    def on_message(self, node: Node, message: dict[str, Any]) -> None:
        """Hand a message to the part that handles its type; count a message of unknown type."""
        handler = self._handlers.get(message["type"])
        if handler is None:
            self.environment.count("unknown_messages")
            return
        try:
            handler(self.roster.meet(node), message)
        except Exception as exc:
            if self._on_fault is None:
                raise
            self._on_fault(exc)

    def on_connected(self, node: Node) -> None:
        """Start over with a peer: what was in flight on an earlier connection is lost."""
        node = self.roster.meet(node)
        connected = self.pysyncobj.connected_nodes
        if node in connected:
            self._forget_connection(node)
        connected.add(node)
        self.changes.note_connected()
        self.pysyncobj.send(node, self.roster.contacts(self.roster.committed))
        self.leader.on_connected(node)
        self.environment.wake()

    def on_disconnected(self, node: Node) -> None:
        """Treat what was in flight to a peer as lost; if it led, prepare to stand soon."""
        self.pysyncobj.connected_nodes.discard(node)
        self._forget_connection(node)
        self.leader.on_disconnected(node)
        if node == self.pysyncobj.leader:
            self.transfer.lose_leader()
            self.terms.lose_leader()
        self.environment.wake()

    def _forget_connection(self, node: Node) -> None:
        self.on_connection_lost(node)
        self.commands.on_connection_lost(node)

    def _take_over(self) -> None:
        """Start to lead: a majority has elected this member."""
        self.transfer.stop_fetching()
        self.leader.take_over()
        self.changes.found()

    def _on_synced(self, index: int) -> None:
        """Acknowledge to the leader, or as leader count our own disk, after a sync."""
        # Entries may be committed before they are on our own disk. A member that is then stopped,
        # and started where there is no quorum, has to know that they were: its own store holds what
        # they made, and it serves nothing before its log has reached that (R5).
        self.log.keep_commit()
        self.follower.on_synced()
        self.flush()
        if self.pysyncobj.leads and self.leader.committable:
            self.environment.wake()

    def submit(self, command: bytes, callback: Any) -> None:
        """Queue a command that was handed to the library."""
        self.commands.enqueue(command, callback)

    def ask_to_add(self, member: str, address: str, callback: Any) -> None:
        """Ask for a member to be added."""
        self.commands.change(Add(member, address), callback)

    def ask_to_remove(self, member: str, callback: Any) -> None:
        """Ask for a member to be removed."""
        self.commands.change(Remove(member), callback)

    # ------------------------------------------------------------------ messages of other drivers

    def handle(self, type: str, handler: MessageHandler) -> None:
        """Register the handler of another message type."""
        self._handlers[type] = handler

    def tell(self, node: Node, message: dict[str, Any]) -> bool:
        """Send a message; return False if the transport did not take it."""
        return self.pysyncobj.send(node, message)

    def tell_member(self, member: str, message: dict[str, Any]) -> bool:
        """Send to a member; return False if it is not connected or the transport refused it."""
        node, library = self.roster.node(member), self.pysyncobj
        return node is not None and node in library.connected_nodes and library.send(node, message)

    def broadcast(self, message: dict[str, Any]) -> None:
        """Send to all members that are connected."""
        for node in self.roster.peers:
            if node in self.pysyncobj.connected_nodes:
                self.pysyncobj.send(node, message)

    # ------------------------------------------------------------------------ how this member is

    def now(self) -> float:
        """Return the monotonic time in seconds."""
        return self.environment.now()

    @property
    def heartbeat_s(self) -> float:
        """Seconds between two heartbeats."""
        return self.pysyncobj.conf.appendEntriesPeriod

    @property
    def election_max_s(self) -> float:
        """The longest election time-out in seconds."""
        return self.pysyncobj.conf.raftMaxTimeout

    @property
    def node_id(self) -> str:
        """The id of this member."""
        return self.roster.id

    @property
    def leads(self) -> bool:
        """Say whether this member leads."""
        return self.pysyncobj.leads

    @property
    def term(self) -> int:
        """The newest term that this member knows."""
        return self.pysyncobj.term

    @property
    def leader_node(self) -> Node | None:
        """The leader, as far as this member knows."""
        return self.pysyncobj.leader

    @property
    def votes(self) -> bool:
        """Say whether this member may stand for election and counts towards a quorum."""
        return self.eligibility.votes

    @property
    def unfit(self) -> Literal["removed", "disk_lost"] | None:
        """Why this member can never be a member again; None: it can."""
        return self.eligibility.unfit

    @property
    def role(self) -> Role:
        """The role to show to an operator."""
        if self.pysyncobj.leads:
            return "leader"
        if not self.roster.votes or self.eligibility.removed:
            return "observer"
        return "candidate" if self.elections.standing else "follower"

    @property
    def quorate(self) -> bool:
        """Say whether a majority (as leader) or a leader was heard within one election time-out."""
        within = self.pysyncobj.conf.raftMaxTimeout
        leads = self.pysyncobj.leads
        return self.leader.has_quorum(within) if leads else self.terms.heard_within(within)

    @property
    def own_term_committed(self) -> bool:
        """Say whether this member leads and an entry of its own term is committed."""
        return self.leader.own_term_committed

    @property
    def committed(self) -> Position:
        """The last entry that is known to be committed."""
        return self.log.committed

    def unsynced_age_s(self) -> float:
        """Return how many seconds the oldest unsynced entry has waited for this member's disk."""
        now = self.environment.now()
        self.log.note_tail(now)
        return self.log.unsynced_age_s(now)

    # -------------------------------------------------------------------- how the others are

    @property
    def configuration(self) -> Configuration:
        """The configuration in force."""
        return self.roster.configuration

    @property
    def members(self) -> tuple[PeerAddress, ...]:
        """The ids and addresses of the members."""
        return self.roster.addresses

    # ------------------------------------------------------------- who may connect (net/peer_check)

    @property
    def origin(self) -> Origin:
        """What this log began from, as far as this member knows."""
        return self.roster.origin

    @property
    def begun(self) -> bool:
        """Say whether the log here names its members."""
        return self.roster.begun

    def contest(self, until: float) -> None:
        """Withhold votes until `until`, as long as the log here does not name its members."""
        self.eligibility.contest(until)

    def retired(self, member: str) -> bool:
        """Say whether a member was removed for good."""
        return self.roster.retired(member)

    def on_told_removed(self, by: str) -> None:
        """Never stand or vote again: `by` refused our connection because we were removed."""
        self.elections.on_removed(self.roster.node(by) or self.pysyncobj.make_node(by), {})


__all__ = ["CommandFailed", "Core"]
