"""Translate etcd's transactions into intents. Pure; it decides nothing about their outcome."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from kv.branches import check
from kv.errors import BadRequest
from kv.model import (
    KEY_BYTES_MAX,
    Compare,
    Delete,
    DeleteRange,
    Intent,
    Nested,
    Put,
    PutWith,
)
from node.etcd import messages
from node.etcd.messages import (
    CompareResult,
    CompareTarget,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from node.etcd.refusals import (
    DUPLICATE_KEY,
    KEY_ABSENT,
    LEASE_NOT_FOUND,
    LEASE_PROVIDED,
    NO_KEY,
    TOO_MANY_OPERATIONS,
    VALUE_PROVIDED,
    Refusal,
)
from node.etcd.spans import client_key
from node.wire.byte_forms import checked_key, checked_value

_RELATIONS: Final[dict[CompareResult, Literal["=", "!=", "<", ">"]]] = {
    CompareResult.EQUAL: "=",
    CompareResult.NOT_EQUAL: "!=",
    CompareResult.LESS: "<",
    CompareResult.GREATER: ">",
}


def transaction(form: TxnRequest, op_id: str) -> Intent:
    """Return the intent of a transaction that was checked, with its deadline not set yet. Raises
    Refusal, BadRequest.
    """
    intent = Intent(
        op_id,
        0,
        tuple(_guard(each) for each in form.compare),
        writes(form.success),
        writes(form.failure),
    )
    checked(intent)
    return intent


def checked(intent: Intent) -> Intent:
    """Return an intent whose bounds hold. Raises Refusal, in etcd's words, or BadRequest."""
    try:
        check(intent)
    except BadRequest as exc:
        match exc.code:
            case "too_many_operations":
                raise Refusal(*TOO_MANY_OPERATIONS) from exc
            case "duplicate_key":
                raise Refusal(*DUPLICATE_KEY) from exc
        raise
    return intent


def check_transaction(form: TxnRequest, left: int) -> None:
    """Raise Refusal unless a transaction is one that etcd would take."""
    most = max(len(form.compare), len(form.success), len(form.failure))
    if most > left:
        raise Refusal(*TOO_MANY_OPERATIONS)
    if any(not each.key for each in form.compare):
        raise Refusal(*NO_KEY)
    for op in (*form.success, *form.failure):
        if op.request_range is not None:
            check_range(op.request_range)
        elif op.request_put is not None:
            check_put(op.request_put)
        elif op.request_delete_range is not None:
            check_delete(op.request_delete_range)
        elif op.request_txn is not None:
            check_transaction(op.request_txn, left - most)
        else:
            raise Refusal(*KEY_ABSENT)


def check_range(form: RangeRequest) -> None:
    """Raise Refusal unless a range names a key."""
    if not form.key:
        raise Refusal(*NO_KEY)


def check_put(form: PutRequest) -> None:
    """Raise Refusal unless a put is one that etcd would take."""
    if not form.key:
        raise Refusal(*NO_KEY)
    if form.ignore_value and form.value:
        raise Refusal(*VALUE_PROVIDED)
    if form.ignore_lease and form.lease:
        raise Refusal(*LEASE_PROVIDED)
    if form.lease < 0:
        raise Refusal(*LEASE_NOT_FOUND)


def check_delete(form: DeleteRangeRequest) -> None:
    """Raise Refusal unless a delete names a key."""
    if not form.key:
        raise Refusal(*NO_KEY)


BranchWrite: TypeAlias = Put | PutWith | Delete | DeleteRange | Nested


def writes(ops: Sequence[RequestOp]) -> tuple[BranchWrite, ...]:
    """Return the writes of a branch: what it reads is no part of the intent. Raises BadRequest."""
    found: list[BranchWrite] = []
    for op in ops:
        if op.request_range is not None:
            continue
        if op.request_put is not None:
            found.append(put(op.request_put))
        elif op.request_delete_range is not None:
            found.append(delete(op.request_delete_range))
        elif op.request_txn is not None:
            inner = op.request_txn
            found.append(
                Nested(
                    tuple(_guard(each) for each in inner.compare),
                    writes(inner.success),
                    writes(inner.failure),
                )
            )
    return tuple(found)


def put(form: PutRequest) -> Put | PutWith:
    """Return the write of a put. Raises BadRequest."""
    key, value = client_key(form.key), checked_value(form.value)
    if not (form.lease or form.ignore_value or form.ignore_lease):
        return Put(key, value)
    return PutWith(
        key,
        value,
        lease=form.lease,
        keep_value=form.ignore_value,
        keep_lease=form.ignore_lease,
    )


def delete(form: DeleteRangeRequest) -> Delete | DeleteRange:
    """Return the write of a delete. Raises BadRequest."""
    if form.range_end:
        return DeleteRange(checked_key(form.key), _end(form.range_end))
    return Delete(client_key(form.key))


def _end(end: bytes) -> bytes:
    """Return the end of a range in as many bytes as tell keys apart: it goes into the log, and what
    a delete touched is remembered.
    """
    return end[: KEY_BYTES_MAX + 1]


def _guard(form: messages.Compare) -> Compare:
    end, relation = _end(form.range_end), _RELATIONS[form.result]
    key = checked_key(form.key) if end else client_key(form.key)
    match form.target:
        case CompareTarget.VALUE:
            return Compare(key, end, "value", relation, form.value)
        case CompareTarget.CREATE:
            return Compare(key, end, "create", relation, form.create_revision)
        case CompareTarget.MOD:
            return Compare(key, end, "mod", relation, form.mod_revision)
        case CompareTarget.LEASE:
            return Compare(key, end, "lease", relation, form.lease)
        case _:
            return Compare(key, end, "version", relation, form.version)
