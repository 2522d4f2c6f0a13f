"""Read ranges of keys as they were at one revision, linearizably or at this node's own position.

It never returns keys of two revisions together, nor keys that are the system's.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from msgspec import UNSET, Raw, UnsetType

from kv.errors import BackendUnavailable
from kv.model import Version
from kv.ports import Listing
from node.etcd.answers import KeyValue, RangeResponse, key_value, number
from node.etcd.call import Budget, Call
from node.etcd.messages import RangeRequest, SortTarget
from node.etcd.spans import chosen, first, is_empty, is_wanted, shown, sort_key, takes_all
from node.http.steps import in_task
from node.judging.positions import check_given
from node.judging.store_identity import check_store_identity
from node.reads.store_reads import check_snapshot
from node.wire.documents import encode

STEP_KEYS: Final = 64
OWN_STEP_KEYS: Final = 8
"""Keys of the first step where values of every size are inline (R11); later ones go by the size."""
BARE_STEP_KEYS: Final = 1000
STEP_BYTES: Final = 2 * 1024 * 1024
SLICE_KEYS: Final = 2_000
SLICE_BYTES: Final = 1024 * 1024
"""Keys, and bytes, after which other tasks of the event loop get a turn, while many are sorted or
encoded.
"""


@dataclass(slots=True)
class Found:
    """Present keys of a range at one revision. `count`: of all of them, with those left out."""

    head: int
    versions: list[Version]
    count: int


async def span(  # a range, and how much of it
    call: Call,
    begin: bytes,
    end: bytes,
    at: int | None = None,
    limit: int = 0,
    *,
    keys_only: bool = False,
    count_only: bool = False,
    budget: Budget | None = None,
) -> Found:
    """Return the first `limit` keys (0: all) of a range at a revision (None: the newest that the
    store has), and how many keys it has. Raises Pruned, NotApplied, BackendUnavailable, BadRequest,
    Refusal. `budget`: of the answer that it is for; None: it is looked at and let go.
    """
    reader = _Reader(call, begin, end, at, budget or Budget(call.services.load))
    if not end:
        limit = 1
    try:
        if not is_empty(begin, end) or at is None:
            await reader.read(limit, keys_only=keys_only, count_only=count_only)
    finally:
        if budget is None:
            reader.budget.release()
    return Found(reader.at or 0, reader.found, reader.count)


class _Reader:
    """One range that is being read, step by step, all at the revision of the first."""

    def __init__(
        self, call: Call, begin: bytes, end: bytes, at: int | None, budget: Budget
    ) -> None:
        self.budget = budget
        self._call, self._begin, self._end, self.at = call, begin, end, at
        self._after = b""
        self.found: list[Version] = []
        self.count = 0
        self._bytes = 0

    async def read(self, limit: int, *, keys_only: bool, count_only: bool) -> None:
        more = True
        while more:
            bare = keys_only or count_only or (0 < limit <= len(self.found))
            listing = await self._step(1 if not self._end else self._step_keys(bare), bare)
            if self.at is None:
                self.at = listing.head.last
            more = listing.more
            for version in listing.versions:
                self._after = version.key
                if shown(version.key):
                    await self._take(version, limit, bare=bare, count_only=count_only)
            more = more and bool(self._end) and bool(listing.versions)

    async def _take(self, version: Version, limit: int, *, bare: bool, count_only: bool) -> None:
        self.count += 1
        if count_only or (limit and len(self.found) >= limit):
            return
        if not bare and not isinstance(version.value, bytes):
            version = await whole(self._call, version)
        size = len(version.key) + (0 if bare else len(_bytes_of(version)))
        self._bytes += size
        await self.budget.take(size, left_s=self._call.x.left_s)
        self.found.append(version)

    def _step_keys(self, bare: bool) -> int:
        if bare:
            return BARE_STEP_KEYS
        if self._call.services.own is None:
            return STEP_KEYS
        each = max(1, self._bytes // max(1, len(self.found)))
        return OWN_STEP_KEYS if not self.found else max(1, min(STEP_KEYS, STEP_BYTES // each))

    async def _step(self, limit: int, bare: bool) -> Listing:
        services = self._call.services
        left_s = min(self._call.x.left_s, services.settings.store_timeout_s)
        services.reads.store.check_refusal()
        await in_task()
        settled = services.consensus.settled
        try:
            async with asyncio.timeout(left_s):
                listing = await services.store.list(
                    self._begin,
                    end=self._end or self._begin + b"\0",
                    after=self._after,
                    limit=limit,
                    at=self.at,
                    settled=settled.last,
                    keys_only=bare,
                    timeout_s=left_s,
                )
        except TimeoutError as exc:
            raise BackendUnavailable("store", f"no answer within {left_s:.1f} s") from exc
        check_snapshot(settled, listing.head, listing.digest_at)
        await check_store_identity(services.consensus, services.shared, settled, timeout_s=left_s)
        if self.at is not None:
            check_given(self.at, listing.head.last, "revision")
        return listing


def _bytes_of(version: Version) -> bytes:
    assert isinstance(version.value, bytes)
    return version.value


async def whole(call: Call, version: Version) -> Version:
    """Return a version with its value fetched. Raises BackendUnavailable."""
    value = await call.services.reads.store.value_of(version, deadline=call.x.deadline)
    return Version(
        version.key,
        version.revision,
        value or b"",
        version.expires_ms,
        version.create_revision,
        version.version,
        version.lease,
    )


async def position(call: Call, *, serializable: bool) -> None:
    """Return once a read of the newest state may begin. Raises NotApplied."""
    if not serializable:
        await call.services.reads.confirm_store(call.x.deadline)


async def reached(call: Call, at: int) -> None:
    """Return once this node has a revision that a client names. Raises NotApplied, BadRequest."""
    reads = call.services.reads
    if not await reads.reach(at, "revision", call.x.deadline):
        raise reads.behind(at)


async def asked_range(call: Call, asked: RangeRequest) -> tuple[Found, bool]:
    """Return the keys that a request asks for, in its order, and whether there are more. Raises
    what `span` raises.
    """
    at = asked.revision if asked.revision > 0 else None
    # Also for the past: another node may have let it be given up.
    await position(call, serializable=asked.serializable)
    if at is not None:
        await reached(call, at)
    limit = 0 if asked.limit <= 0 or takes_all(asked) else asked.limit + 1
    found = await span(
        call,
        asked.key,
        asked.range_end,
        at,
        limit,
        keys_only=asked.keys_only and asked.sort_target is not SortTarget.VALUE,
        count_only=asked.count_only,
        budget=call.budget,
    )
    found.versions, more = await in_order(found.versions, asked)
    return found, more


async def range_response(
    call: Call, asked: RangeRequest, found: Found, *, more: bool, revision: int | None = None
) -> RangeResponse:
    """Return the answer to a range. `revision`: that of the transaction that it is in."""
    kvs = await key_values(found.versions, keys_only=asked.keys_only)
    header = call.header(found.head) if revision is None else call.inner_header(revision)
    return RangeResponse(header, kvs, more or UNSET, number(found.count))


async def in_order(found: Sequence[Version], asked: RangeRequest) -> tuple[list[Version], bool]:
    """Return what `spans.chosen` does."""
    if len(found) <= SLICE_KEYS:
        return chosen(found, asked)
    key, reverse = sort_key(asked)
    runs: list[list[Version]] = []
    for start in range(0, len(found), SLICE_KEYS):
        run = [each for each in found[start : start + SLICE_KEYS] if is_wanted(each, asked)]
        if key is not None:
            run.sort(key=key, reverse=reverse)
        runs.append(run)
        await asyncio.sleep(0)
    merged: Iterable[Version] = (each for run in runs for each in run)
    if key is not None:
        merged = heapq.merge(*runs, key=key, reverse=reverse)
    kept: list[Version] = []
    for version in merged:
        kept.append(version)
        if len(kept) % SLICE_KEYS == 0:
            await asyncio.sleep(0)
    return first(kept, asked)


async def key_values(
    versions: Sequence[Version], *, keys_only: bool
) -> list[KeyValue] | Raw | UnsetType:
    """Return keys for an answer; many are encoded already."""
    pieces: list[bytes] = []
    part: list[KeyValue] = []
    size = 0
    for version in versions:
        value: Any = None if keys_only else version.value
        part.append(key_value(version, value))
        size += 0 if value is None else len(value)
        if len(part) >= SLICE_KEYS or size >= SLICE_BYTES:
            pieces.append(encode(part)[1:-1])
            part, size = [], 0
            await asyncio.sleep(0)
    if not pieces:
        return part or UNSET
    if part:
        pieces.append(encode(part)[1:-1])
    return Raw(b"[" + b",".join(pieces) + b"]")
