"""Split an NDJSON file into batches of lines, tracking the position after each batch.

Never talks to the cluster, and never gives a line another op_id than it had in an interrupted run.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import BinaryIO, Final

import msgspec

from acordo import _intents as intents
from acordo._bulk.checkpoints import LoadPoint
from acordo._bulk.tally import Rejected, Tally
from acordo._errors import BadRequest
from acordo._intents import Intent
from acordo._wire import forms, requests

BATCH_LINES: Final = 100
BATCH_BYTES: Final = 2 * 1024 * 1024
"""Size of a request as it is sent: half of what a node and the stack's load balancer accept."""
LARGE_BYTES: Final = 64 * 1024
"""A larger value is sent as a raw PUT of its own, without JSON around it."""
LINE_BYTES_MAX: Final = 8 * 1024 * 1024
READ_BYTES: Final = 1024 * 1024
"""Roughly the number of bytes read at a time."""
EXPIRIES_MAX: Final = 8
"""A line that has expired this often, in this run and those before it, stops the load."""


class TooLong(Rejected):
    """A line that is too long to be read, and so cannot be skipped either."""

    advice = "other lines may be in: mend this one and run again"


class Line(msgspec.Struct, frozen=True):
    """One line of the file: a key to set, and the op_id that makes repeating it harmless. Without a
    key it is a lease alone.
    """

    number: int
    key: bytes
    value: bytes
    ttl_s: float | None
    op_id: str
    lease: tuple[str, float] | None = None
    """The lease of the key, and its ttl in seconds."""

    @property
    def large(self) -> bool:
        """Whether the value is sent as a request of its own."""
        return len(self.value) > LARGE_BYTES

    def op_id_after(self, expiries: int) -> str:
        """Return the op_id to use after `expiries` earlier ones have expired; an expired op_id can
        never be used again.
        """
        return f"{self.op_id}-{expiries}" if expiries else self.op_id

    def intent(self, expiries: int) -> Intent:
        """Return the operation that writes the line."""
        lease = self.lease[0] if self.lease else None
        write = intents.put(self.key, self.value, ttl_s=self.ttl_s, lease=lease)
        return Intent(writes=(write,), op_id=self.op_id_after(expiries))


class Mark(msgspec.Struct, frozen=True):
    """A position between two lines of the file."""

    lines: int
    offset: int
    prefix_hash: str


class _Form(msgspec.Struct):
    """A line as it is in the file: `ttl` (seconds from the start of the load) or a dump's
    `expires_ms`, not both. A dump's revision is accepted and ignored. `lease` and `lease_ttl` go
    together; a line of theirs alone is a lease without keys.
    """

    key: object = None
    value: object = None
    lease: str | None = None
    lease_ttl: float | None = None
    ttl: float | None = None
    revision: int | None = None
    expires_ms: int | None = None


_form_decoder: Final = msgspec.json.Decoder(_Form)


class LineReader:
    """The reader of an NDJSON file, one batch at a time."""

    def __init__(
        self,
        source: BinaryIO,
        point: LoadPoint,
        tally: Tally,
        began_ms: Callable[[], Awaitable[int]],
    ) -> None:
        """`began_ms` returns the log time from which ttls count; it is called when a line needs
        it.
        """
        self._source, self._point, self._tally = source, point, tally
        self._began_ms = began_ms
        self._hash = hashlib.blake2b(digest_size=16)
        self._number, self._offset = 0, 0

    def skip_to_point(self) -> None:
        """Skip the lines that are known to be written. Raises BadRequest when the file is not the
        one that the load began with.
        """
        left = self._point.offset
        while left:
            part = self._source.read(min(left, READ_BYTES))
            if not part:
                break
            self._hash.update(part)
            left -= len(part)
        if left or (self._point.offset and self._hash.hexdigest() != self._point.prefix_hash):
            raise BadRequest(
                "the file is not the one that the interrupted load began with",
                code="file_changed",
                allowed="the same file, or --restart to begin anew",
            )
        self._number, self._offset = self._point.lines, self._point.offset

    async def batches(self) -> AsyncIterator[tuple[list[Line], Mark]]:
        """Iterate over batches of lines with distinct keys, each with the position after it.

        Raises Rejected for a line that can never be loaded, unless the load skips such lines.
        """
        batch: list[Line] = []
        keys: set[bytes] = set()
        size = 0
        while raws := await asyncio.to_thread(self._read_some):
            for raw in raws:
                began_ms = await self._began_ms() if b'"expires_ms"' in raw else 0
                line = self._parse(self._number + 1, raw, began_ms)
                large = line is not None and line.large
                weight = 0 if line is None or large or not line.key else _sent_bytes(line)
                full = large or len(batch) >= BATCH_LINES or size + weight > BATCH_BYTES
                if batch and (full or (line is not None and line.key in keys)):
                    yield batch, self._mark()
                    batch, keys, size = [], set(), 0
                self._number += 1
                self._offset += len(raw)
                self._hash.update(raw)
                if line is None:
                    continue
                batch.append(line)
                keys |= {line.key} if line.key else set()
                size += weight
                if large:
                    yield batch, self._mark()
                    batch, keys, size = [], set(), 0
        yield batch, self._mark()

    def _mark(self) -> Mark:
        return Mark(self._number, self._offset, self._hash.hexdigest())

    def _read_some(self) -> list[bytes]:
        """Read up to about READ_BYTES of lines. It runs in a thread, because a pipe may be slow."""
        lines, size = [], 0
        while size < READ_BYTES:
            line = self._source.readline(LINE_BYTES_MAX + 1)
            if not line:
                break
            if len(line) > LINE_BYTES_MAX:
                raise TooLong(f"a line is longer than {LINE_BYTES_MAX} bytes", code="line_too_long")
            lines.append(line)
            size += len(line)
        return lines

    def _parse(self, number: int, raw: bytes, began_ms: int) -> Line | None:
        """Return the line, or None when there is nothing to write."""
        if not raw.strip():
            return None
        try:
            form = _form_decoder.decode(raw)
            lease = _lease_in(form)
            if lease and form.key is None and form.value is None:
                return Line(number, b"", b"", None, "", lease)
            key = intents.key_bytes(forms.from_json(form.key))
            value = forms.from_json(form.value)
        except (msgspec.MsgspecError, forms.Damaged, BadRequest, ValueError, RecursionError) as exc:
            self._tally.reject(number, str(exc))
            return None
        if form.expires_ms is not None and form.ttl is not None:
            self._tally.reject(number, "both ttl and expires_ms")
            return None
        ttl_s = form.ttl
        if form.expires_ms is not None:
            ttl_s = (form.expires_ms - began_ms) / 1000
            if ttl_s <= 0:
                self._tally.expired += 1
                return None
        content = hashlib.blake2b(raw.strip(), digest_size=12).hexdigest()
        return Line(number, key, value, ttl_s, f"{self._point.load_id}-{number}-{content}", lease)


def _lease_in(form: _Form) -> tuple[str, float] | None:
    """Return the lease of a line and its ttl. Raises ValueError."""
    if form.lease is None and form.lease_ttl is None:
        return None
    if form.lease is None or form.lease_ttl is None:
        raise ValueError("lease and lease_ttl go together")
    return form.lease, form.lease_ttl


def _sent_bytes(line: Line) -> int:
    """Return how many bytes a line takes in a request, at most: in JSON, values that are not text
    grow by a third, and control characters to six times their size.
    """
    return len(requests.batch_request([line.intent(EXPIRIES_MAX)]).body or b"")
