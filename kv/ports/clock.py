"""Declare the port that tells time.

Nothing else of ours reads a clock: so the simulation can bring its own.
"""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """What tells the time. The simulation has its own; nothing else of ours reads a clock."""

    def monotonic(self) -> float:
        """Return seconds that never go back (asyncio's loop time)."""
        ...

    def wall_ms(self) -> int:
        """Return milliseconds since 1970; may jump either way."""
        ...
