"""Be an event loop on which time jumps, that knows which process of the simulation each task
belongs to.

Same coroutines, same order, every time: sets of tasks are replaced by ordered ones. It never waits
and never selects.
"""

from __future__ import annotations

import asyncio
import asyncio.taskgroups
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

from tests.virtual import VirtualLoop

OWNER: Final[contextvars.ContextVar[Process | None]] = contextvars.ContextVar(
    "acordo_simulated_process", default=None
)


class Process:
    """What ends together when a node crashes: tasks, in the order in which they began.

    It has one thread: while a call blocks it (`stall`), nothing else of it runs, and what comes
    meanwhile waits.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.context = contextvars.copy_context()
        self.context.run(OWNER.set, self)
        self.busy_until_s = 0.0
        """When the call returns that blocks it; the rest of what made the call is run at once, and
        dated so.
        """
        self.stalled_s = 0.0
        """For how long it was blocked in all."""
        self._put_off: deque[_Turn] = deque()
        self.turns = 0
        """Callbacks of it that were run, each up to its next await."""
        self._waits_for_turn = 0
        self._at_turn: Callable[[], object] = lambda: None

    def at_turn(self, turn: int, action: Callable[[], object]) -> None:
        """Do something from outside right before its n-th turn."""
        self._waits_for_turn, self._at_turn = turn, action

    def begin_turn(self) -> None:
        """Count a turn."""
        self.turns += 1
        if self.turns == self._waits_for_turn:
            contextvars.Context().run(self._at_turn)

    def stall(self, seconds: float) -> None:
        """Block: called in the midst of what the process does."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        self.busy_until_s = max(self.busy_until_s, loop.now_s) + seconds
        self.stalled_s += seconds

    def enter(self, function: Callable[..., object], *args: Any) -> None:
        """Call into it from outside, if it lives, as soon as it is free."""
        if not self.alive:
            return
        context = self.context.copy()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        if not self.blocked(loop.now_s):
            context.run(function, *args)
            return
        turn = _Turn(self, function, args, outside=True)
        turn.handle = asyncio.Handle(turn, (), loop, context)
        self.put_off(turn, loop)

    def blocked(self, now_s: float) -> bool:
        return self.alive and (self.busy_until_s > now_s or bool(self._put_off))

    def put_off(self, turn: _Turn, loop: SimLoop) -> None:
        if not self._put_off:
            loop.call_at(self.busy_until_s, self._catch_up, loop, context=contextvars.Context())
        self._put_off.append(turn)

    def _catch_up(self, loop: SimLoop) -> None:
        """Run what has waited, in its order, until something blocks again."""
        while self._put_off and self.alive:
            if self.busy_until_s > loop.now_s:
                loop.call_at(self.busy_until_s, self._catch_up, loop, context=contextvars.Context())
                return
            self._put_off.popleft().go()

    def kill(self) -> None:
        """Cancel everything at whatever await it stands. Its doors to the outside are shut by
        whoever calls this.
        """
        self.alive = False
        for task in list(self.tasks):
            task.cancel()
        waiting, self._put_off = self._put_off, deque()
        for turn in waiting:
            if not turn.outside:
                asyncio.get_running_loop().call_soon(turn.go, context=contextvars.Context())


class _Turn:
    """One callback of a process: it waits while the process is blocked."""

    __slots__ = ("_args", "_function", "_owner", "_passes", "handle", "outside")

    def __init__(
        self,
        owner: Process,
        function: Callable[..., object],
        args: tuple[Any, ...],
        *,
        outside: bool = False,
    ) -> None:
        self._owner, self._function, self._args = owner, function, args
        self._passes = False
        self.outside = outside
        self.handle: asyncio.Handle

    def __call__(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        if not self._passes and self._owner.blocked(loop.now_s):
            self._owner.put_off(self, loop)
        else:
            self._owner.begin_turn()
            self._function(*self._args)

    def go(self) -> None:
        self._passes = True
        if not self.handle.cancelled():
            self.handle._run()


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


class SimLoop(VirtualLoop):
    """The loop of one simulated world."""

    def __init__(self) -> None:
        super().__init__(0.0, real=False)
        self.set_task_factory(_owned_task)
        self.set_exception_handler(self._on_error)
        self.errors: list[str] = []
        """What callbacks raised, and nobody caught."""

    def time(self) -> float:
        """Return the time as the caller has it: a process that was blocked goes on when its call
        has returned.
        """
        owner = OWNER.get()
        return self.now_s if owner is None else max(self.now_s, owner.busy_until_s)

    def call_soon(  # type: ignore[override]  # the callback's types are its caller's affair
        self, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        owner = OWNER.get() if context is None else context.get(OWNER)
        if owner is None:
            return super().call_soon(callback, *args, context=context)
        turn = _Turn(owner, callback, args)
        turn.handle = super().call_soon(turn, context=context)
        return turn.handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        owner = OWNER.get() if context is None else context.get(OWNER)
        if owner is None:
            return super().call_at(when, callback, *args, context=context)
        turn = _Turn(owner, callback, args)
        timer = super().call_at(when, turn, context=context)
        turn.handle = timer
        return timer

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.errors.append(repr(context.get("exception") or context.get("message")))


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
