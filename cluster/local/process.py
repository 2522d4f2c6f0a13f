"""Represent one node as a process of this machine: its wanted state, its known state, and its log.

This module decides nothing; `supervision` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Final

from cluster.settings.values import MemberSetting

EX_CONFIG: Final = 78
"""Exit code of sysexits.h: an operator must correct something; a restart would fail the same way.
"""
ROOT: Final = Path(__file__).resolve().parents[2]
LOG_BYTES_MAX: Final = 16 << 20
"""Size at which a node's log is moved to `node.log.1`, replacing an earlier one, and begun anew."""


class NodeState(Enum):
    """The state of one node as the runner knows it."""

    STARTING = "starting"
    ALIVE = "alive"
    DOWN = "down"
    FAILED = "failed"
    """The process ended with EX_CONFIG and is not started again by itself."""


class NodeProcess:
    """A node that the runner keeps as a process of this machine."""

    def __init__(
        self, member: MemberSetting, url: str, data_dir: Path, environ: Mapping[str, str]
    ) -> None:
        self.id, self.raft_address = member.id, member.raft_address
        self.url, self.data_dir, self.environ = url, data_dir, dict(environ)
        self.process: asyncio.subprocess.Process | None = None
        self.state = NodeState.DOWN
        self.paused = False
        """Stopped by a person on purpose: its silence is no reason to kill it."""
        self.starts = 0
        self.log_from = 0
        """Offset in the log at which the current process began to write."""
        self.wanted = asyncio.Event()
        """Set while the node should run; `stop_node` clears it."""
        self.over = asyncio.Event()
        """Set while the node has no process."""
        self.over.set()

    @property
    def pid(self) -> int | None:
        """Return its process id; None while it has no process."""
        process = self.process
        return process.pid if process is not None and process.returncode is None else None

    @property
    def log(self) -> Path:
        """Return the path of its log."""
        return self.data_dir / "node.log"

    def signal(self, number: int) -> bool:
        """Send a signal; return whether there was a process to get it."""
        if self.pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
            return True
        return False

    def last_words(self) -> str:
        """Return the last log line of the current process: usually what it died of."""
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 8192, self.log_from if self.log_from <= size else 0))
            lines = file.read().decode(errors="replace").strip().splitlines()
            return lines[-1].removeprefix("error: ") if lines else ""
        return ""

    def rotate_log(self) -> None:
        """Move the log aside once it is larger than LOG_BYTES_MAX.

        It is copied and truncated, not renamed, because the node keeps the file open and appends to
        it.
        """
        with contextlib.suppress(FileNotFoundError):
            if self.log.stat().st_size > LOG_BYTES_MAX:
                shutil.copyfile(self.log, self.log.with_suffix(".log.1"))
                os.truncate(self.log, 0)
