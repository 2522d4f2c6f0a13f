"""One node as a process of this machine: what is wanted of it, what is known of it, and its log.
Decides nothing.
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
"""sysexits.h: an operator must mend something; starting again would end the same way."""
ROOT: Final = Path(__file__).resolve().parents[2]
LOG_BYTES_MAX: Final = 16 << 20
"""A node's log beyond this is kept once as node.log.1 and begun anew."""


class NodeState(Enum):
    """What the runner wants and knows of one node."""

    STARTING = "starting"
    ALIVE = "alive"
    DOWN = "down"
    FAILED = "failed"
    """It ended with EX_CONFIG."""


class NodeProcess:
    """One node as a process of this machine."""

    def __init__(
        self, member: MemberSetting, url: str, data_dir: Path, environ: Mapping[str, str]
    ) -> None:
        self.id, self.raft_address = member.id, member.raft_address
        self.url, self.data_dir, self.environ = url, data_dir, dict(environ)
        self.process: asyncio.subprocess.Process | None = None
        self.state = NodeState.DOWN
        self.starts = 0
        self.log_from = 0
        """Where in the log its present life begins."""
        self.wanted = asyncio.Event()
        """Set while it should run; `stop_node` clears it."""
        self.over = asyncio.Event()
        """Set while there is no process."""
        self.over.set()

    @property
    def pid(self) -> int | None:
        """Return the id of its process; None while it has none."""
        process = self.process
        return process.pid if process is not None and process.returncode is None else None

    @property
    def log(self) -> Path:
        """Return where it writes its log."""
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
        """Return the last line of its log: what it died of."""
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 8192, self.log_from if self.log_from <= size else 0))
            lines = file.read().decode(errors="replace").strip().splitlines()
            return lines[-1].removeprefix("error: ") if lines else ""
        return ""

    def rotate_log(self) -> None:
        """Keep a grown log once under another name. The node appends to the same file: it is copied
        and emptied.
        """
        with contextlib.suppress(FileNotFoundError):
            if self.log.stat().st_size > LOG_BYTES_MAX:
                shutil.copyfile(self.log, self.log.with_suffix(".log.1"))
                os.truncate(self.log, 0)
