# ruff: noqa
# mypy: ignore-errors
# fmt: off
"""kill -9 of all nodes during a routine compaction loses acknowledged writes.

Three nodes with journalFile and fullDumpFile live in one process, so that one
SIGKILL takes all of them at the same moment.  The entry count triggers the
compaction on all nodes at the same log index; each forks a child that writes
the dump.  While the children work, further writes are acknowledged.  Then the
process is killed.  The children finish and rename their dumps.  On restart a
node compares the first two entries of its journal with the dump's entries;
they differ, because nobody trimmed the journal, and the whole journal is
cleared, including every entry after the dump.

Exit status: 1 hazard shown, 0 not shown, 2 scenario could not be set up.
"""
import argparse
import collections
import importlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time

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


# the log crosses logCompactionMinEntries=100 in between
BEFORE, DURING = 90, 500


def make(base):
    class Store(base):
        def __init__(self, net, me, peers, folder):
            # Timers are fired by hand, so all timeouts are out of the way.
            conf = SyncObjConf(autoTick=False, appendEntriesUseBatch=False, appendEntriesPeriod=100,
                               raftMinTimeout=1000, raftMaxTimeout=1001, connectionTimeout=2000,
                               leaderFallbackTimeout=10000, logCompactionMinEntries=100, logCompactionMinTime=10**6,
                               journalFile=os.path.join(folder, me + '.journal'),
                               fullDumpFile=os.path.join(folder, me + '.dump'))
            link = Link(net, me)
            net.nodes[me] = self
            super().__init__(Node(me), [Node(p) for p in peers], conf, nodeClass=Node, transport=link)
            for p in peers:
                link._onNodeConnected(Node(p))
            self.data = {}
            # part of the dumped state: makes the dump take a while
            self.ballast = []

        @replicated
        def put(self, key, value):
            self.data[key] = value

    return Store


def start(Store, folder):
    net = Net()
    for n in 'ABC':
        Store(net, n, [p for p in 'ABC' if p != n], folder)
    return net


def rounds(net, count):
    for _ in range(count):
        for n, o in net.nodes.items():
            o._SyncObj__newAppendEntriesTime = 0
            o.doTick(0)
            for peer in net.nodes:
                if peer != n:
                    net.deliver(n, peer)


def dumps(folder):
    return sorted(f for f in os.listdir(folder) if f.endswith('.dump'))


def writer(Store, folder):
    net = start(Store, folder)
    for o in net.nodes.values():
        o.ballast = [os.urandom(1 << 16).hex() for _ in range(100)]
    net.elect('A', 'BC')
    rounds(net, 2)
    A, acked = net.nodes['A'], []
    note = os.open(os.path.join(folder, 'acked'), os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def write(first, count):
        for i in range(first, first + count):
            A.put('k%d' % i, i, callback=lambda r, e, i=i: e == 0 and acked.append(i))
        for _ in range(50):
            rounds(net, 1)
            if len(acked) == first + count:
                break

    write(0, BEFORE)
    write(BEFORE, DURING)                                # the first tick forks the dump children
    os.write(note, b''.join(b'k%d\n' % i for i in acked))
    os.write(note, b'children still dumping: %d\n' % (3 - len(dumps(folder))))
    os.kill(os.getpid(), signal.SIGKILL)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument('--base', default='pysyncobj:SyncObj', help='module:Class tested instead of the stock SyncObj')
    ap.add_argument('--writer', help=argparse.SUPPRESS)
    args = ap.parse_args()
    module, name = args.base.split(':')
    Store = make(getattr(importlib.import_module(module), name))
    if args.writer:
        logging.basicConfig(level=logging.ERROR + 20)
        writer(Store, args.writer)
    print('pysyncobj', pysyncobj.syncobj.VERSION, '| class under test', args.base)

    with tempfile.TemporaryDirectory() as folder:
        child = subprocess.run([sys.executable, os.path.abspath(__file__), '--base', args.base, '--writer', folder])
        note = open(os.path.join(folder, 'acked')).read().split('\n')[:-1]
        acked, state = note[:-1], note[-1]
        print('process with all three nodes ended with', child.returncode, '| acknowledged writes:', len(acked),
              '|', state)
        if child.returncode != -signal.SIGKILL or len(acked) != BEFORE + DURING:
            print('setup failed'); return 2
        limit = time.time() + 20
        while len(dumps(folder)) < 3 and time.time() < limit:
            time.sleep(0.05)
        time.sleep(0.3)
        print('dumps finished by the orphaned children:', dumps(folder))

        net = start(Store, folder)
        print('journals at restart end at', {n: o._SyncObj__raftLog[-1][1] for n, o in net.nodes.items()})
        for o in net.nodes.values():
            o.doTick(0)                                  # loads the dump
        print('journals with the dump loaded end at', {n: o._SyncObj__raftLog[-1][1] for n, o in net.nodes.items()})
        net.elect('A', 'BC')
        rounds(net, 5)
        if not net.nodes['A']._isLeader():
            print('setup failed: A was not elected'); return 2
        lost = {n: sum(k not in o.data for k in acked) for n, o in net.nodes.items()}
        print('LOST acknowledged writes per node:', lost, 'of', len(acked))
        for o in net.nodes.values():
            o.destroy()
    return 1 if any(lost.values()) else 0


if __name__ == '__main__':
    sys.exit(main())
