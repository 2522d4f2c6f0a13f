"""Copy the keys of an etcd, as of one of its revisions, into a file that `load` takes.

It asks etcd's JSON gateway alone, writes nothing there, and the requested file name never holds an
incomplete copy. Leases keep their ids and their ttl, with keys and without. A key whose lease has
ended meanwhile, or whose lease's id Acordo cannot have, keeps the time left as `expires_ms`.
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
LEASE_TTL_S_MAX: Final = 315_360_000
"""Ten years: no lease is granted for longer."""
LEASES_MAX: Final = 1_000_000
ALL: Final = b"\0"
"""As the end of a range: all keys from its beginning on."""


class CopyDone(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a copy: all keys as of `revision`, which is etcd's."""

    keys: int
    leased: int
    """Of these, the keys with a lease."""
    leases: int
    """The leases, those without keys included."""
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
        self._leases: dict[str, dict[str, object]] = {}
        """By etcd's id of a lease: what a line with it says of it."""

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
        await self._without_keys()
        held = sum("lease" in form for form in self._leases.values())
        return CopyDone(keys=keys, leased=leased, leases=held, revision=revision)

    async def _without_keys(self) -> None:
        """Write the leases that no key has: their owners may be about to attach some."""
        told = await self._ask("lease/leases", {})
        ids = [str(each.get("ID")) for each in told.get("leases", [])[:LEASES_MAX]]
        forms_ = [await self._lease(each) for each in ids if each not in self._leases]
        lines = [msgspec.json.encode(form) + b"\n" for form in forms_ if "lease" in form]
        await in_thread_to_its_end(partial(self._file.write, b"".join(lines)))

    async def _line(self, kv: dict[str, Any]) -> bytes:
        form: dict[str, object] = {
            "key": forms.to_json(_bytes(kv.get("key"))),
            "value": forms.to_json(_bytes(kv.get("value", ""))),
        }
        if "lease" in kv:
            form |= await self._lease(str(kv["lease"]))
        return msgspec.json.encode(form) + b"\n"

    async def _lease(self, id_: str) -> dict[str, object]:
        """Return what a line says of its lease."""
        if id_ not in self._leases:
            asked_ms = int(time.time() * 1000)
            told = await self._ask("lease/timetolive", {"ID": id_})
            left_s, ttl_s = _seconds(told.get("TTL")), _seconds(told.get("grantedTTL"))
            if left_s < 0 or ttl_s <= 0 or int(id_) <= 0:
                self._leases[id_] = {"expires_ms": asked_ms + max(0, left_s) * 1000}
            else:
                ttl_s = min(ttl_s, LEASE_TTL_S_MAX)
                self._leases[id_] = {"lease": f"{int(id_):016x}", "lease_ttl": ttl_s}
        return self._leases[id_]

    async def _ask(self, path: str, body: dict[str, object]) -> dict[str, Any]:
        try:
            async with self._session.post(f"{self._url}/v3/{path}", json=body) as response:
                raw = await _whole(response)
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


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    """Return the body of an answer, up to PAGE_BYTES_MAX: a single read gives what is there."""
    parts, size = list[bytes](), 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > PAGE_BYTES_MAX:
            break
    return b"".join(parts)


def _seconds(value: object) -> int:
    """Return a number of the gateway's; it leaves out those that are 0. -1: the lease has ended."""
    return -1 if value == "-1" else forms.integer("0" if value is None else value)


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _bytes(value: object) -> bytes:
    try:
        return base64.b64decode(str(value), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise BadRequest(f"{value!r} is no base64", code="no_etcd") from exc
