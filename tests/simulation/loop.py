"""Be an event loop on which time jumps, that knows which process of the simulation each task belongs to.

Same coroutines, same order, every time: sets of tasks are replaced by ordered ones. It never waits and never selects.
"""

from __future__ import annotations

import asyncio
import asyncio.taskgroups
import contextvars
import selectors
from collections.abc import Coroutine, Iterator
from typing import Any, Final

OWNER: Final[contextvars.ContextVar[Process | None]] = contextvars.ContextVar("acordo_simulated_process", default=None)


class Process:
    """What ends together when a node crashes: tasks, in the order in which they began."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.context = contextvars.copy_context()
        self.context.run(OWNER.set, self)

    def kill(self) -> None:
        """Cancel everything at whatever await it stands. Its doors to the outside are shut by whoever calls this."""
        self.alive = False
        for task in list(self.tasks):
            task.cancel()


class Ordered(dict[Any, None]):
    """A set that keeps the order in which its members came."""

    def add(self, member: Any) -> None:
        self[member] = None

    def discard(self, member: Any) -> None:
        self.pop(member, None)

    def remove(self, member: Any) -> None:
        del self[member]

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self.keys()))


class OrderedTaskGroup(asyncio.taskgroups.TaskGroup):
    """A TaskGroup that cancels its tasks in the order in which they were made."""

    def __init__(self) -> None:
        super().__init__()
        self._tasks: Any = Ordered()


class _Jump(selectors.BaseSelector):
    """Select nothing, and let the loop's time pass instead."""

    def __init__(self) -> None:
        self.now = 0.0
        self._map: dict[Any, selectors.SelectorKey] = {}

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing will ever happen again")
        if timeout > 0:
            self.now += timeout
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = selectors.SelectorKey(fileobj, 0, events, data)
        self._map[fileobj] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._map.pop(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self.register(fileobj, events, data)

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self._map[fileobj]

    def get_map(self) -> Any:
        return self._map

    def close(self) -> None:
        self._map.clear()


class SimLoop(asyncio.SelectorEventLoop):
    """The loop of one simulated world."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)
        self.set_task_factory(_owned_task)
        self.set_exception_handler(self._on_error)
        self.errors: list[str] = []

    def time(self) -> float:
        return self._jump.now

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.errors.append(f"{context.get('message')}: {context.get('exception')!r}")


def _owned_task(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any] | Any, **more: Any
) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **more)
    context = more.get("context")
    owner = OWNER.get() if context is None else context.get(OWNER)
    if owner is not None:
        owner.tasks[task] = None
        task.add_done_callback(lambda ended: owner.tasks.pop(ended, None))
    return task
