# ruff: noqa
# mypy: ignore-errors
# fmt: off
"""A leader counts an acknowledgement that was produced in an earlier term.

The ack message (next_node_idx) carries an index and no term.  A node that led
term 1, lost leadership, had its tail replaced, and leads again in term 3
accepts a delayed term-1 ack as proof that the follower stores its new entries.
Here that commits and acknowledges three writes stored on 2 of 5 nodes; the
crash of those two nodes, which a 5-node cluster must survive, loses them.

Nothing is forged: every message delivered is one that an unmodified node
produced, in per-link order.  The only network faults are a partition that
heals and one slow direction (B to A).

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
    for n in 'ABCDE':
        Store(net, n, [p for p in 'ABCDE' if p != n])
    A, B, C, D, E = (net.nodes[n] for n in 'ABCDE')

    def heartbeats(leader, followers, rounds):
        for _ in range(rounds):
            net.nodes[leader]._SyncObj__newAppendEntriesTime = 0
            net.nodes[leader].doTick(0)
            for f in followers:
                net.deliver(leader, f)
                net.deliver(f, leader)
            net.nodes[leader].doTick(0)

    def lose(*pairs):
        for a, b in pairs:
            net.queue[a, b].clear()
            net.queue[b, a].clear()

    net.elect('A', 'BCDE')
    heartbeats('A', 'BCDE', 3)
    print('term', A.raftCurrentTerm, 'leader A, all logs end at', {n: o.last_index() for n, o in net.nodes.items()})

    # Partition {A, B} | {C, D, E}.  A stores eight entries, only B receives them.  From here B to A
    #   is slow.
    for i in range(8):
        A.put('old%d' % i, i)
    A.doTick(0)
    net.deliver('A', 'B')
    lose(*((x, y) for x in 'AB' for y in 'CDE'))
    print('A ends at', A.last_index(), '| B ends at', B.last_index(),
          '| acks under way from B:', len(net.queue['B', 'A']))

    # The other side elects C; the partition heals; A and B follow C and drop the eight uncommitted
    # entries.
    net.elect('C', 'DE')
    lose(*((x, y) for x in 'AB' for y in 'CDE'))
    heartbeats('C', 'ABDE', 12)
    print('term', C.raftCurrentTerm, 'leader C, all logs end at', {n: o.last_index() for n, o in net.nodes.items()})
    if len({o.last_index() for o in net.nodes.values()}) != 1:
        print('setup failed: logs did not converge'); return 2

    # A is elected again with the votes of C, D and E.  Only D is quick enough to store the new
    #   entries.
    net.elect('A', 'CDE')
    acked = []
    for i in range(3):
        A.put('new%d' % i, i, callback=lambda r, e, i=i: e == 0 and acked.append('new%d' % i))
    A.doTick(0)
    net.deliver('A', 'D'); net.deliver('D', 'A')
    A.doTick(0)
    ends = {n: o.last_index() for n, o in net.nodes.items()}
    print('term', A.raftCurrentTerm, 'leader A', A._isLeader(), '| logs end at', ends, '| acknowledged so far:', acked)
    print('matchIndex of B on A before the old acks:', A._SyncObj__raftMatchIndex[Node('B')])
    if not A._isLeader() or ends['B'] >= ends['A']:
        print('setup failed'); return 2

    net.deliver('B', 'A')                                # the term-1 acks arrive now
    A.doTick(0); A.doTick(0)
    print('matchIndex of B on A after the old acks:', A._SyncObj__raftMatchIndex[Node('B')],
          '(A itself ends at %d, B at %d)' % (A.last_index(), B.last_index()))
    print('acknowledged to the client by leader A:', acked)

    for n in 'AD':                                       # two of five nodes crash
        lose(*((n, p) for p in 'ABCDE' if p != n))
    net.elect('E', 'BC')
    heartbeats('E', 'BC', 6)
    if not E._isLeader():
        print('setup failed: E was not elected'); return 2
    lost = [k for k in acked if k not in E.data]
    print('term', E.raftCurrentTerm, 'leader E with followers B and C | LOST acknowledged writes:', lost)
    return 1 if lost else 0


if __name__ == '__main__':
    sys.exit(main())
