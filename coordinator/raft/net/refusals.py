"""Count what happened to connections, and log refusals without letting a flood fill the log.

It never decides about a connection.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

import structlog

WARN_EVERY_S: Final = 60.0
WARNED_MAX: Final = 1000
"""So many pairs of host and reason are remembered; one more, and all may be logged again."""

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
"""Ends of connections that were never ready, or no longer ours, of which no operator needs to hear:
each restart of a peer makes some.
"""

_log = structlog.get_logger("acordo.raft.transport")


class Refusals:
    """The counters of one transport, and the log of whom it refused."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        """What happened, by name: connected, closed_<reason>, refused_<reason>, frames_sent,
        frames_received, …
        """
        self._warned: dict[tuple[str, str], float] = {}

    def refuse(self, host: str, reason: str, detail: str = "") -> None:
        """Count a refusal, and log it once a minute for each host and reason.

        A port scanner comes a hundred times a second: its hundredth refusal tells an operator
        nothing that the first did not.
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
        """Count a connection that ended before it was ready, unless that happens every day."""
        if reason not in _UNREMARKABLE:
            self.refuse(host, reason, detail)
