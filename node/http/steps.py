"""Run a coroutine to its end without a task, beginning at once.

A task costs passes of the event loop and a context of its own, much of what a small request costs
altogether. What needs a task (time-outs, and whatever a back end may do) awaits `in_task` before.
No rule here depends on what the coroutine does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any


@coroutine
def in_task() -> Generator[None, None, None]:
    """Go on in a task: at once if the caller is in one, otherwise in a new one."""
    if asyncio.current_task() is None:
        yield None


class Steps:
    """A coroutine that runs without a task as long as it waits for futures only.

    `ended` is called once, with the exception that ended it or None; if it waits for nothing that
    is before `start` returns.
    """

    __slots__ = ("_awaited", "_coroutine", "_ended", "_loop", "_task")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Coroutine[Any, None, None],
        ended: Callable[[BaseException | None], None],
    ) -> None:
        self._loop, self._coroutine, self._ended = loop, work, ended
        self._awaited: asyncio.Future[Any] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Run the coroutine to its first wait."""
        self._step(None)

    def cancel(self) -> None:
        """Raise CancelledError in the coroutine, where it waits."""
        if self._task is not None:
            self._task.cancel()
        elif self._awaited is not None:
            self._awaited.remove_done_callback(self._step)
            self._step(None, asyncio.CancelledError())

    def _step(self, _: object, error: BaseException | None = None) -> None:
        try:
            work = self._coroutine
            awaited = work.send(None) if error is None else work.throw(error)
        except StopIteration:
            self._ended(None)
        except BaseException as exc:  # noqa: BLE001 - as a task's, it is the caller's to judge
            self._ended(exc)
        else:
            if awaited is None:
                self._task = self._loop.create_task(_rest(self._coroutine))
                self._task.add_done_callback(self._task_ended)
            else:
                awaited._asyncio_future_blocking = False  # as a task does when it waits
                awaited.add_done_callback(self._step)
                self._awaited = awaited

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._ended(asyncio.CancelledError() if task.cancelled() else task.exception())


@coroutine
def _continued(work: Coroutine[Any, None, None]) -> Generator[Any, None, None]:
    """Await a coroutine that has begun already."""
    yield from work


async def _rest(work: Coroutine[Any, None, None]) -> None:
    await _continued(work)
