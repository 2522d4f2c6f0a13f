"""Hold what every rule of the hardened core shares: the library's state, our additions, and the
seams to the outside.

Never decides a Raft question (rules.py, membership.py, readindex.py do) and never touches a thread,
file, clock or random source but through what its constructor is given. The library keeps the state
and the roles; the classes built on this one replace each of its steps that research found unsafe.
Nothing of the library is patched globally.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from random import Random
from typing import Any, Final, Literal, Protocol, TypeAlias, overload

import structlog
from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.syncobj import _COMMAND_TYPE, _RAFT_STATE
from pysyncobj.transport import Transport
from pysyncobj.version import VERSION

from coordinator.log import PeerAddress, Position, Replica
from coordinator.raft.core.rules.membership import Configuration, History, bootstrap
from coordinator.raft.net.peer_identity import Origin
from coordinator.raft.storage.snapshot import SnapshotStore
from kv.errors import InvariantViolated
from kv.ports import Clock

if VERSION != "0.3.17":
    raise ImportError(
        f"pysyncobj must be exactly 0.3.17, whose private steps are replaced here; found {VERSION}"
    )

FOLLOWER: Final = _RAFT_STATE.FOLLOWER
CANDIDATE: Final = _RAFT_STATE.CANDIDATE
LEADER: Final = _RAFT_STATE.LEADER
REGULAR: Final = bytes([_COMMAND_TYPE.REGULAR])
NO_OP: Final = bytes([_COMMAND_TYPE.NO_OP])
MEMBERSHIP: Final = bytes([_COMMAND_TYPE.MEMBERSHIP])
STORE_S_MAX: Final = 2.0
"""Of the time that storing a vote took, what is allowed to others for theirs."""
WIPED: Final = NO_OP + b"wiped"
"""The base of a log that was begun again: the disk is not lost."""

SUCCESS: Final = FAIL_REASON.SUCCESS
QUEUE_FULL: Final = FAIL_REASON.QUEUE_FULL
MISSING_LEADER: Final = FAIL_REASON.MISSING_LEADER
DISCARDED: Final = FAIL_REASON.DISCARDED
NOT_LEADER: Final = FAIL_REASON.NOT_LEADER
REQUEST_DENIED: Final = FAIL_REASON.REQUEST_DENIED
UNKNOWN_OUTCOME: Final = FAIL_REASON.UNKNOWN_OUTCOME

Callback: TypeAlias = Callable[[Any, int], object]
"""Called once with (result, reason): the library's own shape."""

log = structlog.get_logger("acordo.raft")


class Chunk(Protocol):
    """Part of a snapshot on its way (snapshot.py)."""

    @property
    def id(self) -> bytes: ...
    @property
    def offset(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def content(self) -> bytes: ...


class DurableLog(Protocol):
    """What the core needs of a journal beyond the library's own interface
    (`pysyncobj.journal.Journal`).
    """

    on_synced: Callable[[int], None]

    @property
    def synced_index(self) -> int: ...

    @property
    def policy(self) -> str: ...

    def maybe_sync(self) -> bool: ...

    def add(self, command: bytes, idx: int, term: int) -> None: ...
    def clear(self) -> None: ...
    def deleteEntriesFrom(self, entryFrom: int) -> None: ...
    def deleteEntriesTo(self, entryTo: int) -> None: ...
    @overload
    def __getitem__(self, item: int) -> tuple[bytes, int, int]: ...
    @overload
    def __getitem__(self, item: slice) -> list[tuple[bytes, int, int]]: ...
    def __len__(self) -> int: ...
    def setRaftCommitIndex(self, raftCommitIndex: int) -> None: ...
    def getRaftCommitIndex(self) -> int: ...
    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None: ...
    def getCurrentTerm(self) -> int: ...
    def getVotedForNodeId(self) -> str | None: ...
    def onOneSecondTimer(self) -> None: ...
    def _destroy(self) -> None: ...


Done: TypeAlias = Callable[[Any, BaseException | None], None]
Spawn: TypeAlias = Callable[[Coroutine[Any, Any, Any], Done], None]
"""Run a coroutine as a task that its owner watches; then call back, on the loop, with (result,
exception).
"""


class NullPoller:
    """Stand in for the library's poller: our transport lives on the event loop."""

    def poll(self, timeout: float) -> None: ...


class State(SyncObj):
    """The library's node with our journal, clock and chance in place of its own, and the
    configuration in force.
    """

    def __init__(  # noqa: PLR0917 the library's own order
        self,
        selfNode: Node | str,
        otherNodes: Iterable[Node | str],
        conf: SyncObjConf | None = None,
        consumers: Any = None,
        nodeClass: type[Node] = Node,
        transport: Transport | None = None,
        *,
        clock: Clock,
        chance: Random,
        replica: Replica,
        journal: DurableLog,
        snapshots: SnapshotStore,
        spawn: Spawn,
        configuration: Configuration | None = None,
        first: bytes = b"",
    ) -> None:
        """`first`: the digest of the list of first members that this one was given
        (membership.first_digest).
        """
        conf = conf or SyncObjConf()
        _check(conf, transport)
        self._clock, self._chance, self._replica, self._spawn = clock, chance, replica, spawn
        self._snapshots = snapshots
        self.on_kick: Callable[[], None] | None = None
        self.counts: dict[str, int] = {}
        """How often something notable happened, by name (elections, truncations, ...)."""
        self._handlers: dict[str, Callable[[Node, dict[str, Any]], None]] = {}
        self._heard = self._forgotten = float("-inf")
        """When a leader was last heard, and when we were told to forget it."""
        self._stored_s = 0.0
        """How long the newest store of term and vote took, in seconds: others may need as long."""
        self._first = first
        self.contested_until = float("-inf")
        """Until then nobody votes here: somebody was told of other first members, and no log has
        settled it.
        """
        self._led_term: int | None = None
        """The term for which `Replica.led` was called and `deposed` was not."""
        self._applied_term = 0
        self._removed = self._disk_lost = self._is_voter = False
        """The configuration in force says so."""

        otherNodes = tuple(otherNodes)
        self._node_id: str = selfNode.id if isinstance(selfNode, Node) else selfNode
        if configuration is None:
            ids = {node.id if isinstance(node, Node) else node for node in (selfNode, *otherNodes)}
            configuration = bootstrap(PeerAddress(member, member) for member in ids)
        # Before the library's constructor, which looks at every attribute, properties included.
        self._bootstrap = configuration
        self._history = History(configuration)

        # The library would open its own journal and a wake-up pipe that nothing drains (research
        # 3.13): neither is wanted, so its constructor sees a configuration without them.
        paths, conf.journalFile, conf.appendEntriesUseBatch = conf.journalFile, None, True
        try:
            super().__init__(selfNode, otherNodes, conf, consumers, nodeClass, transport)
        finally:
            conf.journalFile, conf.appendEntriesUseBatch = paths, False
        self._poller = NullPoller()
        self._SyncObj__needLoadDumpFile = False
        self._SyncObj__startTime = clock.monotonic()
        self._SyncObj__commandsLocalCounter = chance.getrandbits(48)
        self._nodes: dict[str, Node] = {self._node_id: self.selfNode}
        for node in sorted(self._SyncObj__otherNodes, key=lambda node: node.id):
            self._nodes[node.id] = node
        self._use_journal(journal)
        self._untold: dict[str, None] = {}
        """Removed members to take leave of."""
        self._voters: tuple[Node, ...] = ()
        """The other voters, by id."""
        self._peers: tuple[Node, ...] = ()
        """All other members, by id."""
        self._joined: frozenset[str] = frozenset()
        self._reset_election_timer()

    # ---------------------------------------------------------------------------------------- hooks

    def _on_synced(self, index: int) -> None: ...

    def _on_left_leadership(self) -> None: ...

    def _on_configured(self, added: list[Node]) -> None: ...

    def _apply_regular(self, position: Position, stamp_ms: int, command: bytes) -> Any:
        self._replica.apply(position, stamp_ms, command)
        return position

    # -------------------------------------------------------------------------------------- helpers

    def _use_journal(self, journal: DurableLog) -> None:
        """Take term, vote and log from disk; they were durable before anyone heard of them."""
        self._SyncObj__raftLog = journal
        journal.on_synced = self._on_synced
        base_alone = len(journal) == 0 or (journal[-1][1] <= 1 and journal[-1][0] != WIPED)
        self._blank = base_alone and (journal.getCurrentTerm() == 0 or journal.policy == "always")
        """Nothing was ever on this disk, or the base alone that a start puts there (membership.py:
        a member that joined and is blank has lost it). The term says nothing: a start may have
        heard of one. Without fsync it does say that this is the disk of old, for it alone is always
        synced.
        """
        if len(journal) == 0:
            journal.add(NO_OP, 1, 0)
        self._SyncObj__raftCurrentTerm = max(journal.getCurrentTerm(), self._last_term)
        self._SyncObj__votedForNodeId = (
            journal.getVotedForNodeId()
            if self._SyncObj__raftCurrentTerm == journal.getCurrentTerm()
            else None
        )
        self._SyncObj__raftLastApplied = journal[0][1]
        self._applied_term = journal[0][2]
        self._SyncObj__raftCommitIndex = max(
            journal[0][1], min(journal.getRaftCommitIndex(), journal[-1][1])
        )

    def _now(self) -> float:
        return self._clock.monotonic()

    def kick(self) -> None:
        """Ask for a tick soon."""
        if self.on_kick is not None:
            self.on_kick()

    def count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    @property
    def _term(self) -> int:
        return self._SyncObj__raftCurrentTerm

    @property
    def _leads(self) -> bool:
        return self._SyncObj__raftState == LEADER

    @property
    def _first_index(self) -> int:
        index: int = self._SyncObj__raftLog[0][1]
        return index

    @property
    def _last_index(self) -> int:
        index: int = self._SyncObj__raftLog[-1][1]
        return index

    @property
    def _last_term(self) -> int:
        term: int = self._SyncObj__raftLog[-1][2]
        return term

    def _term_at(self, index: int) -> int:
        """Return the term of an entry that is held."""
        term: int = self._SyncObj__raftLog[index - self._first_index][2]
        return term

    @property
    def applied(self) -> Position:
        return Position(self._SyncObj__raftLastApplied, self._applied_term)

    @property
    def committed(self) -> Position:
        index = self._SyncObj__raftCommitIndex
        return Position(index, self._term_at(index))

    @property
    def configuration(self) -> Configuration:
        return self._history.newest

    @property
    def votes(self) -> bool:
        """Say whether this member may stand and be counted."""
        return self._is_voter and self.may_vote

    @property
    def unfit(self) -> Literal["removed", "disk_lost"] | None:
        """Why this member can be none for good."""
        return "removed" if self._removed else "disk_lost" if self._disk_lost else None

    @property
    def may_vote(self) -> bool:
        """Say whether it may give its vote to one who asks, and so counts it a voter already.

        Its own log may not have the entry that made it one, and never get it without that vote
        (section 4.2.2).
        """
        contested = not self.begun and self._now() < self.contested_until
        return not self._removed and not self._disk_lost and not contested

    @property
    def _voter_ids(self) -> tuple[str, ...]:
        return self.configuration.voters

    def _send(self, node: Node, message: dict[str, Any]) -> bool:
        """Hand a message to the transport; False: it took nothing."""
        return self._SyncObj__transport.send(node, message) is not False

    def _reset_election_timer(self) -> None:
        self._SyncObj__raftElectionDeadline = self._now() + self._SyncObj__generateRaftTimeout()

    def _SyncObj__generateRaftTimeout(self) -> float:
        low, high = self._SyncObj__conf.raftMinTimeout, self._SyncObj__conf.raftMaxTimeout
        return low + (high - low) * self._chance.random()

    def _adopt_term(self, term: int, voted_for: str | None = None) -> None:
        """Store a term and vote, durably, before anyone hears of them (section 3.8).

        It blocks for as long as the disk takes, and that is off the election clock: what a leader
        or a candidate sent meanwhile is still to be read, so its silence says nothing. Only
        liveness rests on it; there are no leases.
        """
        if term < self._term:
            raise InvariantViolated(f"term {self._term} would fall to {term}")
        began = self._now()
        self._SyncObj__setCurrentTerm(term, voted_for)
        took = self._now() - began
        self._heard += took
        self._SyncObj__raftElectionDeadline += took
        self._stored_s = min(took, STORE_S_MAX)

    def _SyncObj__setState(self, newState: int) -> None:
        led = self._leads
        super()._SyncObj__setState(newState)
        if led and newState != LEADER:
            self._on_left_leadership()

    def _become_follower(
        self, term: int, leader: Node | None, voted_for: str | None = None
    ) -> None:
        """Follow, at `term` or the own one. The timer starts anew: a deposed leader does not stand
        at once (3.8).

        A higher term is stored together with the vote that is given in it, if one is.
        """
        if term > self._term:
            self._adopt_term(term, voted_for)
        if self._SyncObj__raftState != FOLLOWER:
            self._reset_election_timer()
        self._SyncObj__raftLeader = leader
        self._SyncObj__setState(FOLLOWER)

    def _configure(self) -> None:
        """Count and reach the members of the configuration in force (it is so from its append:
        section 4.1).

        Who is none of its members is not dialled any more. If the entry is cut off, it is dialled
        again.
        """
        seats = [seat for seat in self.configuration.seats if seat.id != self._node_id]
        before = {node.id for node in self._peers}
        added = []
        for seat in seats:
            if seat.id not in self._nodes:
                self._nodes[seat.id] = self._SyncObj__nodeClass(seat.id, address=seat.address)
            setattr(self._nodes[seat.id], "address", seat.address)  # noqa: B010 the library's Node takes any attribute
            if seat.id not in before:
                added.append(self._nodes[seat.id])
        self._peers = tuple(self._nodes[seat.id] for seat in seats)
        self._voters = tuple(self._nodes[seat.id] for seat in seats if seat.voter)
        self._is_voter = self.configuration.votes(self._node_id)
        self._joined = frozenset(seat.id for seat in seats if seat.joined)
        self._SyncObj__otherNodes = set(self._voters)
        self._SyncObj__readonlyNodes = set(self._peers) - set(self._voters)
        self._on_configured(added)
        self._let_rest()

    @property
    def begun(self) -> bool:
        """Say whether a log is held that says who its members are: it is past any doubt about first
        lists.
        """
        return self._history.newest_index > 0

    @property
    def origin(self) -> Origin:
        """What this log began from, as far as that is committed; else what this member was told of
        the first list.

        A log that is older than origins are claims nothing.
        """
        committed = self._committed_configuration.origin
        if committed.history:
            return committed
        # What is held and not known to be committed may still be cut off; whoever wrote it began
        # with those members.
        return Origin(b"", self.configuration.origin.first if self.begun else self._first)

    @property
    def _committed_configuration(self) -> Configuration:
        return self._history.at(self._SyncObj__raftCommitIndex)

    def _reach(self, member: str, address: str) -> None:
        """Let a member connect with us, in force or not: a leader may be none of ours yet (section
        4.1).
        """
        if member == self._node_id or member in self._committed_configuration.retired:
            return
        if member not in self._nodes:
            self._nodes[member] = self._SyncObj__nodeClass(member, address=address)
        self._SyncObj__transport.addNode(self._nodes[member])
        self._let_rest()

    def _let_rest(self) -> None:
        """Do not dial who is removed by what the log says now; if that is cut off, it is dialled
        again.
        """
        rest = getattr(self._SyncObj__transport, "rest", None)
        for member in self.configuration.retired:
            if rest is not None and member in self._nodes:
                rest(self._nodes[member])

    def forget_leader(self) -> None:
        """Take no leader for heard any more (a test's stand-in for the passing of time)."""
        self._heard = float("-inf")
        self._forgotten = self._now()


Role: TypeAlias = Literal["leader", "follower", "candidate", "observer"]


def _check(conf: SyncObjConf, transport: Transport | None) -> None:
    if transport is None:
        raise ValueError("a transport must be given")
    if conf.autoTick:
        raise ValueError("autoTick must be off: the event loop drives the ticks")
    if conf.journalFile is not None and conf.fullDumpFile is None:
        raise ValueError("a journal without a dump file loses everything at its first compaction")
