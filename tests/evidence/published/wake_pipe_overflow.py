# ruff: noqa
# mypy: ignore-errors
# fmt: off
"""A submit call raises although the command was queued and will be executed.

With appendEntriesUseBatch=False every submit writes one byte to a non-blocking
pipe that only the poller drains.  The pipe holds 65,536 bytes on Linux.  The
next submit before a tick raises BlockingIOError after the command has entered
the queue: the caller must treat an exception from submit as an unknown outcome.

Exit status: 1 hazard shown, 0 not shown.
"""
import argparse
import importlib
import logging
import sys

import pysyncobj
from pysyncobj import SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport


def make(base):
    class Store(base):
        def __init__(self):
            conf = SyncObjConf(autoTick=False, appendEntriesUseBatch=False)
            super().__init__(Node('A'), [], conf, nodeClass=Node, transport=Transport(None, None, None))
            self.count = 0

        @replicated
        def hit(self):
            self.count += 1

    return Store


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument('--base', default='pysyncobj:SyncObj', help='module:Class tested instead of the stock SyncObj')
    module, name = ap.parse_args().base.split(':')
    s = make(getattr(importlib.import_module(module), name))()
    logging.basicConfig(level=logging.ERROR + 20)
    print('pysyncobj', pysyncobj.syncobj.VERSION, '| class under test', module + ':' + name)
    accepted, error = 0, None
    try:
        for _ in range(70000):
            s.hit()
            accepted += 1
    except Exception as e:
        error = e
    print('calls that returned:', accepted, '| then:', repr(error))
    if error is None:
        return 0
    s._SyncObj__raftElectionDeadline = 0
    for _ in range(200):
        s.doTick(0)
        if s.count > accepted:
            break
    print('executed:', s.count, '| the call that raised was executed:', s.count == accepted + 1)
    return 1 if s.count > accepted else 0


if __name__ == '__main__':
    sys.exit(main())
