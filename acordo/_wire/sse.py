"""Parse a stream of server-sent events (WHATWG HTML section 9.2). Pure: bytes in, events out."""

from __future__ import annotations

from typing import Final

import msgspec

EVENT_BYTES_MAX: Final = 16 * 1024 * 1024
"""Largest event. One with a 1 MiB value whose every byte is escaped takes 6 MiB."""


class ServerEvent(msgspec.Struct, frozen=True):
    """One event. `id` is None unless this very event had one."""

    kind: str
    data: bytes
    id: str | None


class EventTooLong(ValueError):
    """An error about an event larger than EVENT_BYTES_MAX."""


class Parser:
    """An incremental parser of the stream. An event that the end of the stream cuts off is never
    returned.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._kind, self._data, self._size = "", list[bytes](), 0
        self._id: str | None = None

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """Return the events that are complete now. Raises EventTooLong."""
        *lines, self._rest = (
            (self._rest + chunk).split(b"\n") if b"\n" in chunk else (self._rest + chunk,)
        )
        if len(self._rest) > EVENT_BYTES_MAX:
            raise EventTooLong
        events = []
        for line in lines:
            event = self._line(line.removesuffix(b"\r"))
            if event is not None:
                events.append(event)
        return events

    def _line(self, line: bytes) -> ServerEvent | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._size += len(value)
            if self._size > EVENT_BYTES_MAX:
                raise EventTooLong
            self._data.append(value)
        elif field == b"event":
            self._kind = value.decode("utf-8", "replace")
        elif field == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
        return None

    def _dispatch(self) -> ServerEvent | None:
        kind, data, id_ = self._kind, self._data, self._id
        self._kind, self._id = "", None
        self._data, self._size = [], 0
        if not data and id_ is None:
            return None
        return ServerEvent(kind or "message", b"\n".join(data), id_)
