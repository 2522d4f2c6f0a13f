# ruff: noqa
# mypy: ignore-errors
# fmt: off
"""For some entry sizes the last-but-one chunk is already marked 'finish'.

An entry of appendEntriesBatchSizeBytes or more is pickled and sent in chunks.
The sender decides which chunk is last from the raw command length, but sends
the longer pickled entry.  When the two differ in their number of chunks, two
chunks carry the mark: the follower unpickles an incomplete entry, the exception
leaves its tick, and the second one is unpickled from its tail alone.

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
    A, B = net.nodes['A'], net.nodes['B']
    net.elect('A', 'BC')
    net.deliver('A', 'B'); net.deliver('B', 'A')
    limit = A.conf.appendEntriesBatchSizeBytes
    fill = len(pysyncobj.pickle.dumps((0, ('k', 'x' * 1000)))) + 1 - 1000
    sizes = [n for n in range(2 * limit - fill - 40, 2 * limit - fill + 10)]
    failed, sent = [], 0
    for n in sizes:
        A.put('k', 'x' * n)
        A.doTick(0)
        command = A._SyncObj__raftLog[-1][0]
        while net.queue['A', 'B']:
            sent += 1
            try:
                net.deliver('A', 'B', 1)
            except Exception as e:
                failed.append((len(command), type(e).__name__))
        net.deliver('B', 'A')
        A.doTick(0)
    print('commands of', len(sizes), 'sizes around 2 x', limit, 'bytes,', sent, 'messages')
    print('exceptions in the receiving node (command bytes, type):', failed[:4], '... total', len(failed))
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
