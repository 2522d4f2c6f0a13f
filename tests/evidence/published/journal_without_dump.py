# ruff: noqa
# mypy: ignore-errors
# fmt: off
"""journalFile without fullDumpFile loses everything at the first compaction.

The compaction trims the journal, but with no fullDumpFile the snapshot exists
in memory only.  Even a clean stop and start comes back empty.  validate() does
not reject the combination.

Exit status: 1 hazard shown, 0 not shown, 2 scenario could not be set up.
"""
import argparse
import importlib
import logging
import os
import sys
import tempfile

import pysyncobj
from pysyncobj import SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport


def make(base):
    class Store(base):
        def __init__(self, journal):
            conf = SyncObjConf(autoTick=False, appendEntriesUseBatch=False, journalFile=journal)
            super().__init__(Node('A'), [], conf, nodeClass=Node, transport=Transport(None, None, None))
            self.data = {}

        @replicated
        def put(self, key, value):
            self.data[key] = value

        def run(self, ticks=10):
            self._SyncObj__raftElectionDeadline = min(self._SyncObj__raftElectionDeadline, 0)
            for _ in range(ticks):
                self.doTick(0)

    return Store


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument('--base', default='pysyncobj:SyncObj', help='module:Class tested instead of the stock SyncObj')
    module, name = ap.parse_args().base.split(':')
    Store = make(getattr(importlib.import_module(module), name))
    logging.basicConfig(level=logging.ERROR + 20)
    print('pysyncobj', pysyncobj.syncobj.VERSION, '| class under test', module + ':' + name)
    with tempfile.TemporaryDirectory() as folder:
        journal = os.path.join(folder, 'journal')
        try:
            s = Store(journal)
        except (AssertionError, ValueError) as e:
            print('configuration refused:', repr(e))
            return 0
        acked = []
        s.run()
        for i in range(50):
            s.put('k%d' % i, i, callback=lambda r, e, i=i: e == 0 and acked.append('k%d' % i))
        s.run()
        s.forceLogCompaction()
        s.run()
        s.put('last', 1, callback=lambda r, e: e == 0 and acked.append('last'))
        s.run()
        print('before: acknowledged', len(acked), '| keys', len(s.data), '| applied', s.raftLastApplied)
        if len(acked) != 51:
            print('setup failed'); return 2
        s.destroy()

        s = Store(journal)
        s.run(20)
        lost = [k for k in acked if k not in s.data]
        print('after a clean restart: keys', len(s.data), '| applied', s.raftLastApplied, '| commit', s.raftCommitIndex)
        print('LOST acknowledged writes:', len(lost), 'of', len(acked))
    return 1 if lost else 0


if __name__ == '__main__':
    sys.exit(main())
