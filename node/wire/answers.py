"""Convert outcomes, versions and ledger rows of the model into JSON answers. Pure.

/openapi.json is generated from the same types.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from kv.access import principal_of
from kv.model import (
    Again,
    Answer,
    Applied,
    Expired,
    LedgerRow,
    Mismatch,
    Outcome,
    Recorded,
    Refused,
    Version,
)
from node.wire.byte_forms import json_form
from node.wire.lease_forms import lease_id


class WrittenAnswer(Struct, frozen=True):
    """A write of one key that took effect."""

    revision: int
    existed: bool
    """Whether the key was present before."""
    again: bool
    """Whether an earlier attempt with this op_id took effect; this is that attempt's outcome."""
    op_id: str


class ReadAnswer(Struct, frozen=True, omit_defaults=True):
    """One key as a read saw it; `revision` 0 means absent."""

    key: str | dict[str, str]
    revision: int
    value: str | dict[str, str] | UnsetType | None = UNSET
    """Left out when the value is no longer kept (pruned), or with `keys_only`; null: the key is
    absent.
    """
    expires_ms: int | None = None
    """Log time at which the key will be deleted."""
    create_revision: int = 0
    """The revision that made the key present, after it was absent. Left out for an absent key."""
    version: int = 0
    """The number of puts since then, this one included. Left out for an absent key."""
    lease: str | None = None
    """The lease that the key ends with. Left out if there is none."""


class TransactionAnswer(Struct, frozen=True):
    """A transaction that took effect by `writes` ("then") or by `otherwise`, or, with reads alone,
    read one snapshot.
    """

    revision: int
    branch: Literal["then", "otherwise"]
    reads: list[ReadAnswer]
    again: bool = False
    op_id: str | None = None
    taken: list[bool] | UnsetType = UNSET
    """Whether the guards of each transaction within it held, along the path that was taken; one
    that is in another comes right behind it. Left out if there are none.
    """


class ItemAnswer(Struct, frozen=True, omit_defaults=True):
    """The outcome of one operation of a batch, or what is known of an op_id."""

    op_id: str
    outcome: Literal[
        "applied",
        "refused",
        "expired",
        "mismatch",
        "not_applied",
        "unknown",
        "pending",
        "bad_request",
    ]
    revision: int = 0
    again: bool = False
    branch: Literal["then", "otherwise"] = "then"
    guard: int | None = None
    current: int | None = None
    seen: list[int] | None = None
    """Revisions of `reads` as the guards saw them."""
    taken: list[bool] | None = None
    """As that of a transaction's own answer."""
    code: str | None = None
    detail: str = ""
    advice: str | None = None


class BatchAnswer(Struct, frozen=True):
    """The outcome of each operation of a batch, in their order."""

    results: list[ItemAnswer]


class ListingAnswer(Struct, frozen=True, omit_defaults=True, rename={"continue_": "continue"}):
    """One page of keys in byte order; all pages of a listing show the same `revision`."""

    revision: int
    items: list[ReadAnswer]
    continue_: str | None = None
    """Token of the next page; left out on the last."""
    count: int | None = None
    """How many keys there are within the bounds. Left out of a listing without any, in the order of
    keys.
    """
    prefixes: list[str | dict[str, str]] | None = None
    """With a separator: what all further keys under the prefix begin with, up to and with the
    separator, each once, in byte order. The keys in `items` have none behind the prefix.
    """


class HistoryAnswer(Struct, frozen=True, omit_defaults=True):
    """The kept versions of one key, newest first."""

    revision: int
    items: list[ReadAnswer]
    before: int | None = None
    """What to go on with: there may be older ones. Left out at the end of what is kept."""


class EventAnswer(Struct, frozen=True, omit_defaults=True):
    """One change of one key. A delete has no value."""

    event: Literal["put", "delete"]
    key: str | dict[str, str]
    revision: int
    op_id: str
    log_time_ms: int
    value: str | dict[str, str] | UnsetType = UNSET
    expires_ms: int | None = None
    """Log time at which the key will be deleted. Left out if never."""
    create_revision: int = 0
    version: int = 0
    lease: str | None = None


class ChangesAnswer(Struct, frozen=True):
    """The changes after a position, oldest first, each revision whole; none: there was none in
    time. Ask after `next` for those that follow.
    """

    events: list[EventAnswer]
    next: str
    revision: int
    """Everything up to here has been told."""


class LeaderAnswer(Struct, frozen=True):
    """The leader, as the answering node knows it."""

    id: str
    url: str | None
    term: int
    quorum: bool
    since_ms: int | None


class LedgerAnswer(Struct, frozen=True):
    """Rows of the ledger, and the `seq` at which to continue (null: the end)."""

    rows: list[dict[str, Any]]
    next: int | None


def first_outcome(answer: Answer) -> tuple[int, Outcome, bool]:
    """Return the revision, the outcome, and whether an earlier attempt had that outcome."""
    if isinstance(answer.outcome, Again):
        return answer.outcome.revision, answer.outcome.outcome, True
    return answer.revision, answer.outcome, False


def item_of(op_id: str, answer: Answer) -> ItemAnswer:
    """Return the JSON form of an answer."""
    revision, outcome, again = first_outcome(answer)
    match outcome:
        case Applied(branch, seen, taken):
            return ItemAnswer(
                op_id, "applied", revision, again, branch,
                seen=list(seen) or None, taken=list(taken) or None,
            )  # fmt: skip
        case Refused(guard, current, seen, reason):
            return ItemAnswer(
                op_id,
                "refused",
                revision,
                again,
                guard=None if reason else guard,
                current=None if reason else current,
                seen=list(seen) or None,
                code=reason or "refused",
            )
        case Expired():
            return ItemAnswer(op_id, "expired", revision, again, code="expired")
        case _:
            return ItemAnswer(op_id, "mismatch", revision, again, code="mismatch")


def ledger_row(row: LedgerRow) -> dict[str, Any]:
    """Return a ledger row as JSON: digests and hashes in hex."""
    return {
        "seq": row.seq,
        "term": row.term,
        "committer": row.committer,
        "first": row.first,
        "last": row.last,
        "digest": row.digest.hex(),
        "log_time_ms": row.log_time_ms,
        "index": row.index,
        "content": row.content.hex(),
        "body": [_recorded(record, row.first + n) for n, record in enumerate(row.body)],
    }


def _recorded(record: Recorded, revision: int) -> dict[str, Any]:
    principal = principal_of(record.op_id)
    return {
        "revision": revision,
        "op_id": record.op_id,
        **({} if principal is None else {"principal": principal}),
        "body_hash": record.body_hash.hex(),
        **outcome_form(record.outcome),
        "keys": [json_form(key) for key in record.keys],
    }


def outcome_form(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as JSON fields."""
    match outcome:
        case Applied(branch, seen):
            return {"outcome": "applied", "branch": branch, "seen": list(seen)}
        case Refused(guard, current, seen):
            return {"outcome": "refused", "guard": guard, "current": current, "seen": list(seen)}
        case Expired():
            return {"outcome": "expired"}
        case Again(revision, first):
            return {"outcome": "again", "first": {"revision": revision, **outcome_form(first)}}
        case Mismatch():
            return {"outcome": "mismatch"}


def read_answer(
    key: bytes,
    revision: int,
    value: bytes | UnsetType | None = UNSET,
    expires_ms: int | None = None,
) -> ReadAnswer:
    """Return the answer for one key. `value` UNSET: the member is left out; None: the key is
    absent.
    """
    shown = json_form(value) if isinstance(value, bytes) else value
    return ReadAnswer(json_form(key), revision, shown, expires_ms)


def version_answer(version: Version, value: bytes | UnsetType | None) -> ReadAnswer:
    """Return the answer for a present key. `value` UNSET: the member is left out."""
    return ReadAnswer(
        json_form(version.key),
        version.revision,
        json_form(value) if isinstance(value, bytes) else value,
        version.expires_ms,
        version.create_revision,
        version.version,
        lease_id(version.lease) if version.lease else None,
    )
