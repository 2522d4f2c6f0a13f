# ruff: noqa
# mypy: ignore-errors
# fmt: off
"""Several membership changes are accepted before any of them is committed.

Raft's single-server change is only safe one at a time.  The guard for that
exists in __changeCluster, but the variable it tests (__changeClusterIDx) is
never set to anything but None.  Three changes are accepted here in one tick.

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
                               leaderFallbackTimeout=10000, dynamicMembershipChange=True)
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
    A = net.nodes['A']
    net.elect('A', 'BC')
    for _ in range(4):
        A._SyncObj__newAppendEntriesTime = 0
        A.doTick(0)
        for p in 'BC':
            net.deliver('A', p); net.deliver(p, 'A')
    if not A._isLeader() or A.raftLastApplied < A.last_index():
        print('setup failed'); return 2
    print('members', sorted(n.id for n in A.otherNodes | {A.selfNode}), '| log ends at', A.last_index())

    answers = []
    try:
        A.addNodeToCluster('D', callback=lambda r, e: answers.append(('add D', e)))
        A.addNodeToCluster('E', callback=lambda r, e: answers.append(('add E', e)))
        A.removeNodeFromCluster('B', callback=lambda r, e: answers.append(('remove B', e)))
    except Exception as e:
        print('refused:', repr(e))
    A.doTick(0)
    pending = A.last_index() - A.raftCommitIndex
    print('members', sorted(n.id for n in A.otherNodes | {A.selfNode}), '| log ends at', A.last_index(),
          '| uncommitted changes:', pending, '| refusals:', answers)
    print('MORE THAN ONE change in flight:', pending > 1)
    return 1 if pending > 1 else 0


if __name__ == '__main__':
    sys.exit(main())
