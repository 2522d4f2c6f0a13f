"""/v3/kv/…: range, put, delete, transactions, compaction."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web
from msgspec import UNSET, UnsetType

from kv.model import OPERATIONS_MAX, Applied, Intent
from node.etcd.answers import (
    DeleteRangeResponse,
    HeaderResponse,
    KeyValue,
    PutResponse,
    TxnResponse,
    number,
)
from node.etcd.call import Call
from node.etcd.intents import (
    check_delete,
    check_put,
    check_range,
    check_transaction,
    checked,
    delete,
    put,
    transaction,
)
from node.etcd.messages import (
    CompactionRequest,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    SortOrder,
    TxnRequest,
)
from node.etcd.reading import Found, asked_range, position, range_response, reached, span, whole
from node.etcd.refusals import COMPACTED, FUTURE, Refusal
from node.etcd.replies import Replies
from node.etcd.spans import shown
from node.reads.levels import ReadOptions

NO_KEYS = (b"\1", b"\1")
"""A range without keys: what is read of it is the revision alone."""
_LINEARIZABLE = ReadOptions()
_OWN = ReadOptions("session")


async def range_(call: Call) -> web.StreamResponse:
    """Read keys."""
    asked = await call.asked(RangeRequest)
    check_range(asked)
    single = not asked.range_end and shown(asked.key)
    if single and asked.revision <= 0 and not _restricted(asked):
        return await _one_key(call, asked)
    found, more = await asked_range(call, asked)
    if asked.revision > 0:
        found.head = max(found.head, call.services.consensus.settled.last)
    return call.reply(await range_response(call, asked, found, more=more), revision=found.head)


def _restricted(asked: RangeRequest) -> bool:
    return asked.sort_order is not SortOrder.NONE or bool(
        asked.count_only
        or asked.min_mod_revision
        or asked.max_mod_revision
        or asked.min_create_revision
        or asked.max_create_revision
    )


async def _one_key(call: Call, asked: RangeRequest) -> web.StreamResponse:
    """Read one key from the nearest tier that may answer."""
    how = _OWN if asked.serializable else _LINEARIZABLE
    reading = await call.services.reads.get(asked.key, how, deadline=call.x.deadline)
    found = Found(reading.position, [], 0)
    if reading.version is not None and reading.version.present:
        found.versions, found.count = [await whole(call, reading.version)], 1
    return call.reply(await range_response(call, asked, found, more=False), revision=found.head)


async def put_(call: Call) -> web.StreamResponse:
    """Write a key."""
    asked = await call.asked(PutRequest)
    check_put(asked)
    if asked.prev_kv:
        call.services.check_read(asked.key, b"")
    write = put(asked)
    revision, _ = await call.write(Intent(call.new_op_id(), 0, (), (write,)))
    previous: KeyValue | UnsetType = UNSET
    if asked.prev_kv:
        async with call.having_written(revision):
            previous = (await Replies(call, revision).put(asked)).prev_kv
    return call.reply(PutResponse(call.header(revision), previous), revision=revision)


async def delete_range(call: Call) -> web.StreamResponse:
    """Delete keys."""
    asked = await call.asked(DeleteRangeRequest)
    check_delete(asked)
    write = delete(asked)
    simple = not (asked.range_end or asked.prev_kv)
    call.services.check_read(asked.key, asked.range_end)  # how many there were is told
    reads = (write.key,) if simple else ()
    intent = checked(Intent(call.new_op_id(), 0, (), (write,), None, reads))
    revision, outcome = await call.write(intent)
    header = call.header(revision)
    if simple:
        done = DeleteRangeResponse(header, number(1 if outcome.seen[0] else 0))
    else:
        async with call.having_written(revision):
            told = await Replies(call, revision).delete(asked)
            done = DeleteRangeResponse(header, told.deleted, told.prev_kvs)
    return call.reply(done, revision=revision)


async def txn(call: Call) -> web.StreamResponse:
    """Run a transaction."""
    asked = await call.asked(TxnRequest)
    if not asked.compare and only_reads(asked.success):
        return await _snapshot(call, asked)
    check_transaction(asked, OPERATIONS_MAX)
    _check_reads(call, (*asked.success, *asked.failure))
    await _check_past(call, (*asked.success, *asked.failure))
    op_id = call.new_op_id()
    revision, outcome = await call.write(transaction(asked, op_id))
    async with call.having_written(revision):
        return call.reply(await answer(call, asked, revision, outcome), revision=revision)


def _check_reads(call: Call, ops: Sequence[RequestOp]) -> None:
    """Raise NotAllowed for what the answer would tell and the caller may not read, before anything
    is written.
    """
    for op in ops:
        if op.request_range is not None:
            call.services.check_read(op.request_range.key, op.request_range.range_end)
        elif op.request_put is not None and op.request_put.prev_kv:
            call.services.check_read(op.request_put.key, b"")
        elif op.request_delete_range is not None:
            asked = op.request_delete_range
            call.services.check_read(asked.key, asked.range_end)
        elif op.request_txn is not None:
            _check_reads(call, (*op.request_txn.success, *op.request_txn.failure))


async def _check_past(call: Call, ops: Sequence[RequestOp]) -> None:
    """Raise for a range at a revision that was not given yet, or is no longer kept, before anything
    is written.
    """
    for op in ops:
        if op.request_range is not None and op.request_range.revision > 0:
            asked = op.request_range
            await reached(call, asked.revision)
            await span(call, asked.key, b"", asked.revision, count_only=True)
        elif op.request_txn is not None:
            await _check_past(call, (*op.request_txn.success, *op.request_txn.failure))


def only_reads(ops: Sequence[RequestOp]) -> bool:
    """Return whether a branch is one snapshot: it reads, and nothing else."""
    return all(op.request_range is not None for op in ops)


async def _snapshot(call: Call, asked: TxnRequest) -> web.StreamResponse:
    """Answer a transaction of reads alone: it is no intent, and takes no revision."""
    check_transaction(asked, OPERATIONS_MAX)
    await position(call, serializable=False)
    found = await span(call, *NO_KEYS, count_only=True)
    replies = Replies(call, found.head, writes=False)
    responses = await replies.of(asked.success, iter(()))
    done = TxnResponse(call.header(found.head), True, responses or UNSET)
    return call.reply(done, revision=found.head)


async def answer(call: Call, asked: TxnRequest, revision: int, outcome: Applied) -> TxnResponse:
    """Return the answer of a transaction that took effect. Raises what reads raise."""
    held = outcome.branch == "then"
    replies = Replies(call, revision)
    branch = asked.success if held else asked.failure
    responses = await replies.of(branch, iter(outcome.taken))
    return TxnResponse(call.header(revision), held or UNSET, responses or UNSET)


async def compaction(call: Call) -> web.StreamResponse:
    """Give up what is below a revision: no member reads it any more. A shared store keeps history
    as its retention says.
    """
    asked = await call.asked(CompactionRequest)
    await position(call, serializable=False)
    found = await span(call, *NO_KEYS, count_only=True)
    if asked.revision > found.head:
        raise Refusal(*FUTURE)
    timeout_s = min(call.x.left_s, call.services.settings.store_timeout_s)
    if asked.revision <= await call.services.store.floor(timeout_s=timeout_s):
        raise Refusal(*COMPACTED)
    call.x.mutation = True
    await call.services.consensus.compact(asked.revision, timeout_s=call.x.left_s)
    return call.reply(HeaderResponse(call.header(found.head)))
