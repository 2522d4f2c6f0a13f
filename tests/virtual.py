"""Run tests on a loop whose time is virtual: waits cost nothing, and the same test always runs the
same way.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

EPOCH_MS: Final = 1_700_000_000_000


class JumpingSelector(selectors.BaseSelector):
    """A selector that never waits: it lets the loop's time jump to the next timer instead.

    `real` looks at files and sockets too, for tests that have some, or threads.
    """

    def __init__(self, start_s: float = 0.0, *, real: bool = True) -> None:
        self.now_s = start_s
        self._real = selectors.DefaultSelector() if real else None
        self._map: dict[Any, selectors.SelectorKey] = {}

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(0) if self._real is not None else []
        if timeout is None and not ready:
            raise RuntimeError("everything waits for something that nobody does")
        if timeout is not None and timeout > 0:
            self.now_s += timeout
        return ready

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if self._real is not None:
            return self._real.register(fileobj, events, data)
        key = selectors.SelectorKey(fileobj, 0, events, data)
        self._map[fileobj] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._map.pop(fileobj) if self._real is None else self._real.unregister(fileobj)

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self._map[fileobj] if self._real is None else self._real.get_key(fileobj)

    def get_map(self) -> Any:
        return self._map if self._real is None else self._real.get_map()

    def close(self) -> None:
        self._map.clear()
        if self._real is not None:
            self._real.close()


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on which waiting takes no time."""

    def __init__(self, start_s: float = 1000.0, *, real: bool = True) -> None:
        self._jumping = JumpingSelector(start_s, real=real)
        super().__init__(self._jumping)

    @property
    def now_s(self) -> float:
        return self._jumping.now_s

    def time(self) -> float:
        return self._jumping.now_s

    def pass_time(self, seconds: float) -> None:
        """Let time pass in which the loop does nothing else."""
        self._jumping.now_s += seconds


class VirtualClock:
    """The clock of a machine on a VirtualLoop; its wall clock can be set off."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wall_off_ms: int = 0) -> None:
        self._loop, self.wall_off_ms = loop, wall_off_ms

    def monotonic(self) -> float:
        return self._loop.time()

    def wall_ms(self) -> int:
        return EPOCH_MS + int(self._loop.time() * 1000) + self.wall_off_ms


def run(story: Callable[[], Coroutine[Any, Any, T]], *, limit_s: float = 600.0) -> T:
    """Run a story to its end within `limit_s` of virtual time."""

    async def limited() -> T:
        return await asyncio.wait_for(story(), limit_s)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(limited())


async def until(holds: Callable[[], bool], *, limit_s: float = 60.0) -> None:
    """Wait until a condition holds."""
    ends_s = asyncio.get_running_loop().time() + limit_s
    while not holds():
        if asyncio.get_running_loop().time() > ends_s:
            raise AssertionError("the condition never held")
        await asyncio.sleep(0.001)
