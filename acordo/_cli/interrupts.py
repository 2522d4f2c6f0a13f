"""Remember Ctrl-C: a command that hears it before it has ended leaves with 130, whatever else comes
of it.

The first one ends the work in order; the second one ends it at once. Only the main thread hears
signals.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class _Heard:
    """How often Ctrl-C was heard, and what it has to cancel."""

    def __init__(self) -> None:
        self.count = 0
        self.task: asyncio.Task[Any] | None = None
        self.loop: asyncio.AbstractEventLoop | None = None


_heard = _Heard()


def listen() -> None:
    """Take SIGINT over, where that is possible. It may be asked for again."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _interrupted)


def pressed() -> bool:
    """Say whether Ctrl-C was heard since `listen`."""
    return _heard.count > 0


def end(code: int) -> int:
    """Return the exit code of a command that ends now with `code`; from here on Ctrl-C is too late,
    and is ignored.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return 128 + signal.SIGINT if pressed() else code


@contextmanager
def cancelling() -> Iterator[None]:
    """Let Ctrl-C cancel the present task, also one that was heard before."""
    _heard.loop, _heard.task = asyncio.get_running_loop(), asyncio.current_task()
    try:
        if pressed():
            raise asyncio.CancelledError
        yield
    finally:
        _heard.loop = _heard.task = None


def _interrupted(number: int, frame: FrameType | None) -> None:
    _heard.count += 1
    loop, task = _heard.loop, _heard.task
    if _heard.count == 1 and loop is not None and task is not None:
        loop.call_soon_threadsafe(task.cancel)
        return
    raise KeyboardInterrupt
