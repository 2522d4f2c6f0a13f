"""Count connection events, and log refusals without letting a flood fill the log.

It never decides about a connection.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

import structlog

WARN_EVERY_S: Final = 60.0
WARNED_MAX: Final = 1000
"""Number of (host, reason) pairs that are remembered. One more clears all, so that each may be
logged again.
"""

_UNREMARKABLE: Final = frozenset(
    {
        "lost",
        "dropped",
        "closing",
        "replaced",
        "unreachable",
        "too_often",
        "silent",
        "wrong_direction",
    }
)
"""Reasons for which a connection that was not ready, or had been replaced, may end without a log
entry: each restart of a peer causes some of them.
"""

_log = structlog.get_logger("acordo.raft.transport")


class Refusals:
    """The counters of one transport, and the log of the connections that it refused."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        """Connection events by name: connected, closed_<reason>, refused_<reason>, frames_sent,
        frames_received, …
        """
        self._warned: dict[tuple[str, str], float] = {}

    def refuse(self, host: str, reason: str, detail: str = "") -> None:
        """Count a refusal, and log it at most once a minute for each host and reason.

        A port scanner may connect a hundred times a second, and its hundredth refusal tells an
        operator nothing new.
        """
        self.counters[f"refused_{reason}"] += 1
        now = asyncio.get_running_loop().time()
        if now - self._warned.get((host, reason), -WARN_EVERY_S) < WARN_EVERY_S:
            return
        if len(self._warned) >= WARNED_MAX:
            self._warned.clear()
        self._warned[host, reason] = now
        count = self.counters[f"refused_{reason}"]
        _log.warning("connection_refused", host=host, reason=reason, detail=detail, so_far=count)

    def ended(self, host: str, reason: str, detail: str) -> None:
        """Treat a connection that ended before it was ready as a refusal, unless the reason is
        unremarkable.
        """
        if reason not in _UNREMARKABLE:
            self.refuse(host, reason, detail)
