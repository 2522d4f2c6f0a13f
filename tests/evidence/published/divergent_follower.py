# ruff: noqa
# mypy: ignore-errors
# fmt: off
"""A follower with one stale entry never rejoins; the cluster cannot commit.

After a mismatch the leader sends everything from the new position in batches.
The follower answers every batch: "go back" for the first one, "continue at my
last index + 1" for the others, whose predecessor it lacks.  The last answer
wins, so the position returns to where it was and the exchange repeats for ever
as soon as the leader is more than one batch (default 64 KiB) ahead.  With the
other node down, leader and follower are a majority that commits nothing.

With a batch larger than the distance the follower heals, but it needs one
heartbeat for each stale entry.

Exit status: 1 hazard shown, 0 not shown, 2 scenario could not be set up.
"""
import argparse
import collections
import importlib
import logging
import pickle
import sys

import pysyncobj
from pysyncobj import SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport


class Link(Transport):
    """One FIFO per directed pair of nodes; the script delivers by hand."""

    def __init__(self, net, me):
        super().__init__(None, None, None)
        self.net, self.me = net, me

    def send(self, node, message):
        if frozenset((self.me, node.id)) in self.net.down:
            return False
        self.net.queue[self.me, node.id].append(pickle.dumps(message))
        return True


class Net:
    def __init__(self):
        self.queue = collections.defaultdict(collections.deque)
        self.nodes = {}
        self.down = set()

    def connect(self, a, b, up):
        """Both ends see the connection go down (what is in flight is lost) or come up."""
        (self.down.discard if up else self.down.add)(frozenset((a, b)))
        for x, y in ((a, b), (b, a)):
            self.queue[x, y].clear()
            link = self.nodes[x]._SyncObj__transport
            (link._onNodeConnected if up else link._onNodeDisconnected)(Node(y))

    def deliver(self, src, dst, count=1000):
        q = self.queue[src, dst]
        while q and count:
            count -= 1
            self.nodes[dst]._SyncObj__transport._onMessageReceived(Node(src), pickle.loads(q.popleft()))

    def elect(self, name, voters):
        # hook for classes with pre-vote or vote stickiness
        for n in [name, *voters]:
            getattr(self.nodes[n], 'forget_leader', int)()
        node = self.nodes[name]
        node._SyncObj__raftElectionDeadline = 0          # its election timer fires
        node.doTick(0)
        for _ in range(4):
            for v in voters:
                self.deliver(name, v)
                self.deliver(v, name)
            node.doTick(0)


def make(base):
    class Store(base):
        def __init__(self, net, me, peers, batch):
            # Timers are fired by hand, so all timeouts are out of the way.
            conf = SyncObjConf(autoTick=False, appendEntriesUseBatch=False, appendEntriesPeriod=100,
                               raftMinTimeout=1000, raftMaxTimeout=1001, connectionTimeout=2000,
                               leaderFallbackTimeout=10000, appendEntriesBatchSizeBytes=batch)
            link = Link(net, me)
            net.nodes[me] = self
            super().__init__(Node(me), [Node(p) for p in peers], conf, nodeClass=Node, transport=link)
            for p in peers:
                link._onNodeConnected(Node(p))
            self.data = {}

        @replicated
        def put(self, key, value):
            self.data[key] = value

        def last_index(self):
            return self._SyncObj__raftLog[-1][1]

    return Store


def scenario(Store, batch, limit):
    """Returns heartbeats needed until the follower has caught up, None if it has not after
    `limit`.
    """
    net = Net()
    for n in 'ABC':
        Store(net, n, [p for p in 'ABC' if p != n], batch)
    A, B, C = (net.nodes[n] for n in 'ABC')

    def heartbeat(leader, *followers):
        net.nodes[leader]._SyncObj__newAppendEntriesTime = 0
        net.nodes[leader].doTick(0)
        for f in followers:
            net.deliver(leader, f)
            net.deliver(f, leader)
            net.nodes[f].doTick(0)

    net.elect('A', 'BC')
    for _ in range(3):
        heartbeat('A', 'B', 'C')
    for p in 'BC':
        # A is cut off with one entry nobody else has
        net.connect('A', p, False)
    A.put('stale', 0)
    A.doTick(0)
    net.elect('B', 'C')
    for i in range(100):
        B.put('k%d' % i, 'x' * 1000)
    for _ in range(4):
        heartbeat('B', 'C')
    if C.raftLastApplied != B.raftLastApplied or len(C.data) != 100:
        return -1
    for p in 'AC':
        net.connect('B', p, False)                       # B goes down, A comes back
    net.connect('A', 'C', True)
    net.elect('C', 'A')
    acked = []
    C.put('after', 1, callback=lambda r, e: acked.append(e))
    for n in range(1, limit + 1):
        heartbeat('C', 'A')
        if A.last_index() == C.last_index() and acked:
            break
    else:
        n = None
    print('batch', batch, '| C leads term', C.raftCurrentTerm, C._isLeader(), '| C ends at', C.last_index(),
          '| A ends at', A.last_index(), '| write through C answered:', acked,
          '| heartbeats:', n or 'gave up after %d' % limit)
    return n if C._isLeader() else -1


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument('--base', default='pysyncobj:SyncObj', help='module:Class tested instead of the stock SyncObj')
    module, name = ap.parse_args().base.split(':')
    Store = make(getattr(importlib.import_module(module), name))
    logging.basicConfig(level=logging.ERROR + 20)
    print('pysyncobj', pysyncobj.syncobj.VERSION, '| class under test', module + ':' + name)
    results = [scenario(Store, batch, 1000) for batch in (1 << 16, 4 << 20)]
    if -1 in results:
        print('setup failed'); return 2
    print('FOLLOWER NEVER REJOINS with the default batch size:', results[0] is None)
    return 1 if results[0] is None else 0


if __name__ == '__main__':
    sys.exit(main())
