"""Answer the steps of a transaction that took effect: what it read, replaced and deleted.

It reads the state before the transaction's revision and lays the branch's own writes over it, in
order. It decides nothing: which branch was taken, and what was written, the outcome and the store
say.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence

from msgspec import UNSET

from kv.errors import BackendUnavailable
from kv.model import Version
from node.etcd.answers import (
    DeleteRangeResponse,
    Header,
    KeyValue,
    PutResponse,
    RangeResponse,
    ResponseOp,
    TxnResponse,
    key_value,
    number,
)
from node.etcd.call import Call
from node.etcd.messages import (
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    SortTarget,
    TxnRequest,
)
from node.etcd.reading import Found, in_order, range_response, reached, span, whole
from node.etcd.refusals import FUTURE, Refusal
from node.etcd.spans import covers


class Replies:
    """The answers to the steps of one transaction at a revision. `writes`: it may have written;
    without, its revision is that of the state that it read.
    """

    def __init__(self, call: Call, revision: int, *, writes: bool = True) -> None:
        self._call, self._revision = call, revision
        self._before = revision - 1 if writes else revision
        self._written: dict[bytes, Version | None] = {}
        """What the steps so far made of keys; None: absent."""

    async def of(self, ops: Sequence[RequestOp], taken: Iterator[bool]) -> list[ResponseOp]:
        """Return the answers of a branch. `taken`: which branches its transactions took. Raises
        what reads raise.
        """
        return [await self._one(op, taken) for op in ops]

    async def _one(self, op: RequestOp, taken: Iterator[bool]) -> ResponseOp:
        if op.request_range is not None:
            return ResponseOp(response_range=await self._range(op.request_range))
        if op.request_put is not None:
            return ResponseOp(response_put=await self.put(op.request_put))
        if op.request_delete_range is not None:
            return ResponseOp(response_delete_range=await self.delete(op.request_delete_range))
        assert op.request_txn is not None
        return ResponseOp(response_txn=await self._transaction(op.request_txn, taken))

    async def _transaction(self, form: TxnRequest, taken: Iterator[bool]) -> TxnResponse:
        held = next(taken)
        responses = await self.of(form.success if held else form.failure, taken)
        return TxnResponse(Header(), held or UNSET, responses or UNSET)

    async def _range(self, asked: RangeRequest) -> RangeResponse:
        at = asked.revision
        bare = asked.count_only or (asked.keys_only and asked.sort_target is not SortTarget.VALUE)
        if at > self._revision:
            raise Refusal(*FUTURE)
        if at > 0 and at <= self._before:
            await reached(self._call, at)
            budget = self._call.budget
            found = await span(
                self._call, asked.key, asked.range_end, at, keys_only=bare, budget=budget
            )
        else:
            found = await self._now(asked.key, asked.range_end, bare=bare)
        if asked.count_only:
            found.versions, more = [], False
        else:
            found.versions, more = await in_order(found.versions, asked)
        return await range_response(self._call, asked, found, more=more, revision=self._revision)

    async def _now(self, begin: bytes, end: bytes, *, bare: bool = False) -> Found:
        """Return a range as the steps so far left it; `bare`: without values."""
        found = await span(
            self._call, begin, end, self._before, keys_only=bare, budget=self._call.budget
        )
        written = {key for key in self._written if covers(begin, end, key)}
        if written:
            found.versions = [each for each in found.versions if each.key not in written]
            for key in sorted(written):
                version = await self._made(key)
                if version is not None:
                    bisect.insort(found.versions, version, key=lambda each: each.key)
            found.count = len(found.versions)
        return found

    async def _made(self, key: bytes) -> Version | None:
        """Return what the transaction made of a key that a step wrote."""
        version = self._written[key]
        if version is None or version.revision:
            return version
        services = self._call.services
        timeout_s = min(self._call.x.left_s, services.settings.store_timeout_s)
        (made,) = await services.store.versions([(key, self._revision)], timeout_s=timeout_s)
        if made is None:
            raise BackendUnavailable("store", "what was just written is not kept")
        made = self._written[key] = await whole(self._call, made)
        return made

    async def put(self, form: PutRequest) -> PutResponse:
        """Return the answer of a put."""
        previous: KeyValue | None = None
        if form.prev_kv:
            found = await self._now(form.key, b"")
            for version in found.versions:
                previous = _whole_kv(version)
        self._written[form.key] = Version(form.key, 0, b"")
        header = self._call.inner_header(self._revision)
        return PutResponse(header, previous or UNSET)

    async def delete(self, form: DeleteRangeRequest) -> DeleteRangeResponse:
        """Return the answer of a delete."""
        found = await self._now(form.key, form.range_end, bare=not form.prev_kv)
        for version in found.versions:
            self._written[version.key] = None
        previous = [_whole_kv(version) for version in found.versions] if form.prev_kv else []
        header = self._call.inner_header(self._revision)
        return DeleteRangeResponse(header, number(found.count), previous or UNSET)


def _whole_kv(version: Version) -> KeyValue:
    assert isinstance(version.value, bytes)
    return key_value(version, version.value)
