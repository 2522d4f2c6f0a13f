# ruff: noqa
# mypy: ignore-errors
# fmt: off
"""A superseded leader keeps leading and serves old data.

The link A-C is cut, A-B and B-C work.  C is elected in term 2 with B's vote,
although B heard leader A a moment ago.  B drops A's term-1 heartbeats without
an answer, so A never learns about term 2: it stays leader until
leaderFallbackTimeout (default 30 s) and a local read on it returns a value
that has already been overwritten.  A read lease based on recent acks would not
have helped: B acked A's heartbeat just before it voted for C.

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

    def elect(self, name, voters, forget=True):
        # hook for classes with pre-vote or vote stickiness
        for n in [name, *voters] if forget else []:
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

    def talk(links, rounds):
        for _ in range(rounds):
            for o in net.nodes.values():
                o._SyncObj__newAppendEntriesTime = 0     # heartbeat timer
                o.doTick(0)
            for x, y in links:
                net.deliver(x, y); net.deliver(y, x)

    net.elect('A', 'BC')
    A.put('x', 1)
    talk(['AB', 'AC', 'BC'], 6)
    print('everyone has x =', [o.data.get('x') for o in (A, B, C)])
    talk(['AB'], 2)                                      # B has just acknowledged A's heartbeat
    net.elect('C', 'B', forget=False)
    acked = []
    C.put('x', 2, callback=lambda r, e: e == 0 and acked.append(2))
    talk(['BC'], 6)
    print('C leads term', C.raftCurrentTerm, C._isLeader(), '| client was told x = 2 is stored:', acked == [2])
    # vote stickiness or pre-vote refuses this election
    if not C._isLeader():
        print('C could not take over while B hears from A'); return 0
    if acked != [2]:
        print('setup failed: the write through C was not acknowledged'); return 2
    talk(['AB', 'BC'], 20)
    print('after 20 more heartbeat rounds between A and B: A leads term', A.raftCurrentTerm, A._isLeader(),
          '| local read on A: x =', A.data['x'])
    stale = A._isLeader() and A.data['x'] != 2
    print('STALE leader serves old data:', stale)
    return 1 if stale else 0


if __name__ == '__main__':
    sys.exit(main())
