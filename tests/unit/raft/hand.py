"""Drive nodes by hand, the library's or ours: no loop, one FIFO per directed pair, timers fired
when the test says so.

Only messages that a node really produced are delivered, in order; they are lost only on links that
the test cuts.
"""

from __future__ import annotations

import copy
from collections import defaultdict, deque
from pathlib import Path
from typing import Any

from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from tests.evidence import base

STOCK = SyncObj
OURS = base.Core


class Hand(Transport):
    def __init__(self, net: Net, me: str) -> None:
        super().__init__(None, None, None)
        self.net, self.me = net, me

    def send(self, node: Node, message: Any) -> bool:
        if frozenset((self.me, node.id)) in self.net.cut:
            return False
        self.net.queues[self.me, node.id].append(copy.deepcopy(message))
        return True


class Net:
    """Nodes and what is on its way between them."""

    def __init__(
        self, base: type[SyncObj], names: str = "ABC", folder: Path | None = None, **conf: Any
    ) -> None:
        self.queues: defaultdict[tuple[str, str], deque[Any]] = defaultdict(deque)
        self.cut: set[frozenset[str]] = set()
        self.base, self.names = base, names
        self.folder, self.conf = folder, conf
        self.kind = _store(base)
        self.nodes: dict[str, Any] = {}
        for name in names:
            self.start(name)

    def start(self, name: str) -> Any:
        conf: dict[str, Any] = {
            "autoTick": False,
            "appendEntriesUseBatch": False,
            "appendEntriesPeriod": 100,
            "raftMinTimeout": 1000,
            "raftMaxTimeout": 1001,
            "connectionTimeout": 2000,
            "leaderFallbackTimeout": 10000,
            "logCompactionMinEntries": 10**6,
            "logCompactionMinTime": 10**6,
            "useFork": False,
            **self.conf,
        }
        if self.folder is not None:
            conf["journalFile"] = str(self.folder / f"{name}.journal")
            conf["fullDumpFile"] = str(self.folder / f"{name}.dump")
        link, peers = Hand(self, name), [p for p in self.names if p != name]
        node = self.kind(
            Node(name),
            [Node(p) for p in peers],
            SyncObjConf(**conf),
            nodeClass=Node,
            transport=link,
        )
        self.nodes[name] = node
        for peer in peers:
            link._onNodeConnected(Node(peer))
        return node

    def __getitem__(self, name: str) -> Any:
        return self.nodes[name]

    def deliver(self, src: str, dst: str, count: int = 1000) -> None:
        queue = self.queues[src, dst]
        while queue and count:
            count -= 1
            self.nodes[dst]._SyncObj__transport._onMessageReceived(Node(src), queue.popleft())

    def lose(self, a: str, b: str) -> None:
        self.queues[a, b].clear()
        self.queues[b, a].clear()

    def connect(self, a: str, b: str, up: bool) -> None:
        (self.cut.discard if up else self.cut.add)(frozenset((a, b)))
        self.lose(a, b)
        for x, y in ((a, b), (b, a)):
            link = self.nodes[x]._SyncObj__transport
            (link._onNodeConnected if up else link._onNodeDisconnected)(Node(y))

    def elect(self, name: str, voters: str, *, forget: bool = True) -> None:
        for n in name + voters if forget else "":
            getattr(self.nodes[n], "forget_leader", int)()
        node = self.nodes[name]
        node._SyncObj__raftElectionDeadline = 0
        node.doTick(0)
        for _ in range(4):
            for voter in voters:
                self.deliver(name, voter)
                self.deliver(voter, name)
            node.doTick(0)

    def heartbeat(self, leader: str, followers: str, rounds: int = 1) -> None:
        node = self.nodes[leader]
        for _ in range(rounds):
            node._SyncObj__newAppendEntriesTime = 0
            node.doTick(0)
            for follower in followers:
                self.deliver(leader, follower)
                self.deliver(follower, leader)
                self.nodes[follower].doTick(0)
            node.doTick(0)

    def last(self, name: str) -> int:
        return int(self.nodes[name]._SyncObj__raftLog[-1][1])

    def put(self, name: str, key: str, value: Any, acknowledged: list[str] | None = None) -> None:
        def told(result: Any, error: int) -> None:
            if error == 0 and acknowledged is not None:
                acknowledged.append(key)

        self.nodes[name].put(key, value, callback=told)


def _store(base: type[SyncObj]) -> Any:
    class Store(base):  # type: ignore[valid-type,misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.data: dict[str, Any] = {}
            self.total = 0

        @replicated
        def put(self, key: str, value: Any) -> None:
            self.data[key] = value

        @replicated
        def add(self, n: int) -> int:
            self.total += n
            return self.total

        @replicated
        def poison(self) -> None:
            self.total += 1000
            raise ValueError("bad input")

    return Store
