# ruff: noqa
# mypy: ignore-errors
# fmt: off
"""One exception in a replicated method stops the whole cluster, for good.

Part 1: the replicated method raises after a partial change.  The entry is
committed but never counted as applied, so every tick applies it again: the
partial change repeats at each node's own pace, the caller gets no answer, the
leader never reaches the code that sends heartbeats and takes new commands,
and a new leader or a full restart from the journals ends up in the same place.

Part 2: only the caller's callback raises, on one node.  That node applies the
entry a second time: its state differs from the others, silently.

Exit status: 1 hazard shown, 0 not shown, 2 scenario could not be set up.
"""
import argparse
import collections
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
    class Counter(base):
        def __init__(self, net, me, peers, folder):
            # Timers are fired by hand, so all timeouts are out of the way.
            conf = SyncObjConf(autoTick=False, appendEntriesUseBatch=False, appendEntriesPeriod=100,
                               raftMinTimeout=1000, raftMaxTimeout=1001, connectionTimeout=2000,
                               leaderFallbackTimeout=10000, journalFile=os.path.join(folder, me + '.journal'),
                               fullDumpFile=os.path.join(folder, me + '.dump'))
            link = Link(net, me)
            net.nodes[me] = self
            super().__init__(Node(me), [Node(p) for p in peers], conf, nodeClass=Node, transport=link)
            for p in peers:
                link._onNodeConnected(Node(p))
            self.total = 0

        @replicated
        def add(self, n):
            self.total += n
            return self.total

        @replicated
        def poison(self):
            self.total += 1000
            raise ValueError('bad input')

    return Counter


def tick(net, names, rounds):
    """Ticks and delivers everywhere; returns how many ticks raised, per node."""
    raised = dict.fromkeys(names, 0)
    for _ in range(rounds):
        for n in names:
            net.nodes[n]._SyncObj__newAppendEntriesTime = 0
            try:
                net.nodes[n].doTick(0)
            except Exception:
                raised[n] += 1
            for peer in names:
                if peer != n:
                    net.deliver(n, peer)
    return raised


def show(net, label):
    print(label)
    for n, o in net.nodes.items():
        print('   ', n, 'leader' if o._isLeader() else '      ', 'term', o.raftCurrentTerm, 'applied',
              o.raftLastApplied, 'commit', o.raftCommitIndex, 'total', o.total)


def start(Counter, folder, leader='A'):
    net = Net()
    for n in 'ABC':
        Counter(net, n, [p for p in 'ABC' if p != n], folder)
    try:
        net.elect(leader, [n for n in 'ABC' if n != leader])
    except Exception as e:
        print('tick raised during the election of %s: %r' % (leader, e))
    tick(net, 'ABC', 3)
    return net


def stop(net):
    for o in net.nodes.values():
        o.destroy()


def poison_part(Counter, folder):
    net = start(Counter, folder)
    A = net.nodes['A']
    answers = []
    A.add(1, callback=lambda r, e: answers.append(('add before', r, e)))
    tick(net, 'ABC', 3)
    if not A._isLeader() or len(answers) != 1:
        print('setup failed'); return None
    show(net, 'before:')
    A.poison(callback=lambda r, e: answers.append(('poison', r, e)))
    tick(net, 'ABC', 3)
    net.queue.clear()
    A.add(1, callback=lambda r, e: answers.append(('add after', r, e)))
    raised = tick(net, 'ABC', 20)
    show(net, 'after poison, 20 more ticks:')
    print('ticks that raised:', raised, '| answers:', answers)
    healthy = len(answers) == 3 and len({o.total for o in net.nodes.values()}) == 1

    # hook for classes with pre-vote or vote stickiness
    for n in 'BC':
        getattr(net.nodes[n], 'forget_leader', int)()
    # no heartbeat came, so B's election timer fires
    net.nodes['B']._SyncObj__raftElectionDeadline = 0
    tick(net, 'BC', 10)
    answers = []
    net.nodes['B'].add(1, callback=lambda r, e: answers.append(('add via B', r, e)))
    raised = tick(net, 'BC', 20)
    show(net, 'after B stood for election:')
    print('ticks that raised:', raised, '| answers:', answers)
    healthy = healthy and len(answers) == 1
    stop(net)

    net = start(Counter, folder, 'B')                    # B has the longest log
    answers = []
    net.nodes['B'].add(1, callback=lambda r, e: answers.append(('add after restart', r, e)))
    raised = tick(net, 'ABC', 20)
    show(net, 'after a restart of all nodes from their journals:')
    print('ticks that raised:', raised, '| answers:', answers)
    healthy = healthy and len(answers) == 1
    stop(net)
    return not healthy


def callback_part(Counter, folder):
    net = start(Counter, folder)
    A = net.nodes['A']
    calls = []

    def fails_once(result, error):
        calls.append(result)
        if len(calls) == 1:
            raise RuntimeError('callback failed')

    A.add(1, callback=fails_once)
    tick(net, 'ABC', 5)
    totals = {n: o.total for n, o in net.nodes.items()}
    print('one add(1), callback raised once: totals', totals)
    if not calls:
        print('setup failed'); return None
    stop(net)
    return len(set(totals.values())) != 1


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument('--base', default='pysyncobj:SyncObj', help='module:Class tested instead of the stock SyncObj')
    module, name = ap.parse_args().base.split(':')
    Counter = make(getattr(importlib.import_module(module), name))
    logging.basicConfig(level=logging.ERROR + 20)
    print('pysyncobj', pysyncobj.syncobj.VERSION, '| class under test', module + ':' + name)
    found = {}
    for label, part in (('replicated method raises', poison_part), ('callback raises', callback_part)):
        print('--', label)
        with tempfile.TemporaryDirectory() as folder:
            found[label] = part(Counter, folder)
    print('hazard shown:', found)
    if None in found.values():
        return 2
    return 1 if any(found.values()) else 0


if __name__ == '__main__':
    sys.exit(main())
