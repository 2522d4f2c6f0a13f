"""Take Ctrl-C so that a run ends by itself, heals everything and still writes its report."""

from __future__ import annotations

import asyncio
import os
import sys


class Interrupt:
    """Ctrl-C: once it asks the run to end and write its report, twice it ends the process."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    def signalled(self) -> None:
        """Take one signal."""
        if self.asked.is_set():
            print("\nkilled: the report is not written", file=sys.stderr)
            os._exit(130)
        self.asked.set()
        print(
            "\ninterrupted: healing everything, then the report (once more: end at once)",
            file=sys.stderr,
        )
