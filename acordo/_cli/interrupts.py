"""Handle Ctrl-C: a command that receives it before it has ended exits with 130, whatever else its
result is.

The first Ctrl-C ends the work in order; the second ends it at once. Only the main thread receives
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
    """The number of Ctrl-C received, and the task to cancel."""

    def __init__(self) -> None:
        self.count = 0
        self.task: asyncio.Task[Any] | None = None
        self.loop: asyncio.AbstractEventLoop | None = None


_heard = _Heard()


def listen() -> None:
    """Install the SIGINT handler if this is the main thread. It may be called more than once."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _interrupted)


def pressed() -> bool:
    """Return whether Ctrl-C was received since `listen`."""
    return _heard.count > 0


def end(code: int) -> int:
    """Return the exit code of a command that ends now with `code`. From here on Ctrl-C is ignored,
    because it is too late.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return 128 + signal.SIGINT if pressed() else code


@contextmanager
def cancelling() -> Iterator[None]:
    """Let Ctrl-C cancel the current task, also if it was received before."""
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
