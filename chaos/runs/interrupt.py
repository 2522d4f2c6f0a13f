"""Handle Ctrl-C so that a run ends in order, heals everything and still writes its report."""

from __future__ import annotations

import asyncio
import os
import sys


class Interrupt:
    """A handler for Ctrl-C: the first one asks the run to end and write its report, the second ends
    the process.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    def signalled(self) -> None:
        """Handle one signal."""
        if self.asked.is_set():
            print("\nkilled: the report is not written", file=sys.stderr)
            os._exit(130)
        self.asked.set()
        print(
            "\ninterrupted: healing everything, then the report (once more: end at once)",
            file=sys.stderr,
        )
