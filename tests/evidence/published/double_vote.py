# ruff: noqa
# mypy: ignore-errors
# fmt: off
"""Without a journal one voter elects two leaders in the same term.

Term and vote live in memory only.  B votes for A, restarts, has forgotten it,
and votes for C in the same term.  A and C both lead term 1 of a 3-node cluster.
With journalFile the vote survives a restart of the process.

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
    try:
        for n in 'ABC':
            Store(net, n, [p for p in 'ABC' if p != n])
    except (AssertionError, ValueError) as e:
        print('configuration refused:', repr(e))
        return 0
    A, C = net.nodes['A'], net.nodes['C']
    # both election timers fire: two candidates in term 1
    for o in (A, C):
        o._SyncObj__raftElectionDeadline = 0
        o.doTick(0)
    for _ in range(3):
        net.deliver('A', 'B'); net.deliver('B', 'A'); A.doTick(0)
    print('A leads term', A.raftCurrentTerm, A._isLeader())
    if not A._isLeader():
        print('setup failed'); return 2
    net.queue['A', 'B'].clear()                          # A's connection to B breaks as B restarts
    Store(net, 'B', 'AC')                                # B is back, with an empty memory
    # the request of C was slower and arrives only now
    for _ in range(3):
        net.deliver('C', 'B'); net.deliver('B', 'C'); C.doTick(0)
    print('C leads term', C.raftCurrentTerm, C._isLeader())
    both = A._isLeader() and C._isLeader() and A.raftCurrentTerm == C.raftCurrentTerm
    print('TWO LEADERS in one term:', both)
    return 1 if both else 0


if __name__ == '__main__':
    sys.exit(main())
