# ruff: noqa
# mypy: ignore-errors
# fmt: off
"""A reconnect between two ticks corrupts a snapshot, and the follower acks it.

Snapshot chunks carry no offset.  The leader forgets a transfer only if it sees
the peer disconnected while it sends; if the connection drops and is back
before the next tick, it goes on with the next chunk although the last one was
lost.  The follower joins what it got, replaces its good dump file with it,
fails to load it (the exception is only logged) and reports success.

Exit status: 1 hazard shown, 0 not shown, 2 scenario could not be set up.
"""
import argparse
import collections
import gzip
import importlib
import logging
import os
import pickle
import sys
import tempfile

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
        def __init__(self, net, me, peers, folder):
            # Timers are fired by hand, so all timeouts are out of the way.
            conf = SyncObjConf(autoTick=False, appendEntriesUseBatch=False, appendEntriesPeriod=100,
                               raftMinTimeout=1000, raftMaxTimeout=1001, connectionTimeout=2000,
                               leaderFallbackTimeout=10000, logCompactionMinEntries=10**6,
                               logCompactionMinTime=10**6, logCompactionBatchSize=1000, useFork=False,
                               journalFile=os.path.join(folder, me + '.journal'),
                               fullDumpFile=os.path.join(folder, me + '.dump'))
            link = Link(net, me)
            net.nodes[me] = self
            super().__init__(Node(me), [Node(p) for p in peers], conf, nodeClass=Node, transport=link)
            for p in peers:
                link._onNodeConnected(Node(p))
            self.data = {}

        @replicated
        def put(self, key, value):
            self.data[key] = value

    return Store


def dump_state(path):
    try:
        with gzip.open(path) as f:
            f.read()
        return 'readable'
    except Exception as e:
        return repr(e)


def scenario(Store, folder, drop):
    net = Net()
    for n in 'ABC':
        Store(net, n, [p for p in 'ABC' if p != n], folder)
    A, C = net.nodes['A'], net.nodes['C']

    def rounds(peers, count):
        for _ in range(count):
            A._SyncObj__newAppendEntriesTime = 0
            A.doTick(0)
            for p in peers:
                net.deliver('A', p); net.deliver(p, 'A'); net.nodes[p].doTick(0)

    net.elect('A', 'BC')
    for i in range(20):
        A.put('a%d' % i, i)
    rounds('BC', 4)
    C.forceLogCompaction(); C.doTick(0); C.doTick(0)     # C has a good dump of its own
    net.connect('A', 'C', False)
    for i in range(60):
        A.put('k%d' % i, os.urandom(40).hex())
    rounds('B', 4)
    A.forceLogCompaction()
    # A's log now starts after the end of C's log
    rounds('B', 3)
    net.connect('A', 'C', True)

    A.conf.appendEntriesPeriod = 1e-9                    # the send budget of a tick is one chunk
    target, chunks, dropped, acks = C.raftLastApplied, 0, False, []
    for _ in range(100):
        A._SyncObj__newAppendEntriesTime = 0
        A.doTick(0)
        chunks += sum(bool(pickle.loads(m).get('serialized')) for m in net.queue['A', 'C'])
        if drop and chunks == 3 and not dropped:
            # connection lost with chunk 3 in flight ...
            net.connect('A', 'C', False)
            net.connect('A', 'C', True)                  # ... and back before A's next tick
            dropped = True
            continue
        net.deliver('A', 'C')
        acks = [m for m in map(pickle.loads, net.queue['C', 'A'])
                if m.get('type') == 'next_node_idx' and m['success']]
        net.deliver('C', 'A')
        if chunks and acks:
            break
    state = dump_state(os.path.join(folder, 'C.dump'))
    print('reconnect' if dropped else 'undisturbed', '| chunks', chunks, '| C reports success:', bool(acks),
          '| C applied', C.raftLastApplied, 'of', A.raftLastApplied, '| dump file of C:', state)
    installed = C.raftLastApplied > target
    for o in net.nodes.values():
        o.destroy()
    return chunks, bool(acks), installed, state == 'readable'


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument('--base', default='pysyncobj:SyncObj', help='module:Class tested instead of the stock SyncObj')
    module, name = ap.parse_args().base.split(':')
    Store = make(getattr(importlib.import_module(module), name))
    logging.basicConfig(level=logging.ERROR + 20)
    print('pysyncobj', pysyncobj.syncobj.VERSION, '| class under test', module + ':' + name)
    with tempfile.TemporaryDirectory() as folder:
        plain = scenario(Store, folder, False)
    if plain[0] < 4 or plain[1:] != (True, True, True):
        print('setup failed'); return 2
    with tempfile.TemporaryDirectory() as folder:
        _, acked, installed, readable = scenario(Store, folder, True)
    bad = not readable or (acked and not installed)
    print('BROKEN SNAPSHOT reported as success or left on disk:', bad)
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())
