"""Run a module with a wall clock that a file sets off: `python -m chaos.targets.wallclock node …`
with ACORDO_TEST_CLOCK_FILE=FILE.

It stands in for libfaketime, whose 0.9.10 cannot leave the monotonic clock alone: told to, it
breaks Python's `time.sleep` (EINVAL) and its timed waits. Only the process's wall clock moves;
nothing of the module is imported or changed. Where ACORDO_TEST_SYNC_FILE is given too, syncs take
as long as that file says (slowdisk.py).
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
"""How long an offset read from the file is taken for the present one."""


class WallClock:
    """The true wall clock, set off by what a file says."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._true_ns, self._monotonic = time.time_ns, time.monotonic
        self._offset_ns, self._looked = 0, float("-inf")

    def time_ns(self) -> int:
        """Stand in for time.time_ns."""
        now = self._monotonic()
        if now - self._looked >= LOOK_S:
            self._looked = now
            with contextlib.suppress(OSError, ValueError):
                self._offset_ns = int(float(self._file.read_text()) * 1e9)
        return self._true_ns() + self._offset_ns

    def time(self) -> float:
        """Stand in for time.time."""
        return self.time_ns() / 1e9


def main() -> None:
    """Set the clock off, then be the module that is named first."""
    clock = WallClock(Path(os.environ[VARIABLE]))
    time.time, time.time_ns = clock.time, clock.time_ns
    if slowdisk.VARIABLE in os.environ:
        slowdisk.SlowSyncs(Path(os.environ[slowdisk.VARIABLE])).install()
    module, sys.argv = sys.argv[1], sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
