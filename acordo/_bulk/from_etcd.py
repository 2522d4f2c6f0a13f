"""Copy the keys of an etcd, as of one of its revisions, into a file that `load` takes.

It asks etcd's JSON gateway alone, writes nothing there, and the requested file name never holds an
incomplete copy. A key with a lease keeps the time that the lease has left, as `expires_ms`.
"""

from __future__ import annotations

import base64
import binascii
import os
import time
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

import aiohttp
import msgspec

from acordo._bulk.checkpoints import beside, in_thread_to_its_end
from acordo._bulk.progress import OnProgress, Progress, ignore
from acordo._errors import BadRequest, ReadFailed
from acordo._wire import forms

PAGE_KEYS: Final = 500
PAGE_BYTES_MAX: Final = 256 * 1024 * 1024
TIMEOUT_S: Final = 30.0
ALL: Final = b"\0"
"""As the end of a range: all keys from its beginning on."""


class CopyDone(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a copy: all keys as of `revision`, which is etcd's."""

    keys: int
    leased: int
    """Of these, the keys with a lease."""
    revision: int


async def copy_etcd(url: str, target: Path, *, on_progress: OnProgress = ignore) -> CopyDone:
    """Write all keys of the etcd at `url` to `target`, which appears only when it is complete.

    Raises ReadFailed when etcd does not answer, BadRequest when it refuses or is none, OSError.
    """
    part = beside(target, "part")
    with part.open("wb") as file:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            done = await _Copy(session, url.rstrip("/"), file, on_progress).run()
        await in_thread_to_its_end(partial(_finish, file))
    part.replace(target)
    return done


def _finish(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


class _Copy:
    """One copy that is being made."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, file: BinaryIO, on_progress: OnProgress
    ) -> None:
        self._session, self._url, self._file = session, url, file
        self._on_progress = on_progress
        self._ends: dict[str, int] = {}
        """When each lease ends, in milliseconds of the wall clock, unless it is renewed."""

    async def run(self) -> CopyDone:
        begin, revision, keys, leased = ALL, 0, 0, 0
        more = True
        while more:
            asked = {"key": _b64(begin), "range_end": _b64(ALL), "limit": PAGE_KEYS}
            page = await self._ask("kv/range", asked | {"revision": revision})
            revision = revision or forms.integer(page.get("header", {}).get("revision"))
            found = page.get("kvs", [])
            text = b"".join([await self._line(kv) for kv in found])
            await in_thread_to_its_end(partial(self._file.write, text))
            leased += sum("lease" in kv for kv in found)
            keys += len(found)
            more = bool(page.get("more")) and bool(found)
            if found:
                begin = _bytes(found[-1].get("key")) + b"\0"
            self._on_progress(Progress(keys, self._file.tell()))
        return CopyDone(keys=keys, leased=leased, revision=revision)

    async def _line(self, kv: dict[str, Any]) -> bytes:
        form: dict[str, object] = {
            "key": forms.to_json(_bytes(kv.get("key"))),
            "value": forms.to_json(_bytes(kv.get("value", ""))),
        }
        if "lease" in kv:
            form["expires_ms"] = await self._end_of(str(kv["lease"]))
        return msgspec.json.encode(form) + b"\n"

    async def _end_of(self, lease: str) -> int:
        if lease not in self._ends:
            asked_ms = int(time.time() * 1000)
            told = await self._ask("lease/timetolive", {"ID": lease})
            left_s = max(0, _seconds(told.get("TTL", "0")))
            self._ends[lease] = asked_ms + left_s * 1000
        return self._ends[lease]

    async def _ask(self, path: str, body: dict[str, object]) -> dict[str, Any]:
        try:
            async with self._session.post(f"{self._url}/v3/{path}", json=body) as response:
                raw = await response.content.read(PAGE_BYTES_MAX)
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise ReadFailed(
                f"etcd at {self._url} does not answer: {exc!r}", reason="no_answer"
            ) from exc
        try:
            answer = forms.json_object(raw)
        except forms.Damaged as exc:
            raise BadRequest(
                f"{self._url} is no etcd: {raw[:100]!r}",
                code="no_etcd",
                allowed="etcd 3.4 or newer",
            ) from exc
        if status != 200:
            said = str(answer.get("message") or answer.get("error"))
            if status in {429, 500, 503, 504}:
                raise ReadFailed(f"etcd at {self._url}: {said}", reason="no_answer")
            raise BadRequest(f"etcd at {self._url}: {said}", code="no_etcd")
        return answer


def _seconds(value: object) -> int:
    return -1 if value == "-1" else forms.integer(value)  # -1: the lease has ended meanwhile


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _bytes(value: object) -> bytes:
    try:
        return base64.b64decode(str(value), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise BadRequest(f"{value!r} is no base64", code="no_etcd") from exc
