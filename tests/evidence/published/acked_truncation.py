# ruff: noqa
# mypy: ignore-errors
# fmt: off
"""Writes acknowledged to the client are lost after one leader crash.

No disk, process or clock fault is involved.  The leader rewinds its send
position on every advancing ack and sends entries again; the follower deletes
its log tail for every message whose prevLogIdx is below its last index, even
when the tail matches.  Between two re-sent messages the follower holds less
than it has acknowledged.  If the leader dies in that window, the acknowledged
tail is gone.

Every message delivered here is one that an unmodified node produced, in
per-link order.  Messages are lost only on the links of the crashed leader.

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
        self.net.queue[self.me, node.id].append(pickle.dumps(message))
        return True


class Net:
    def __init__(self):
        self.queue = collections.defaultdict(collections.deque)
        self.nodes = {}

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
        def __init__(self, net, me, peers):
            # Timers are fired by hand, so all timeouts are out of the way.
            conf = SyncObjConf(autoTick=False, appendEntriesUseBatch=False, appendEntriesPeriod=100,
                               raftMinTimeout=1000, raftMaxTimeout=1001, connectionTimeout=2000,
                               leaderFallbackTimeout=10000)
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


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument('--base', default='pysyncobj:SyncObj', help='module:Class tested instead of the stock SyncObj')
    module, name = ap.parse_args().base.split(':')
    Store = make(getattr(importlib.import_module(module), name))
    logging.basicConfig(level=logging.ERROR + 20)
    print('pysyncobj', pysyncobj.syncobj.VERSION, '| class under test', module + ':' + name)

    net = Net()
    for n in 'ABC':
        Store(net, n, [p for p in 'ABC' if p != n])
    A, B, C = (net.nodes[n] for n in 'ABC')
    net.elect('A', 'B')                                  # C is slow: nothing reaches it for now
    net.deliver('A', 'B'); net.deliver('B', 'A'); A.doTick(0); net.deliver('A', 'B'); net.deliver('B', 'A')
    if not A._isLeader():
        print('setup failed: A is not leader'); return 2

    acked = []
    for i in range(1, 7):                                # two such entries fill one 64 KiB batch
        A.put('k%d' % i, 'x' * 40000, callback=lambda r, e, i=i: e == 0 and acked.append('k%d' % i))
    A.doTick(0)                                          # six messages leave A, one entry each
    # first entry reaches B, first ack reaches A
    net.deliver('A', 'B', 1); net.deliver('B', 'A', 1)
    # A commits it, rewinds, sends the rest again
    A.doTick(0)
    net.deliver('A', 'B', 5); net.deliver('B', 'A')      # B stores and acknowledges all six
    A.doTick(0)
    top = B.last_index()
    print('acknowledged to the client by leader A:', acked, '| B holds the log up to', top)
    if len(acked) != 6:
        print('setup failed: not all writes were acknowledged'); return 2

    net.deliver('A', 'B', 1)                             # first re-sent message
    print('B after one re-sent message: log up to', B.last_index())

    # A and everything in flight from or to it is gone
    for pair in list(net.queue):
        if 'A' in pair:
            net.queue[pair].clear()
    net.elect('B', 'C')
    for _ in range(10):
        B._SyncObj__newAppendEntriesTime = 0             # heartbeat
        B.doTick(0); net.deliver('B', 'C'); C.doTick(0); net.deliver('C', 'B')
    if not B._isLeader():
        print('setup failed: B was not elected'); return 2
    print('new leader B has', sorted(B.data), '| C has', sorted(C.data))
    lost = [k for k in acked if k not in B.data or k not in C.data]
    print('LOST acknowledged writes:', lost)
    return 1 if lost else 0


if __name__ == '__main__':
    sys.exit(main())
