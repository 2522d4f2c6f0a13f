"""Declare the port that tells time.

No other code of the project reads a clock, so that the simulation can bring its own.
"""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """The source of time. The simulation has its own; nothing else in the project reads a clock."""

    def monotonic(self) -> float:
        """Return seconds that never go back (asyncio's loop time)."""
        ...

    def wall_ms(self) -> int:
        """Return the milliseconds since 1970 by the wall clock, which may jump either way."""
        ...
