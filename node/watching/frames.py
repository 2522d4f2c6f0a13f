"""Encode events once for all watchers, and count the frames that wait in sockets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from kv.ports import Change
from node.watching.ring import part_key
from node.watching.single_flight import SingleFlight


class Frames:
    """The encoded frames of changes, each encoded once for all watchers. The newest are kept,
    bounded in bytes.
    """

    def __init__(self, bytes_max: int) -> None:
        self._frames: SingleFlight[tuple[int, int, bytes], bytes] = SingleFlight(bytes_max, len)
        self.made_total = 0

    def forget(self) -> None:
        """Drop every frame."""
        self._frames.clear()

    async def of(self, change: Change, make: Callable[[Change], Awaitable[bytes]]) -> bytes:
        """Return the frame of a change, from the cache or encoded by `make`. Raises what `make`
        raises.
        """
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
    """The frames that wait in watchers' sockets. A frame counts once, however many watchers it
    waits for; a watcher that would exceed the bound is disconnected.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._waiting: dict[int, int] = {}
        self.bytes = 0

    def hold(self, frame: bytes) -> bool:
        """Count a frame that its reader does not take; return whether the total stays within the
        bound.
        """
        known = self._waiting.get(id(frame), 0)
        if not known:
            self.bytes += len(frame)
        self._waiting[id(frame)] = known + 1
        return self.bytes <= self._bytes_max

    def let_go(self, frame: bytes) -> None:
        """Stop counting a frame for one of its waiting readers."""
        known = self._waiting[id(frame)] - 1
        if known:
            self._waiting[id(frame)] = known
        else:
            del self._waiting[id(frame)]
            self.bytes -= len(frame)
