"""Run a module with a wall clock shifted by a file: `python -m chaos.targets.wallclock node …`.

The variable ACORDO_TEST_CLOCK_FILE names the file. This replaces libfaketime, whose version 0.9.10
cannot leave the monotonic clock alone: told to do so, it breaks Python's `time.sleep` (EINVAL) and
its timed waits. Only the wall clock of the process moves; nothing of the module is imported or
changed. If ACORDO_TEST_SYNC_FILE is set too, syncs take as long as that file says (slowdisk.py).
"""

from __future__ import annotations

import contextlib
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Final

from chaos.targets import slowdisk

VARIABLE: Final = "ACORDO_TEST_CLOCK_FILE"
LOOK_S: Final = 0.2
"""How long an offset is used before the file is read again."""


class WallClock:
    """The real wall clock plus the offset in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._true_ns, self._monotonic = time.time_ns, time.monotonic
        self._offset_ns, self._looked = 0, float("-inf")

    def time_ns(self) -> int:
        """Replace time.time_ns."""
        now = self._monotonic()
        if now - self._looked >= LOOK_S:
            self._looked = now
            with contextlib.suppress(OSError, ValueError):
                self._offset_ns = int(float(self._file.read_text()) * 1e9)
        return self._true_ns() + self._offset_ns

    def time(self) -> float:
        """Replace time.time."""
        return self.time_ns() / 1e9


def main() -> None:
    """Replace the clock, then run the module named by the first argument."""
    clock = WallClock(Path(os.environ[VARIABLE]))
    time.time, time.time_ns = clock.time, clock.time_ns
    if slowdisk.VARIABLE in os.environ:
        slowdisk.SlowSyncs(Path(os.environ[slowdisk.VARIABLE])).install()
    module, sys.argv = sys.argv[1], sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
