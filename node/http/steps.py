"""Run a coroutine to its end without a task, beginning at once.

A task costs passes of the event loop and a context of its own, much of what a small request costs
altogether. What needs a task (time-outs, and whatever a back end may do) awaits `in_task` before.
No rule here depends on what the coroutine does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@coroutine
def in_task() -> Generator[None, None, None]:
    """Go on in a task: at once if the caller is in one, otherwise in a new one."""
    if asyncio.current_task() is None:
        yield None


class Told(Generic[T]):
    """A result that one coroutine waits for, as for a future. Steps that wait for it go on while it
    is told, and not in a later pass of the event loop.
    """

    __slots__ = ("_asyncio_future_blocking", "_future", "_go_on", "_over", "_result")

    def __init__(self) -> None:
        self._over = False
        self._result: T
        self._future: asyncio.Future[None] | None = None
        """What a task waits for."""
        self._go_on: Callable[[object], None] | None = None
        """What steps wait with."""

    def done(self) -> bool:
        """Return whether the result is there, or is no longer waited for."""
        return self._over or (self._future is not None and self._future.cancelled())

    def set_result(self, result: T) -> None:
        """Tell the result. It must not be there yet."""
        assert not self._over
        self._result, self._over = result, True
        if self._future is not None:
            if not self._future.done():
                self._future.set_result(None)
        elif self._go_on is not None:
            if asyncio.current_task() is None:
                self._go_on(self)
            else:  # whose time-outs are not those of the steps
                asyncio.get_running_loop().call_soon(self._go_on, self)

    def cancel(self) -> None:
        """Take back that the result is waited for."""
        self._over = True

    def add_done_callback(self, go_on: Callable[[object], None]) -> None:
        """Call `go_on` when the result is told. Only `Steps` does this, once."""
        assert self._go_on is None
        self._go_on = go_on

    def __await__(self) -> Generator[Any, None, T]:
        """Wait for the result and return it."""
        if not self._over:
            if asyncio.current_task() is None:
                yield self
            else:
                if self._future is None:
                    self._future = asyncio.get_running_loop().create_future()
                yield from self._future
        return self._result


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
        self._awaited: asyncio.Future[Any] | Told[Any] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Run the coroutine to its first wait."""
        self._step(None)

    def cancel(self) -> None:
        """Raise CancelledError in the coroutine, where it waits."""
        if self._task is not None:
            self._task.cancel()
        elif self._awaited is not None:
            self._awaited = None
            self._step(None, asyncio.CancelledError())

    def _step(self, done: object, error: BaseException | None = None) -> None:
        if done is not self._awaited:
            return  # it was cancelled meanwhile
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
                self._awaited = awaited
                awaited.add_done_callback(self._step)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._ended(asyncio.CancelledError() if task.cancelled() else task.exception())


@coroutine
def _continued(work: Coroutine[Any, None, None]) -> Generator[Any, None, None]:
    """Await a coroutine that has begun already."""
    yield from work


async def _rest(work: Coroutine[Any, None, None]) -> None:
    await _continued(work)
