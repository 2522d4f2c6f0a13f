"""Load and dump many keys as NDJSON, with bounded memory, and go on after an interruption. Never
doubles or loses one.

Load: the op_id of a line is made of the load's id, the line's number and its content, so lines that
were sent before the interruption are recognised by the cluster and change nothing. A checkpoint
beside the file remembers the load's id and how far every line is known to be in; it is removed at
the end, so loading a file again writes again. Dump: all pages are at one revision; the checkpoint
keeps the token of the next page and the length of what is written. A key that is to be deleted
keeps its moment: a dump has it as `expires_ms`, and a load leaves out what is past it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

import msgspec

from acordo import _intents as intents
from acordo import _results as results
from acordo._client import Client
from acordo._errors import BadRequest, NotApplied, OutcomeUnknown
from acordo._intents import Intent
from acordo._outcomes import EXPIRED
from acordo._wire import forms, requests
from acordo._wire.forms import Damaged

BATCH_LINES: Final = 100
BATCH_BYTES: Final = 2 * 1024 * 1024
"""Of a request as it is sent: half of what a node, and the stack's load balancer, take."""
LARGE_BYTES: Final = 64 * 1024
"""A larger value goes as a raw PUT of its own: no JSON around it."""
LINE_BYTES_MAX: Final = 8 * 1024 * 1024
IN_FLIGHT: Final = 4
TIMEOUT_S: Final = 30.0
EXPIRIES_MAX: Final = 8
"""A line that expired so often, in this run and those before it, stops the load."""
CHECKPOINT_VERSION: Final = 1
RUN_AGAIN: Final = "other lines may be in: run it again, nothing is doubled"


class LoadPoint(msgspec.Struct, frozen=True, kw_only=True, tag="load"):
    """Up to here every line is known to be in."""

    version: int
    load_id: str
    lines: int = 0
    offset: int = 0
    prefix_hash: str = ""
    """Hash of the file's first `offset` bytes: another file is noticed."""
    began_ms: int = 0
    """Log time when the first line that expires was met, from which every ttl counts: a line that
    is sent again after an interruption has to be the same. So a key may outlive its moment by as
    long as the load took.
    """


class DumpPoint(msgspec.Struct, frozen=True, kw_only=True, tag="dump"):
    """Up to here the dump is on disk."""

    version: int
    prefix: str
    revision: int
    token: str | None
    offset: int
    keys: int


class Told(msgspec.Struct, frozen=True):
    """Progress: lines (or keys) done and bytes read (or written)."""

    lines: int
    bytes: int


class LoadDone(msgspec.Struct, frozen=True, kw_only=True):
    """What a load did. `again`: lines that an earlier, interrupted run had written."""

    lines: int
    again: int
    rejected: int
    resumed_at: int
    revision: int
    expired: int = 0
    """Lines left out: their moment had come before the load began."""


class DumpDone(msgspec.Struct, frozen=True, kw_only=True):
    """What a dump wrote: all keys as of `revision`."""

    keys: int
    bytes: int
    revision: int
    resumed_at: int


class Rejected(BadRequest):
    """A line that can never be loaded; lines before it may be in, the checkpoint stays."""

    maybe_applied = True
    advice = "other lines may be in: mend this one and run again, or leave such lines out with --keep-going"


class TooLong(Rejected):
    """A line too long to be read: it cannot be left out either."""

    advice = "other lines may be in: mend this one and run again"


class _Line(msgspec.Struct, frozen=True):
    number: int
    key: bytes
    value: bytes
    ttl_s: float | None
    op_id: str

    def op_id_after(self, expiries: int) -> str:
        """Return the op_id to go on under when so many before it have expired, which spends them
        for good.
        """
        return f"{self.op_id}-{expiries}" if expiries else self.op_id


class _Form(msgspec.Struct):
    """A line as it stands in the file: `ttl` (seconds from the load on) or a dump's `expires_ms`,
    not both. A dump's revision is taken and ignored.
    """

    key: object
    value: object
    ttl: float | None = None
    revision: int | None = None
    expires_ms: int | None = None


Progress = Callable[[Told], None]
_form_decoder: Final = msgspec.json.Decoder(_Form)


# --------------------------------------------------------------------------------------------- load


async def load(
    client: Client,
    source: BinaryIO,
    *,
    checkpoint: Path | None,
    in_flight: int = IN_FLIGHT,
    keep_going: bool = False,
    timeout_s: float = TIMEOUT_S,
    progress: Progress = lambda told: None,
    on_rejected: Callable[[int, str], None] = lambda line, why: None,
) -> LoadDone:
    """Write every line of `source`; the last line of a key wins. Goes on at `checkpoint` if that
    exists.

    Raises Rejected for a line that cannot be (with `keep_going` it is told and left out),
    NotApplied or OutcomeUnknown when the cluster does not take a line in time: run it again,
    nothing is doubled.
    """
    point = _load_point(checkpoint)
    loading = _Loading(
        client,
        checkpoint=checkpoint,
        point=point,
        timeout_s=timeout_s,
        keep_going=keep_going,
        progress=progress,
        on_rejected=on_rejected,
    )
    reader = _Reader(source, point, loading)
    await asyncio.to_thread(reader.skip_to_point)
    await loading.run(reader, in_flight)
    if checkpoint is not None:
        await _to_its_end(partial(checkpoint.unlink, missing_ok=True))
    return loading.done(resumed_at=point.lines)


class _Loading:
    """One run of a load: batches in flight, in the order of the file, none touching a key of
    another.
    """

    def __init__(
        self,
        client: Client,
        *,
        checkpoint: Path | None,
        point: LoadPoint,
        timeout_s: float,
        keep_going: bool,
        progress: Progress,
        on_rejected: Callable[[int, str], None],
    ) -> None:
        self._client, self._checkpoint, self._point = client, checkpoint, point
        self._timeout_s, self._keep_going, self._progress = timeout_s, keep_going, progress
        self._on_rejected = on_rejected
        self._flying: deque[_Flight] = deque()
        self._lines, self._again, self._rejected, self._revision, self._expired = 0, 0, 0, 0, 0

    def done(self, resumed_at: int) -> LoadDone:
        return LoadDone(
            lines=self._lines,
            again=self._again,
            rejected=self._rejected,
            resumed_at=resumed_at,
            revision=self._revision,
            expired=self._expired,
        )

    def past(self) -> None:
        """Note a line whose key would have been deleted by now."""
        self._expired += 1

    async def began_ms(self) -> int:
        """Return the log time from which the lines' moments count: once for the load, interrupted
        or not.
        """
        if not self._point.began_ms:
            now_ms = (await self._client.cluster(timeout_s=self._timeout_s)).now_ms
            self._point = msgspec.structs.replace(
                self._point, began_ms=now_ms or time.time_ns() // 1_000_000
            )
            await self._save()
        return self._point.began_ms

    def bad(self, number: int, why: str) -> None:
        """Note a line that can never be loaded. Raises Rejected unless the load keeps going."""
        if not self._keep_going:
            raise Rejected(f"line {number}: {why}", code="rejected")
        self._rejected += 1
        self._on_rejected(number, why)

    async def run(self, reader: _Reader, in_flight: int) -> None:
        await self._save()
        try:
            async for batch, mark in reader.batches():
                keys = frozenset(line.key for line in batch)
                # Batches in flight overtake each other: two with a key in common would leave the
                # older line's value.
                while len(self._flying) >= in_flight or any(
                    keys & flight.keys for flight in self._flying
                ):
                    await self._land()
                self._flying.append(
                    _Flight(len(batch), keys, mark, asyncio.create_task(self._send(batch)))
                )
            while self._flying:
                await self._land()
        finally:
            for flight in self._flying:
                flight.task.cancel()
            await asyncio.gather(*(flight.task for flight in self._flying), return_exceptions=True)

    async def _land(self) -> None:
        """Wait for the oldest batch, then move the checkpoint behind it."""
        flight = self._flying[0]
        await flight.task
        self._flying.popleft()
        self._lines += flight.lines
        self._point = msgspec.structs.replace(
            self._point,
            lines=flight.mark.lines,
            offset=flight.mark.offset,
            prefix_hash=flight.mark.prefix_hash,
        )
        await self._save()
        self._progress(Told(flight.mark.lines, flight.mark.offset))

    async def _save(self) -> None:
        if self._checkpoint is not None:
            await _to_its_end(partial(_replace, self._checkpoint, msgspec.json.encode(self._point)))

    async def _send(self, batch: list[_Line]) -> None:
        """Send a batch until each line is in, or was refused. Its keys are distinct, so lines may
        end in any order.
        """
        expiries = 0
        while batch:
            if expiries > EXPIRIES_MAX:
                told = f"line {batch[0].number} expires every time"
                raise NotApplied(told, reason=EXPIRED, op_id=batch[0].op_id, advice=RUN_AGAIN)
            items = await self._ask(batch, expiries)
            if len(batch) > 1 and any(item.outcome == "bad_request" for item in items):
                # One bad operation refuses the whole request, and so does whatever stands between,
                # when that takes less than a node: halves, until each is taken or it is clear which
                # line it is.
                middle = len(batch) // 2
                await self._send(batch[:middle])
                await self._send(batch[middle:])
                return
            late = []
            for line, item in zip(batch, items, strict=True):
                if item.outcome == EXPIRED:
                    late.append(line)
                else:
                    self._take(line, item)
            batch, expiries = late, expiries + 1

    async def _ask(self, batch: list[_Line], expiries: int) -> tuple[results.Item, ...]:
        first = batch[0]
        if len(first.value) <= LARGE_BYTES:
            intents = [_intent(line, line.op_id_after(expiries)) for line in batch]
            return await self._client.batch(intents, timeout_s=self._timeout_s)
        op_id = first.op_id_after(expiries)
        try:
            written = await self._client.put(
                first.key, first.value, ttl_s=first.ttl_s, op_id=op_id, timeout_s=self._timeout_s
            )
        except NotApplied as exc:
            if exc.reason != EXPIRED:
                exc.advice = RUN_AGAIN
                raise
            return (results.Item(op_id=op_id, outcome="expired"),)
        except BadRequest as exc:
            return (results.Item(op_id=op_id, outcome="bad_request", detail=exc.detail),)
        return (
            results.Item(
                op_id=op_id, outcome="applied", revision=written.revision, again=written.again
            ),
        )

    def _take(self, line: _Line, item: results.Item) -> None:
        told = f"line {line.number}: {item.detail or item.outcome}"
        match item.outcome:
            case "applied":
                self._again += item.again
                self._revision = max(self._revision, item.revision)
            case "unknown":
                raise OutcomeUnknown(told, op_id=line.op_id)
            case "not_applied" | "expired":  # the latter was dealt with before
                raise NotApplied(told, reason=item.outcome, op_id=line.op_id, advice=RUN_AGAIN)
            case "bad_request" | "mismatch" | "refused":
                self.bad(line.number, item.detail or item.outcome)


def _intent(line: _Line, op_id: str) -> Intent:
    return Intent(writes=(intents.put(line.key, line.value, ttl_s=line.ttl_s),), op_id=op_id)


def _sent_bytes(line: _Line) -> int:
    """Return how many bytes a line takes in a request, at most: values that are no text grow by a
    third in JSON, and control characters to six times their size.
    """
    return len(requests.batch_request([_intent(line, line.op_id_after(EXPIRIES_MAX))]).body or b"")


class _Mark(msgspec.Struct, frozen=True):
    """A place between two lines."""

    lines: int
    offset: int
    prefix_hash: str


class _Flight(msgspec.Struct, frozen=True):
    """A batch that was sent and has not landed."""

    lines: int
    keys: frozenset[bytes]
    mark: _Mark
    task: asyncio.Task[None]


class _Reader:
    """Cut a file into batches, knowing at every cut how far it has come."""

    def __init__(self, source: BinaryIO, point: LoadPoint, loading: _Loading) -> None:
        self._source, self._point, self._loading = source, point, loading
        self._bad = loading.bad
        self._hash = hashlib.blake2b(digest_size=16)
        self._number, self._offset = 0, 0

    def skip_to_point(self) -> None:
        """Read what is known to be in. Raises BadRequest when the file is not the one that was
        begun with.
        """
        left = self._point.offset
        while left:
            part = self._source.read(min(left, 1 << 20))
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

    async def batches(self) -> AsyncIterator[tuple[list[_Line], _Mark]]:
        """Iterate over batches of lines with distinct keys, each with the place behind it."""
        batch: list[_Line] = []
        keys: set[bytes] = set()
        size = 0
        while raws := await asyncio.to_thread(self._some):
            for raw in raws:
                began_ms = await self._loading.began_ms() if b'"expires_ms"' in raw else 0
                line = self._parse(self._number + 1, raw, began_ms)
                large = line is not None and len(line.value) > LARGE_BYTES
                weight = 0 if line is None or large else _sent_bytes(line)
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
                keys.add(line.key)
                size += weight
                if large:
                    yield batch, self._mark()
                    batch, keys, size = [], set(), 0
        yield batch, self._mark()

    def _mark(self) -> _Mark:
        return _Mark(self._number, self._offset, self._hash.hexdigest())

    def _some(self) -> list[bytes]:
        """Read up to about 1 MiB of lines, in a thread: a pipe may be slow."""
        lines, size = [], 0
        while size < (1 << 20):
            line = self._source.readline(LINE_BYTES_MAX + 1)
            if not line:
                break
            if len(line) > LINE_BYTES_MAX:
                raise TooLong(f"a line is longer than {LINE_BYTES_MAX} bytes", code="line_too_long")
            lines.append(line)
            size += len(line)
        return lines

    def _parse(self, number: int, raw: bytes, began_ms: int) -> _Line | None:
        if not raw.strip():
            return None
        try:
            form = _form_decoder.decode(raw)
            key, value = intents.key_bytes(forms.from_json(form.key)), forms.from_json(form.value)
        except (msgspec.MsgspecError, Damaged, BadRequest, ValueError) as exc:
            self._bad(number, str(exc))
            return None
        if form.expires_ms is not None and form.ttl is not None:
            self._bad(number, "both ttl and expires_ms")
            return None
        ttl_s = form.ttl
        if form.expires_ms is not None:
            ttl_s = (form.expires_ms - began_ms) / 1000
            if ttl_s <= 0:
                self._loading.past()
                return None
        content = hashlib.blake2b(raw.strip(), digest_size=12).hexdigest()
        return _Line(number, key, value, ttl_s, f"{self._point.load_id}-{number}-{content}")


def _load_point(checkpoint: Path | None) -> LoadPoint:
    fresh = LoadPoint(version=CHECKPOINT_VERSION, load_id=f"load-{secrets.token_hex(10)}")
    if checkpoint is None or not checkpoint.exists():
        return fresh
    return _read_point(checkpoint, LoadPoint)


# --------------------------------------------------------------------------------------------- dump


async def dump(
    client: Client,
    target: Path,
    prefix: bytes = b"",
    *,
    page: int = 500,
    timeout_s: float = TIMEOUT_S,
    progress: Progress = lambda told: None,
) -> DumpDone:
    """Write all keys under `prefix`, as of one revision, to `target`, which appears only when it is
    whole.

    Goes on where an interrupted dump of the same target stopped. Raises Pruned when its revision is
    no longer kept.
    """
    checkpoint = _beside(target, "dump")
    dumping = await _to_its_end(partial(_Dumping, target, checkpoint, prefix))
    resumed_at = dumping.keys
    try:
        if not dumping.whole:
            async for got in client.pages(
                prefix, limit=page, token=dumping.token, timeout_s=timeout_s
            ):
                await _to_its_end(partial(dumping.add, got))
                progress(Told(dumping.keys, dumping.size))
    finally:
        dumping.file.close()
    await _to_its_end(dumping.finish)
    return DumpDone(
        keys=dumping.keys, bytes=dumping.size, revision=dumping.revision, resumed_at=resumed_at
    )


class _Dumping:
    """A dump on its way to the disk: what the checkpoint speaks of is always there."""

    def __init__(self, target: Path, checkpoint: Path, prefix: bytes) -> None:
        """Open the unfinished file, cut to what the checkpoint speaks of. Raises BadRequest,
        OSError.
        """
        self._target, self._checkpoint, self._prefix = target, checkpoint, prefix
        self._part = _beside(target, "part")
        point = _dump_point(checkpoint, prefix, self._part)
        self.keys, self.size, self.revision = 0, 0, 0
        self.token: str | None = None
        self.whole = False
        if point is not None:
            self.keys, self.size, self.revision, self.token = (
                point.keys,
                point.offset,
                point.revision,
                point.token,
            )
            self.whole = point.token is None
        self.file = self._part.open("wb" if point is None else "r+b")
        self.file.truncate(self.size)
        self.file.seek(self.size)

    def add(self, page: results.Page) -> None:
        """Append a page, then move the checkpoint behind it."""
        self.file.write(b"".join(_dumped(found) for found in page.found))
        self.file.flush()
        os.fsync(self.file.fileno())
        self.keys, self.size = self.keys + len(page.found), self.file.tell()
        self.revision, self.token = page.revision, page.token
        point = DumpPoint(
            version=CHECKPOINT_VERSION,
            prefix=self._prefix.hex(),
            revision=self.revision,
            token=self.token,
            offset=self.size,
            keys=self.keys,
        )
        _replace(self._checkpoint, msgspec.json.encode(point))

    def finish(self) -> None:
        self._part.replace(self._target)
        self._checkpoint.unlink(missing_ok=True)


async def dump_to(
    client: Client, write: Callable[[bytes], object], prefix: bytes = b"", *, page: int = 500
) -> DumpDone:
    """Write the same to a stream. It cannot go on after an interruption."""
    keys, size, revision = 0, 0, 0
    async for got in client.pages(prefix, limit=page, timeout_s=TIMEOUT_S):
        text = b"".join(_dumped(found) for found in got.found)
        write(text)
        keys, size, revision = keys + len(got.found), size + len(text), got.revision
    return DumpDone(keys=keys, bytes=size, revision=revision, resumed_at=0)


def checkpoint_of_load(source: Path) -> Path:
    """Return where the checkpoint of a load lies."""
    return _beside(source, "load")


def checkpoint_of_dump(target: Path) -> Path:
    """Return where the checkpoint of a dump lies."""
    return _beside(target, "dump")


def _dumped(found: results.Found) -> bytes:
    form: dict[str, object] = {"key": forms.to_json(found.key), "value": forms.to_json(found.value)}
    form["revision"] = found.revision
    if found.expires_ms is not None:
        form["expires_ms"] = found.expires_ms
    return msgspec.json.encode(form) + b"\n"


def _dump_point(checkpoint: Path, prefix: bytes, part: Path) -> DumpPoint | None:
    if not checkpoint.exists():
        return None
    point = _read_point(checkpoint, DumpPoint)
    if point.prefix != prefix.hex() or not part.exists() or part.stat().st_size < point.offset:
        raise BadRequest(
            f"{checkpoint.name} is of another dump",
            code="checkpoint_of_another",
            allowed="the same prefix and file, or --restart to begin anew",
        )
    return point


# -------------------------------------------------------------------------------------- checkpoints

_P = TypeVar("_P", LoadPoint, DumpPoint)
_T = TypeVar("_T")


def _read_point(checkpoint: Path, kind: type[_P]) -> _P:
    try:
        point = msgspec.json.decode(checkpoint.read_bytes(), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise BadRequest(
            f"{checkpoint} is no checkpoint: {exc}",
            code="bad_checkpoint",
            allowed="--restart to begin anew",
        ) from exc
    if point.version != CHECKPOINT_VERSION:
        raise BadRequest(
            f"{checkpoint} is of another version", code="bad_checkpoint", allowed="--restart"
        )
    return point


async def _to_its_end(work: Callable[[], _T]) -> _T:
    """Do disk work in a thread. Cancelling waits for its end: the next run must not meet it still
    writing.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name}.acordo-{what}")


def _replace(path: Path, content: bytes) -> None:
    """Replace a file so that a crash leaves the old one or the new one."""
    fresh = path.with_name(path.name + "~")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # without it a power cut may take the new name back
    finally:
        os.close(descriptor)
