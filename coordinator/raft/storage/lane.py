"""Run blocking calls in order on a thread, for the event loop that awaits them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")


class Lane:
    """A worker thread that starts at the first call and runs the submitted work in order.

    It is a thread and a queue, and not an executor, because every write of the log passes through
    one: an executor's futures cost more turns of the event loop and more time than a short write.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None
        self._under_way = 0
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Begin work after everything that was submitted before. It is finished even if the future
        is cancelled: otherwise the next call on the file could overtake or drop that write.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def act() -> None:
            try:
                settle = partial(self._resolve, future, work())
            except BaseException as exc:  # noqa: BLE001 it belongs to whoever awaits the future
                settle = partial(self._fail, future, exc)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(settle)

        self._start()
        self._under_way += 1
        self._queue.put(act)
        return future

    def run_now(self, work: Callable[[], T]) -> T:
        """Run work after everything that was submitted before, and block. If the thread was never
        started, run it on the calling thread.
        """
        if self._thread is None:
            return work()
        done: concurrent.futures.Future[T] = concurrent.futures.Future()

        def act() -> None:
            try:
                done.set_result(work())
            except BaseException as exc:  # noqa: BLE001 it is raised where it is waited for
                done.set_exception(exc)

        self._queue.put(act)
        return done.result()

    @property
    def busy(self) -> bool:
        """Whether submitted work is under way, as far as the loop knows."""
        return self._under_way > 0

    def close(self) -> None:
        """Wait for the submitted work, and end the thread."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while (act := self._queue.get()) is not None:
            act()

    def _resolve(self, future: asyncio.Future[T], result: T) -> None:
        self._under_way -= 1
        if not future.done():
            future.set_result(result)

    def _fail(self, future: asyncio.Future[T], exc: BaseException) -> None:
        self._under_way -= 1
        if not future.done():
            future.set_exception(exc)
