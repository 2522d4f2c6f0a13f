"""Give each simulated machine a clock of its own, which may be wrong."""

from __future__ import annotations

import asyncio
from typing import Final

EPOCH_S: Final = 1_700_000_000.0
"""Wall clock at the start of every world."""


class SimClock:
    """One machine's clock; its wall time may jump."""

    def __init__(self) -> None:
        self.skew_s = 0.0

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def wall_ms(self) -> int:
        return self.right_ms() + int(self.skew_s * 1000)

    @staticmethod
    def right_ms() -> int:
        """Return what it would say were it right."""
        return int((EPOCH_S + asyncio.get_running_loop().time()) * 1000)
