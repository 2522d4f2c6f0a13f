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
        """Order what the library is asked for: `command` begins with its kind."""

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
    """The library's node: the state that it keeps, under plain names (`PRIVATE`).

    What it keeps is kept under the plain names, so that whoever reads them pays for no detour; the
    library's own code finds it there by its private ones.
    """

    handler: Handler

    transport: Transport
    """What carries messages."""
    connected_nodes: set[Node]
    """Who is connected now."""

    state: int
    """FOLLOWER, CANDIDATE or LEADER; see `set_state`."""
    term: int
    """The newest term that this member knows; see `store_term`."""
    voted_for: str | None
    """Who has its vote in that term."""
    leader: Node | None
    """Who leads that term, as far as it knows."""
    election_deadline: float
    """When it stands if it hears of no leader."""

    journal: DurableLog
    commit_index: int
    """The last entry that is known to be committed."""
    applied_index: int
    """The last entry that the machine has."""

    next_index: dict[Node, int]
    """Which entry a leader sends each peer next."""
    match_index: dict[Node, int]
    """Up to where each peer is known to hold a leader's log durably."""
    last_response: dict[Node, float]
    """When each peer last answered."""
    no_op_index: int | None
    """Where a leader's term begins in the log; None: this member does not lead."""
    heartbeat_due: float
    """When the next heartbeat goes out."""

    queue: Any
    """The library's bounded queue of (command, who asked)."""
    waiting_commit: dict[int, list[tuple[int, Callback]]]
    """The callbacks that wait for an entry, with the term that it must be of, by index."""
    waiting_reply: dict[int, tuple[Node, Callback]]
    """The forwarded commands that are not answered: to whom each went, by request."""
    compaction_forced: bool
    """A snapshot is asked for, however little the log has grown."""

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

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        """Hand a message to the transport; False: it took nothing."""
        return self.transport.send(node, message) is not False

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

    # -------------------------------------------------------------------------- role, term and vote

    @property
    def leads(self) -> bool:
        """Say whether this member leads."""
        return self.state == LEADER

    def set_state(self, state: int) -> None:
        """Change the role, and notify whoever asked the library for that."""
        self._SyncObj__setState(state)

    def load_term(self, term: int, voted_for: str | None) -> None:
        """Take what the disk has; nothing is stored."""
        self.term, self.voted_for = term, voted_for

    def store_term(self, term: int, voted_for: str | None) -> None:
        """Change both, durably: it blocks for as long as the disk takes."""
        self._SyncObj__setCurrentTerm(term, voted_for)

    # -------------------------------------------------------------------------------------- the log

    def delete_from(self, index: int) -> None:
        """Drop the entries from an index on."""
        self._SyncObj__deleteEntriesFrom(index)

    def delete_to(self, index: int) -> None:
        """Let the log begin at `index`."""
        self._SyncObj__deleteEntriesTo(index)

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

    # --------------------------------------------------------- the library's steps, taken elsewhere

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


PRIVATE: Final = {
    "_SyncObj__transport": "transport",
    "_SyncObj__connectedNodes": "connected_nodes",
    "_SyncObj__raftState": "state",
    "_SyncObj__raftCurrentTerm": "term",
    "_SyncObj__votedForNodeId": "voted_for",
    "_SyncObj__raftLeader": "leader",
    "_SyncObj__raftElectionDeadline": "election_deadline",
    "_SyncObj__raftLog": "journal",
    "_SyncObj__raftCommitIndex": "commit_index",
    "_SyncObj__raftLastApplied": "applied_index",
    "_SyncObj__raftNextIndex": "next_index",
    "_SyncObj__raftMatchIndex": "match_index",
    "_SyncObj__lastResponseTime": "last_response",
    "_SyncObj__noopIDx": "no_op_index",
    "_SyncObj__newAppendEntriesTime": "heartbeat_due",
    "_SyncObj__commandsQueue": "queue",
    "_SyncObj__commandsWaitingCommit": "waiting_commit",
    "_SyncObj__commandsWaitingReply": "waiting_reply",
    "_SyncObj__forceLogCompaction": "compaction_forced",
}
"""The plain name of what the library keeps under a private one."""


def _other_name(plain: str) -> Any:
    """Return a property that stands for the attribute of that name.

    The library's constructor looks at every attribute before it has set all of them: then it is
    None.
    """
    return property(
        lambda node: vars(node).get(plain), lambda node, value: setattr(node, plain, value)
    )


for _private, _plain in PRIVATE.items():
    setattr(Library, _private, _other_name(_plain))


def _check(conf: SyncObjConf, transport: Transport | None) -> None:
    if transport is None:
        raise ValueError("a transport must be given")
    if conf.autoTick:
        raise ValueError("autoTick must be off: the event loop drives the ticks")
    if conf.journalFile is not None and conf.fullDumpFile is None:
        raise ValueError("a journal without a dump file loses everything at its first compaction")
