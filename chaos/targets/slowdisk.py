"""Let a process's syncs take as long as a file says: what `os.fsync` and `os.fdatasync` wait for
before they begin.

`chaos.targets.wallclock`, which runs the module, puts it in place where ACORDO_TEST_SYNC_FILE names
the file. It is felt by the Raft log, votes and dumps; the embedded store syncs by itself. Nothing
of the module is imported or changed.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Final

VARIABLE: Final = "ACORDO_TEST_SYNC_FILE"


class SlowSyncs:
    """The operating system's two ways to sync, each behind a wait."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._fsync, self._fdatasync = os.fsync, os.fdatasync

    def install(self) -> None:
        """Stand in for both, from here on."""
        os.fsync, os.fdatasync = self.fsync, self.fdatasync  # type: ignore[assignment]  # descriptors alone

    def fsync(self, fd: int) -> None:
        """Stand in for os.fsync. Raises OSError."""
        self._wait()
        self._fsync(fd)

    def fdatasync(self, fd: int) -> None:
        """Stand in for os.fdatasync. Raises OSError."""
        self._wait()
        self._fdatasync(fd)

    def _wait(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            seconds = float(self._file.read_text())
            if seconds > 0:
                time.sleep(seconds)
