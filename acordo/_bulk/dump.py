"""Dump all keys under a prefix as NDJSON, as of one revision. The requested file name never holds
an incomplete dump.

All pages are at one revision. The checkpoint keeps the token of the next page and the length
written so far. A key with a ttl keeps its expiry time, as `expires_ms`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from acordo._bulk.checkpoints import (
    CHECKPOINT_VERSION,
    DumpPoint,
    beside,
    checkpoint_of_dump,
    in_thread_to_its_end,
    read_point,
    write_point,
)
from acordo._bulk.progress import OnProgress, Progress, ignore
from acordo._client import Client
from acordo._errors import BadRequest
from acordo._results import Found, Page
from acordo._wire import forms

PAGE_KEYS: Final = 500
LEASES_PREFIX: Final = b"acordo/leases/"
"""The keys of leases begin so."""
PAGE_TIMEOUT_S: Final = 30.0


class DumpDone(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a dump: all keys as of `revision`."""

    keys: int
    bytes: int
    revision: int
    resumed_at: int
    """Keys written by an earlier, interrupted run."""


async def dump(
    client: Client,
    target: Path,
    prefix: bytes = b"",
    *,
    page: int = PAGE_KEYS,
    timeout_s: float = PAGE_TIMEOUT_S,
    on_progress: OnProgress = ignore,
) -> DumpDone:
    """Write all keys under `prefix`, as of one revision, to `target`, which appears only when it is
    complete.

    A dump of the same target that was interrupted is resumed. `page`: keys per request; `timeout_s`
    bounds each request. Raises Pruned when its revision is no longer kept, BadRequest when the
    checkpoint belongs to another dump, ReadFailed, OSError.
    """
    dump_file = await in_thread_to_its_end(partial(_DumpFile, target, prefix))
    resumed_at = dump_file.keys
    try:
        if not dump_file.whole:
            async for got in client.pages(
                prefix, limit=page, token=dump_file.token, timeout_s=timeout_s
            ):
                await in_thread_to_its_end(partial(dump_file.add, got))
                on_progress(Progress(dump_file.keys, dump_file.size))
    finally:
        dump_file.file.close()
    await in_thread_to_its_end(dump_file.finish)
    return DumpDone(
        keys=dump_file.keys,
        bytes=dump_file.size,
        revision=dump_file.revision,
        resumed_at=resumed_at,
    )


async def dump_to(
    client: Client, write: Callable[[bytes], object], prefix: bytes = b"", *, page: int = PAGE_KEYS
) -> DumpDone:
    """Write the same lines to a stream. Such a dump cannot be resumed."""
    keys, size, revision = 0, 0, 0
    async for got in client.pages(prefix, limit=page, timeout_s=PAGE_TIMEOUT_S):
        text = _page_lines(got)
        write(text)
        keys, size = keys + len(_lasting(got)), size + len(text)
        revision = got.revision
    return DumpDone(keys=keys, bytes=size, revision=revision, resumed_at=0)


class _DumpFile:
    """A dump file in progress. What the checkpoint claims is always on disk."""

    def __init__(self, target: Path, prefix: bytes) -> None:
        """Open the unfinished file, truncated to what the checkpoint claims. Raises BadRequest,
        OSError.
        """
        self._target, self._prefix = target, prefix
        self._checkpoint, self._part = checkpoint_of_dump(target), beside(target, "part")
        point = _read_dump_point(self._checkpoint, prefix, self._part)
        self.keys = 0 if point is None else point.keys
        self.size = 0 if point is None else point.offset
        self.revision = 0 if point is None else point.revision
        self.token = None if point is None else point.token
        self.whole = point is not None and point.token is None
        self.file = self._part.open("wb" if point is None else "r+b")
        self.file.truncate(self.size)
        self.file.seek(self.size)

    def add(self, page: Page) -> None:
        """Append a page, then advance the checkpoint past it."""
        self.file.write(_page_lines(page))
        self.file.flush()
        os.fsync(self.file.fileno())
        self.keys, self.size = self.keys + len(_lasting(page)), self.file.tell()
        self.revision, self.token = page.revision, page.token
        point = DumpPoint(
            version=CHECKPOINT_VERSION,
            prefix=self._prefix.hex(),
            revision=self.revision,
            token=self.token,
            offset=self.size,
            keys=self.keys,
        )
        write_point(self._checkpoint, point)

    def finish(self) -> None:
        self._part.replace(self._target)
        self._checkpoint.unlink(missing_ok=True)


def _read_dump_point(checkpoint: Path, prefix: bytes, part: Path) -> DumpPoint | None:
    if not checkpoint.exists():
        return None
    point = read_point(checkpoint, DumpPoint)
    if point.prefix != prefix.hex() or not part.exists() or part.stat().st_size < point.offset:
        raise BadRequest(
            f"{checkpoint.name} is of another dump",
            code="checkpoint_of_another",
            allowed="the same prefix and file, or --restart to begin anew",
        )
    return point


def _page_lines(page: Page) -> bytes:
    return b"".join(map(_line, _lasting(page)))


def _lasting(page: Page) -> list[Found]:
    """Return what belongs into a dump: neither leases nor the keys that end with one, because their
    owners are not in it, and would never keep them alive.
    """
    return [
        found
        for found in page.found
        if found.lease is None and not found.key.startswith(LEASES_PREFIX)
    ]


def _line(found: Found) -> bytes:
    form: dict[str, object] = {"key": forms.to_json(found.key), "value": forms.to_json(found.value)}
    form["revision"] = found.revision
    if found.expires_ms is not None:
        form["expires_ms"] = found.expires_ms
    return msgspec.json.encode(form) + b"\n"
