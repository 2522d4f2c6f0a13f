"""Offer PySyncObj's node under plain, typed names, and hand each of its steps to a handler.

No other module touches the library's private names. It never decides anything and never lets the
library take a step of its own: every unsafe one (docs/pysyncobj-hazards.md) is either handed on or
refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NoReturn, Protocol, TypeAlias, overload

from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.syncobj import _COMMAND_TYPE, _RAFT_STATE
from pysyncobj.transport import Transport
from pysyncobj.version import VERSION

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

SUCCESS: Final = FAIL_REASON.SUCCESS
QUEUE_FULL: Final = FAIL_REASON.QUEUE_FULL
MISSING_LEADER: Final = FAIL_REASON.MISSING_LEADER
DISCARDED: Final = FAIL_REASON.DISCARDED
NOT_LEADER: Final = FAIL_REASON.NOT_LEADER
REQUEST_DENIED: Final = FAIL_REASON.REQUEST_DENIED
UNKNOWN_OUTCOME: Final = FAIL_REASON.UNKNOWN_OUTCOME

Record: TypeAlias = tuple[bytes, int, int]
"""One place of the log: command, index, term."""
Callback: TypeAlias = Callable[[Any, int], object]
"""Called once with (result, reason): the library's own shape."""


class DurableLog(Protocol):
    """A journal: the library's own interface (`pysyncobj.journal.Journal`), and what the core needs
    beyond it.
    """

    on_synced: Callable[[int], None]

    @property
    def synced_index(self) -> int:
        """The last entry that is on the disk."""
        ...

    @property
    def unsynced_bytes(self) -> int:
        """How much waits for the disk."""
        ...

    @property
    def policy(self) -> str:
        """What is synced when: `always`, `interval` or `off`."""
        ...

    def maybe_sync(self) -> bool:
        """Begin to make durable what is not; `on_synced` is called when it is. Say whether a
        sync began.
        """
        ...

    def flush(self) -> None:
        """Make durable what is not, before it returns."""
        ...

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append an entry."""
        ...

    def clear(self) -> None:
        """Drop all entries."""
        ...

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        """Drop the entries from this place on."""
        ...

    def deleteEntriesTo(self, entryTo: int) -> None:
        """Drop the entries before this place."""
        ...

    @overload
    def __getitem__(self, item: int) -> Record: ...
    @overload
    def __getitem__(self, item: slice) -> list[Record]: ...
    def __len__(self) -> int: ...
    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Keep a hint for the next start."""
        ...

    def getRaftCommitIndex(self) -> int:
        """Return the hint that was kept."""
        ...

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        """Store both, durably, before it returns."""
        ...

    def getCurrentTerm(self) -> int:
        """Return the term that is on the disk."""
        ...

    def getVotedForNodeId(self) -> str | None:
        """Return who was voted for in it."""
        ...

    def onOneSecondTimer(self) -> None:
        """Do what is to be done once a second."""
        ...

    def _destroy(self) -> None: ...


class Handler(Protocol):
    """What takes the library's steps in its place."""

    def on_tick(self) -> None:
        """Do what time and messages have made due."""
        ...

    def on_message(self, node: Node, message: dict[str, Any]) -> None:
        """Take a message in."""
        ...

    def on_connected(self, node: Node) -> None:
        """Take a new connection in, also in the place of one that was not missed."""
        ...

    def on_disconnected(self, node: Node) -> None:
        """Take the end of a connection in."""
        ...

    def submit(self, command: bytes, callback: Any) -> None:
        """Order what the library's own decorated methods ask for: `command` begins with its kind."""

    def ask_to_add(self, member: str, address: str, callback: Any) -> None:
        """Ask for a member to be taken in."""
        ...

    def ask_to_remove(self, member: str, callback: Any) -> None:
        """Ask for a member to be taken out."""
        ...


class NullPoller:
    """Stand in for the library's poller: our transport lives on the event loop."""

    def poll(self, timeout: float) -> None:
        """Wait for nothing."""
        ...


class Library(SyncObj):
    """The library's node: the state that it keeps, under plain names."""

    handler: Handler

    def __init__(  # noqa: PLR0917 the library's own order
        self,
        selfNode: Node | str,
        otherNodes: Iterable[Node | str],
        conf: SyncObjConf | None = None,
        consumers: Any = None,
        nodeClass: type[Node] = Node,
        transport: Transport | None = None,
    ) -> None:
        conf = conf or SyncObjConf()
        _check(conf, transport)
        # Its constructor looks at every attribute of this class, properties included, before it has
        # set all of its own.
        self._SyncObj__newAppendEntriesTime = 0.0
        self._SyncObj__commandsQueue = None
        self._SyncObj__commandsWaitingCommit, self._SyncObj__commandsWaitingReply = {}, {}
        # The library would open its own journal and a wake-up pipe that nothing drains
        # (HAZ-13): neither is wanted, so its constructor sees a configuration without them.
        paths, conf.journalFile, conf.appendEntriesUseBatch = conf.journalFile, None, True
        try:
            super().__init__(selfNode, tuple(otherNodes), conf, consumers, nodeClass, transport)
        finally:
            conf.journalFile, conf.appendEntriesUseBatch = paths, False
        self._poller = NullPoller()
        self._SyncObj__needLoadDumpFile = False

    # -------------------------------------------------------------- who it is, and whom it is given

    @property
    def transport(self) -> Transport:
        """What carries messages."""
        return self._SyncObj__transport

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        """Hand a message to the transport; False: it took nothing."""
        return self._SyncObj__transport.send(node, message) is not False

    @property
    def connected_nodes(self) -> set[Node]:
        """Who is connected now; the set itself."""
        return self._SyncObj__connectedNodes

    @property
    def first_peers(self) -> tuple[Node, ...]:
        """Return the other members that it was given, by id."""
        return tuple(sorted(self._SyncObj__otherNodes, key=lambda node: node.id))

    def make_node(self, member: str, address: str | None = None) -> Node:
        """Return a node that stands for a member."""
        if address is None:
            return self._SyncObj__nodeClass(member)
        return self._SyncObj__nodeClass(member, address=address)

    def set_members(self, voters: Iterable[Node], others: Iterable[Node]) -> None:
        """Say whom the library's own status counts."""
        self._SyncObj__otherNodes, self._SyncObj__readonlyNodes = set(voters), set(others)

    # -------------------------------------------------------------------- role, term, vote and timer

    @property
    def state(self) -> int:
        """FOLLOWER, CANDIDATE or LEADER."""
        return self._SyncObj__raftState

    @state.setter
    def state(self, state: int) -> None:
        self._SyncObj__setState(state)

    @property
    def leads(self) -> bool:
        """Say whether this member leads."""
        return self._SyncObj__raftState == LEADER

    @property
    def term(self) -> int:
        """The newest term that it knows."""
        return self._SyncObj__raftCurrentTerm

    @property
    def voted_for(self) -> str | None:
        """Who has its vote in that term."""
        return self._SyncObj__votedForNodeId

    def load_term(self, term: int, voted_for: str | None) -> None:
        """Take what the disk has; nothing is stored."""
        self._SyncObj__raftCurrentTerm, self._SyncObj__votedForNodeId = term, voted_for

    def store_term(self, term: int, voted_for: str | None) -> None:
        """Change both, durably: it blocks for as long as the disk takes."""
        self._SyncObj__setCurrentTerm(term, voted_for)

    @property
    def leader(self) -> Node | None:
        """Who leads that term, as far as it knows."""
        return self._SyncObj__raftLeader

    @leader.setter
    def leader(self, leader: Node | None) -> None:
        self._SyncObj__raftLeader = leader

    @property
    def election_deadline(self) -> float:
        """When it stands if it hears of no leader."""
        return self._SyncObj__raftElectionDeadline

    @election_deadline.setter
    def election_deadline(self, deadline: float) -> None:
        self._SyncObj__raftElectionDeadline = deadline

    # ---------------------------------------------------------------------------------------- the log

    @property
    def journal(self) -> DurableLog:
        """The log as it is kept."""
        journal: DurableLog = self._SyncObj__raftLog
        return journal

    @journal.setter
    def journal(self, journal: DurableLog) -> None:
        self._SyncObj__raftLog = journal

    @property
    def commit_index(self) -> int:
        """The last entry that is known to be committed."""
        return self._SyncObj__raftCommitIndex

    @commit_index.setter
    def commit_index(self, index: int) -> None:
        self._SyncObj__raftCommitIndex = index

    @property
    def applied_index(self) -> int:
        """The last entry that the machine has."""
        return self._SyncObj__raftLastApplied

    @applied_index.setter
    def applied_index(self, index: int) -> None:
        self._SyncObj__raftLastApplied = index

    def entries(
        self, start: int, count: int | None = None, bytes_max: int | None = None
    ) -> list[Record]:
        """Return entries from index `start` on: at most `count`, and one more than fits."""
        return self._SyncObj__getEntries(start, count, bytes_max)

    def delete_from(self, index: int) -> None:
        """Drop the entries from an index on."""
        self._SyncObj__deleteEntriesFrom(index)

    def delete_to(self, index: int) -> None:
        """Let the log begin at `index`."""
        self._SyncObj__deleteEntriesTo(index)

    # ----------------------------------------------------------------------- what a leader keeps

    @property
    def next_index(self) -> dict[Node, int]:
        """Which entry each peer is sent next."""
        return self._SyncObj__raftNextIndex

    @next_index.setter
    def next_index(self, indexes: dict[Node, int]) -> None:
        self._SyncObj__raftNextIndex = indexes

    @property
    def match_index(self) -> dict[Node, int]:
        """Up to where each peer is known to hold our log durably."""
        return self._SyncObj__raftMatchIndex

    @match_index.setter
    def match_index(self, indexes: dict[Node, int]) -> None:
        self._SyncObj__raftMatchIndex = indexes

    @property
    def last_response(self) -> dict[Node, float]:
        """When each peer last answered."""
        return self._SyncObj__lastResponseTime

    @last_response.setter
    def last_response(self, moments: dict[Node, float]) -> None:
        self._SyncObj__lastResponseTime = moments

    @property
    def no_op_index(self) -> int | None:
        """Where the own term begins in the log; None: it does not lead."""
        return self._SyncObj__noopIDx

    @no_op_index.setter
    def no_op_index(self, index: int | None) -> None:
        self._SyncObj__noopIDx = index

    @property
    def heartbeat_due(self) -> float:
        """When the next heartbeat goes out."""
        return self._SyncObj__newAppendEntriesTime

    @heartbeat_due.setter
    def heartbeat_due(self, moment: float) -> None:
        self._SyncObj__newAppendEntriesTime = moment

    # ------------------------------------------------------------------------------------- commands

    @property
    def queue(self) -> Any:
        """The library's bounded queue of (command, callback)."""
        return self._SyncObj__commandsQueue

    @property
    def waiting_commit(self) -> dict[int, list[tuple[int, Callback]]]:
        """The callbacks that wait for an entry, with the term that it must be of, by index."""
        return self._SyncObj__commandsWaitingCommit

    @property
    def waiting_reply(self) -> dict[int, tuple[Node, Callback]]:
        """The forwarded commands that are not answered: to whom each went, by request."""
        return self._SyncObj__commandsWaitingReply

    @property
    def compaction_forced(self) -> bool:
        """A snapshot is asked for, however little the log has grown."""
        return self._SyncObj__forceLogCompaction

    @compaction_forced.setter
    def compaction_forced(self, forced: bool) -> None:
        self._SyncObj__forceLogCompaction = forced

    # --------------------------------------------------------------- the library's steps, handed on

    def _onTick(self, timeToWait: float = 0.0) -> None:
        self.handler.on_tick()

    def _SyncObj__onMessageReceived(self, node: Node, message: dict[str, Any]) -> None:
        self.handler.on_message(node, message)

    def _SyncObj__onNodeConnected(self, node: Node) -> None:
        self.handler.on_connected(node)

    def _SyncObj__onNodeDisconnected(self, node: Node) -> None:
        self.handler.on_disconnected(node)

    def _SyncObj__onReadonlyNodeConnected(self, node: Node) -> None:
        self.handler.on_connected(node)

    def _SyncObj__onReadonlyNodeDisconnected(self, node: Node) -> None:
        self.handler.on_disconnected(node)

    def _applyCommand(self, command: bytes, callback: Any, commandType: int | None = None) -> None:
        if commandType is not None:
            command = bytes([commandType]) + command
        self.handler.submit(command, callback)

    def addNodeToCluster(self, node: Node | str, callback: Any = None) -> None:
        """Ask for a member to be taken in, as the library is asked."""
        member = node.id if isinstance(node, Node) else node
        self.handler.ask_to_add(member, getattr(node, "address", member), callback)

    def removeNodeFromCluster(self, node: Node | str, callback: Any = None) -> None:
        """Ask for a member to be taken out, as the library is asked."""
        self.handler.ask_to_remove(node.id if isinstance(node, Node) else node, callback)

    def setCodeVersion(self, newVersion: int, callback: Any = None) -> None:
        """Refuse: the order of commands has no such kind."""
        raise NotImplementedError("feature levels are ordinary commands (HAZ-4)")

    # ----------------------------------------------------------- the library's steps, taken elsewhere

    def _SyncObj__generateRaftTimeout(self) -> float:
        """Its constructor asks for one; the timer is set with our own clock and rng afterwards."""
        return 0.0

    def _elsewhere(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse a step that a part of the core takes in its own way. Nothing leads here: if a call
        of the library's comes to it all the same, it must not lose what the core keeps.
        """
        raise NotImplementedError("a part of the core takes this step")

    _SyncObj__applyLogEntries = _elsewhere
    _SyncObj__callErrCallback = _elsewhere
    _SyncObj__doApplyCommand = _elsewhere
    _SyncObj__onBecomeLeader = _elsewhere
    _SyncObj__onLeaderChanged = _elsewhere
    _SyncObj__sendAppendEntries = _elsewhere
    _SyncObj__tryLogCompaction = _elsewhere
    _checkCommandsToApply = _elsewhere
    transferLeadership = _elsewhere


def _check(conf: SyncObjConf, transport: Transport | None) -> None:
    if transport is None:
        raise ValueError("a transport must be given")
    if conf.autoTick:
        raise ValueError("autoTick must be off: the event loop drives the ticks")
    if conf.journalFile is not None and conf.fullDumpFile is None:
        raise ValueError("a journal without a dump file loses everything at its first compaction")
