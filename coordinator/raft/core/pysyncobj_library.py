"""Offer PySyncObj's node under plain, typed names, and hand each of its steps to a handler.

No other module touches the library's private names. This one never decides anything, and never lets
the library take a step of its own: every unsafe step (docs/pysyncobj-hazards.md) is either passed
to the handler or refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NoReturn, Protocol, TypeAlias

from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.syncobj import _COMMAND_TYPE, _RAFT_STATE
from pysyncobj.transport import Transport
from pysyncobj.version import VERSION

from coordinator.raft.core.durable_log import DurableLog

if VERSION != "0.3.17":
    raise ImportError(
        f"pysyncobj must be exactly 0.3.17, whose private steps are replaced here; found {VERSION}"
    )

FOLLOWER: Final = _RAFT_STATE.FOLLOWER
CANDIDATE: Final = _RAFT_STATE.CANDIDATE
LEADER: Final = _RAFT_STATE.LEADER
REGULAR: Final = bytes([_COMMAND_TYPE.REGULAR])
NO_OP: Final = bytes([_COMMAND_TYPE.NO_OP])
STAMP_BYTES: Final = 8
"""Bytes of the leader's stamp, between a regular entry's kind and its command."""
MEMBERSHIP: Final = bytes([_COMMAND_TYPE.MEMBERSHIP])

SUCCESS: Final = FAIL_REASON.SUCCESS
QUEUE_FULL: Final = FAIL_REASON.QUEUE_FULL
MISSING_LEADER: Final = FAIL_REASON.MISSING_LEADER
DISCARDED: Final = FAIL_REASON.DISCARDED
NOT_LEADER: Final = FAIL_REASON.NOT_LEADER
REQUEST_DENIED: Final = FAIL_REASON.REQUEST_DENIED
UNKNOWN_OUTCOME: Final = FAIL_REASON.UNKNOWN_OUTCOME

Callback: TypeAlias = Callable[[Any, int], object]
"""Called once with (result, reason), the library's own signature."""


class MemberNode(Node):
    """A node whose id and hash are attributes: they are asked for with every message."""

    __slots__ = ("_hash", "id")

    def __init__(self, id: str, **more: Any) -> None:
        object.__setattr__(self, "id", id)
        self._hash = hash(id)
        super().__init__(id, **more)

    def __hash__(self) -> int:
        return self._hash


class Handler(Protocol):
    """The receiver of the steps that the library would otherwise take itself."""

    def tick(self) -> None:
        """Do the work that time and messages have made due."""
        ...

    def on_message(self, node: Node, message: dict[str, Any]) -> None:
        """Handle a message from a peer."""
        ...

    def on_connected(self, node: Node) -> None:
        """Handle a new connection; it may replace one whose end was not reported."""
        ...

    def on_disconnected(self, node: Node) -> None:
        """Handle the end of a connection."""
        ...

    def submit(self, command: bytes, callback: Any) -> None:
        """Order a command that was handed to the library; its first byte is its kind."""

    def ask_to_add(self, member: str, address: str, callback: Any) -> None:
        """Ask for a member to be added."""
        ...

    def ask_to_remove(self, member: str, callback: Any) -> None:
        """Ask for a member to be removed."""
        ...


class NullPoller:
    """A stand-in for the library's poller: our transport uses the event loop instead."""

    def poll(self, timeout: float) -> None:
        """Return at once."""
        ...


class Library(SyncObj):
    """The library's node, with its private state under plain names (`PRIVATE`).

    The values are stored under the plain names, so that our code reads them as ordinary attributes.
    The library's code reaches them through properties that have its private names.
    """

    handler: Handler

    transport: Transport
    """The transport that carries messages."""
    connected_nodes: set[Node]
    """The nodes that are connected now."""

    leads: bool
    """Whether this member leads; it follows `state`."""
    term: int
    """The newest term that this member knows; see `store_term`."""
    voted_for: str | None
    """The id of the member that has our vote in that term; None: nobody."""
    leader: Node | None
    """The leader of that term, as far as this member knows."""
    election_deadline: float
    """Monotonic time at which this member stands for election unless it hears from a leader."""

    journal: DurableLog
    commit_index: int
    """The index of the last entry that is known to be committed."""
    applied_index: int
    """The index of the last entry that the machine has applied."""

    next_index: dict[Node, int]
    """As leader: the index of the next entry to send to each peer."""
    match_index: dict[Node, int]
    """As leader: the index up to which each peer is known to hold our log durably."""
    last_response: dict[Node, float]
    """As leader: the monotonic time of each peer's last answer."""
    no_op_index: int | None
    """The index of the no-op that began the leader's term; None: this member does not lead."""
    heartbeat_due: float
    """Monotonic time at which the next heartbeat is due."""

    queue: Any
    """The library's bounded queue of (command, asker)."""
    waiting_commit: dict[int, list[tuple[int, Callback]]]
    """By index: the callbacks that wait for that entry, each with the term the entry must have."""
    waiting_reply: dict[int, tuple[Node, Callback]]
    """By request: the node that a command was forwarded to, and the callback that waits."""
    compaction_forced: bool
    """Whether a snapshot is requested no matter how little the log has grown."""

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
        # The library would open its own journal, and a wake-up pipe that nothing drains (HAZ-13).
        # Its constructor therefore sees a configuration that asks for neither.
        paths, conf.journalFile, conf.appendEntriesUseBatch = conf.journalFile, None, True
        try:
            super().__init__(selfNode, tuple(otherNodes), conf, consumers, nodeClass, transport)
        finally:
            conf.journalFile, conf.appendEntriesUseBatch = paths, False
        self._poller = NullPoller()
        self._SyncObj__needLoadDumpFile = False

    # -------------------------------------------------------------- who it is, and whom it is given

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        """Hand a message to the transport; return False if it did not take the message."""
        return self.transport.send(node, message) is not False

    @property
    def first_peers(self) -> tuple[Node, ...]:
        """The other members that the constructor was given, sorted by id."""
        return tuple(sorted(self._SyncObj__otherNodes, key=lambda node: node.id))

    def make_node(self, member: str, address: str | None = None) -> Node:
        """Return a node that stands for a member."""
        if address is None:
            return self._SyncObj__nodeClass(member)
        return self._SyncObj__nodeClass(member, address=address)

    def set_members(self, voters: Iterable[Node], others: Iterable[Node]) -> None:
        """Set the members that the library's own status reports."""
        self._SyncObj__otherNodes, self._SyncObj__readonlyNodes = set(voters), set(others)

    # -------------------------------------------------------------------------- role, term and vote

    @property
    def state(self) -> int:
        """FOLLOWER, CANDIDATE or LEADER; see `set_state`."""
        return self._state

    @state.setter
    def state(self, state: int) -> None:
        self._state, self.leads = state, state == LEADER

    def set_state(self, state: int) -> None:
        """Change the role, and notify the library's listeners of role changes."""
        self._SyncObj__setState(state)

    def load_term(self, term: int, voted_for: str | None) -> None:
        """Set term and vote to what the disk has, without storing them."""
        self.term, self.voted_for = term, voted_for

    def store_term(self, term: int, voted_for: str | None) -> None:
        """Change term and vote, durably; this blocks for as long as the disk takes."""
        self._SyncObj__setCurrentTerm(term, voted_for)

    # -------------------------------------------------------------------------------------- the log

    def delete_from(self, index: int) -> None:
        """Drop the entries from `index` on."""
        self._SyncObj__deleteEntriesFrom(index)

    def delete_to(self, index: int) -> None:
        """Drop the entries before `index`, so that the log begins there."""
        self._SyncObj__deleteEntriesTo(index)

    # --------------------------------------------------------------- the library's steps, handed on

    def _onTick(self, timeToWait: float = 0.0) -> None:
        self.handler.tick()

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
        """Ask for a member to be added, through the library's interface."""
        member = node.id if isinstance(node, Node) else node
        self.handler.ask_to_add(member, getattr(node, "address", member), callback)

    def removeNodeFromCluster(self, node: Node | str, callback: Any = None) -> None:
        """Ask for a member to be removed, through the library's interface."""
        self.handler.ask_to_remove(node.id if isinstance(node, Node) else node, callback)

    def setCodeVersion(self, newVersion: int, callback: Any = None) -> None:
        """Refuse: the log has no entries of this kind."""
        raise NotImplementedError("feature levels are ordinary commands (HAZ-4)")

    # --------------------------------------------------------- the library's steps, taken elsewhere

    def _SyncObj__generateRaftTimeout(self) -> float:
        """Return 0: the library's constructor asks, and `ElectionTimer` sets the real time-out."""
        return 0.0

    def _elsewhere(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse a step that a part of the core takes in its own way. No known path leads here; if
        the library calls it after all, going on could lose entries that the core keeps.
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
"""The plain name of each private attribute of the library."""


def _other_name(plain: str) -> Any:
    """Return a property that reads and writes the attribute `plain`.

    It is None while the attribute is not set: the library's constructor inspects every attribute
    before all of them are set.
    """
    return property(
        lambda node: getattr(node, plain, None), lambda node, value: setattr(node, plain, value)
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
