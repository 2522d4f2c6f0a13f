"""Run something beside the caller, and wait for flags: in threads."""

from __future__ import annotations

import threading
from collections.abc import Callable

STOP_TIMEOUT_S = 5.0
"""How long to wait for a thread to end: it is in a call, which is bounded, and does nothing after
it.
"""


class Flag:
    """A flag that is raised once, for all who wait for it."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Raise it."""
        self._event.set()

    def is_set(self) -> bool:
        """Return whether it was raised."""
        return self._event.is_set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it is raised, at most so many seconds; return whether it was."""
        return self._event.wait(timeout_s)


class Background:
    """A call that runs beside the caller, and ends soon after `stopping` is raised."""

    def __init__(self, run: Callable[[], None], stopping: Flag) -> None:
        self._stopping = stopping
        self._thread = threading.Thread(target=run, name="acordo", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it, and wait until it has ended."""
        self._stopping.set()
        if self._thread is not threading.current_thread():
            self._thread.join(STOP_TIMEOUT_S)
