"""Delay the `os.fsync` and `os.fdatasync` calls of a process by the time that a file gives.

`chaos.targets.wallclock`, which runs the module, installs this if ACORDO_TEST_SYNC_FILE names the
file. It affects the Raft log, votes and dumps; the embedded store syncs by itself. Nothing of the
module is imported or changed.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Final

VARIABLE: Final = "ACORDO_TEST_SYNC_FILE"


class SlowSyncs:
    """Replacements for `os.fsync` and `os.fdatasync` that wait first."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._fsync, self._fdatasync = os.fsync, os.fdatasync

    def install(self) -> None:
        """Replace both functions in this process."""
        os.fsync, os.fdatasync = self.fsync, self.fdatasync  # type: ignore[assignment]  # descriptors alone

    def fsync(self, fd: int) -> None:
        """Wait, then call the real os.fsync. Raises OSError."""
        self._wait()
        self._fsync(fd)

    def fdatasync(self, fd: int) -> None:
        """Wait, then call the real os.fdatasync. Raises OSError."""
        self._wait()
        self._fdatasync(fd)

    def _wait(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            seconds = float(self._file.read_text())
            if seconds > 0:
                time.sleep(seconds)
