# ruff: noqa
# mypy: ignore-errors
# fmt: off
"""kill -9 while the journal drops its oldest entries truncates the journal.

FileJournal.deleteEntriesTo first marks the file as empty and then writes the
surviving entries back one by one in place.  A process that dies in between
leaves a journal that ends early: acknowledged entries are gone from disk.

Exit status: 1 hazard shown, 0 not shown, 2 scenario could not be set up.
"""
import argparse
import importlib
import os
import signal
import sys
import tempfile
import time

import pysyncobj.syncobj

ENTRIES, DROP, TRIES = 20000, 10, 6


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument('--journal', default='pysyncobj.journal:FileJournal', help='module:Class, called with the path')
    spec = ap.parse_args().journal
    module, name = spec.split(':')
    Journal = getattr(importlib.import_module(module), name)
    print('pysyncobj', pysyncobj.syncobj.VERSION, '| journal under test', spec)

    short = 0
    with tempfile.TemporaryDirectory() as folder:
        for attempt in range(TRIES):
            path = os.path.join(folder, 'journal%d' % attempt)
            j = Journal(path)
            for i in range(1, ENTRIES + 1):
                j.add(b'x' * 200, i, 1)
            j.flush()
            j._destroy()

            r, w = os.pipe()
            pid = os.fork()
            if pid == 0:
                j = Journal(path)
                os.write(w, b'.')
                j.deleteEntriesTo(DROP)
                os._exit(0)
            os.read(r, 1)
            time.sleep(0.002 + 0.004 * attempt)
            os.kill(pid, signal.SIGKILL)
            killed = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
            os.close(r); os.close(w)

            j = Journal(path)
            last = j[-1][1] if len(j) else None
            print('killed inside the call:', killed, '| entries left', len(j), '| last index', last, 'of', ENTRIES)
            short += last != ENTRIES
            j._destroy()
    print('journals that lost their tail: %d of %d' % (short, TRIES))
    return 1 if short else 0


if __name__ == '__main__':
    sys.exit(main())
