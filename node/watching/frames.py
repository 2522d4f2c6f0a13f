"""Hold what is written to watchers: events made once for all of them, and those that wait in
sockets.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from kv.ports import Change
from node.watching.ring import part_key
from node.watching.single_flight import SingleFlight


class Frames:
    """The bytes that are written for changes, made once for all who watch them. The newest are
    kept, bounded in bytes.
    """

    def __init__(self, bytes_max: int) -> None:
        self._frames: SingleFlight[tuple[int, int, bytes], bytes] = SingleFlight(bytes_max, len)
        self.made_total = 0

    def forget(self) -> None:
        """Keep none."""
        self._frames.clear()

    async def of(self, change: Change, make: Callable[[Change], Awaitable[bytes]]) -> bytes:
        """Return the frame of a change. Raises what `make` raises."""
        key = part_key(change)
        frame = self._frames.held(key)
        if frame is not None:
            return frame

        async def counted() -> bytes:
            made = await make(change)
            self.made_total += 1
            return made

        frame = await self._frames.get(key, counted)
        assert frame is not None
        return frame


class Unsent:
    """The frames that wait in sockets, each counted once however many wait for it; who would wait
    beyond is cut.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._waiting: dict[int, int] = {}
        self.bytes = 0

    def hold(self, frame: bytes) -> bool:
        """Count a frame that its reader does not take; return whether it may wait."""
        known = self._waiting.get(id(frame), 0)
        if not known:
            self.bytes += len(frame)
        self._waiting[id(frame)] = known + 1
        return self.bytes <= self._bytes_max

    def let_go(self, frame: bytes) -> None:
        """Count it no more for one of them."""
        known = self._waiting[id(frame)] - 1
        if known:
            self._waiting[id(frame)] = known
        else:
            del self._waiting[id(frame)]
            self.bytes -= len(frame)
