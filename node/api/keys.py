"""GET, PUT, DELETE /v1/kv/{key}: read, set and delete one key as raw bytes (ETag = revision), with
preconditions, ttl, read levels and history.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

from kv.errors import BadRequest, Pruned
from kv.leases import FULL, LEASE_KEYS_MAX, NO_LEASE
from kv.model import (
    RANGE_KEYS_MAX,
    RANGE_VALUES_MAX,
    RANGES_KEYS_MAX,
    VALUE_BYTES_MAX,
    Answer,
    Applied,
    Delete,
    Expired,
    Guard,
    Intent,
    Put,
    PutWith,
    Refused,
    Version,
)
from node.exchange.exchange import Exchange
from node.exchange.headers import BYTES
from node.exchange.parameters import percent_decoded
from node.reads.levels import Reading, ReadOptions
from node.wire.answers import (
    HistoryAnswer,
    ReadAnswer,
    WrittenAnswer,
    first_outcome,
    read_answer,
    version_answer,
)
from node.wire.byte_forms import checked_key
from node.wire.conditions import matches_none, preconditions
from node.wire.lease_forms import checked_lease, lease_id
from node.wire.problems import Problem, problem
from node.wire.requests import put_of
from node.wire.text_fields import TTL_S_MAX, parse_count, parse_revision, parse_seconds, ttl_ms_of

_DEFAULT: Final = ReadOptions()
HISTORY: Final = 10
HISTORY_MAX: Final = 100
"""The number of versions in one answer to a request for the history of a key, each a read of its
own; and what it may say at most.
"""
HISTORY_BYTES: Final = 2 * 1024 * 1024
"""It ends early once its values take this many bytes."""
REASONS: Final = {
    NO_LEASE: "a key was to be attached to a lease that is not there",
    FULL: f"a lease has {LEASE_KEYS_MAX} keys at most",
    "key_absent": "a write was to keep what an absent key has",
    "too_many_keys": f"a range that is deleted or compared has {RANGE_KEYS_MAX} keys at most, and "
    f"{RANGE_VALUES_MAX} where values are compared by order; all ranges of one transaction have "
    f"{RANGES_KEYS_MAX} together at most",
}
"""What it means when an intent was refused for another reason than its guards."""
_READ_PARAMS: Final = ("consistency", "min_revision", "max_age", "revision")


def key_in(x: Exchange) -> bytes:
    """Return the key in the path, decoded from the raw path: %2F, .. and // are part of the key."""
    return checked_key(percent_decoded(x.rest))


async def get(x: Exchange) -> web.Response:
    """Read one key."""
    key = key_in(x)
    headers = x.request.headers
    if not x.raw_query and "Acordo-Revision" not in headers:
        ask = _DEFAULT
    else:
        params = x.text_params(*_READ_PARAMS)
        if "revision" in params:
            return await _get_at(x, key, params)
        ask = x.read_options(params)
    reading = await x.services.reads.get(key, ask, deadline=x.deadline)
    return await _found(x, reading.version, reading)


async def _get_at(x: Exchange, key: bytes, params: dict[str, str]) -> web.Response:
    """Read one key as it was at a revision, within the retention; a pruned revision is 410."""
    if len(params) > 1:
        raise BadRequest(
            "conflicting_parameters", "revision goes with nothing else", allowed="revision alone"
        )
    at = parse_revision(params["revision"], "revision", low=1)
    read = await x.services.reads.snapshot([key], at=at, deadline=x.deadline)
    return await _found(
        x, read.versions[0], Reading(read.versions[0], at, at, "linearizable", "store")
    )


async def history(x: Exchange) -> web.Response:
    """Show the versions of one key that are kept, newest first; a deletion is one with the value
    null.
    """
    key = key_in(x)
    params = x.text_params("limit", "before")
    limit = parse_count(params["limit"], "limit", HISTORY_MAX) if "limit" in params else HISTORY
    at = parse_revision(params["before"], "before", low=2) - 1 if "before" in params else None
    read = await x.services.reads.snapshot([key], at=at, deadline=x.deadline)
    head, version = read.head.last, read.versions[0]
    items: list[ReadAnswer] = []
    size = 0
    while version is not None and len(items) < limit and size < HISTORY_BYTES:
        value = await x.services.reads.store.value_of(version, deadline=x.deadline)
        shown = version_answer(version, value) if version.present else None
        items.append(shown or read_answer(key, version.revision, None))
        size += len(value or b"")
        version = await _version_before(x, version)
    before = items[-1].revision if items and version is not None else None
    return x.json(HistoryAnswer(head, items, before), revision=head)


async def _version_before(x: Exchange, version: Version) -> Version | None:
    """Return the version of the key before that one; None: there is none, or it is not kept."""
    if version.revision == 1:
        return None
    at = version.revision - 1
    try:
        read = await x.services.reads.snapshot([version.key], at=at, deadline=x.deadline)
    except Pruned:
        return None
    return read.versions[0]


async def _found(x: Exchange, version: Version | None, reading: Reading) -> web.Response:
    more: dict[str, str] = {"Acordo-Level": reading.level, "Acordo-Source": reading.source}
    if reading.age_s is not None:
        # Round up, because the age is an upper bound: showing 0.0004 s as 0.000 would claim too
        # much.
        more["Acordo-Age"] = f"{reading.age_s + 0.0005:.3f}"
    if version is None or version.value is None:
        return x.problem("key_not_found", "the key is absent", more=more, at=reading.position)
    more["ETag"] = f'"{version.revision}"'
    if version.expires_ms is not None:
        more["Acordo-Expires"] = str(version.expires_ms)
    if version.lease:
        more["Acordo-Lease"] = lease_id(version.lease)
    more["Acordo-Create-Revision"] = str(version.create_revision)
    more["Acordo-Version"] = str(version.version)
    unless = ",".join(x.request.headers.getall("If-None-Match", ()))
    if unless and matches_none(unless, version.revision):
        return x.reply(304, b"", BYTES, revision=reading.position, more=more)
    value = version.value
    if not isinstance(value, bytes):
        value = await x.services.reads.store.value_of(version, deadline=x.deadline) or b""
    return x.reply(200, value, BYTES, revision=reading.position, more=more)


async def put(x: Exchange) -> web.Response:
    """Set one key."""
    key = key_in(x)
    params = x.text_params("ttl", "lease", "op_id")
    op_id = x.take_op_id(params)
    ttl_ms = ttl_ms_of(parse_seconds(params["ttl"], "ttl", TTL_S_MAX)) if "ttl" in params else None
    lease = checked_lease(params["lease"]) if "lease" in params else 0
    guards = conditions(x, key)
    value = await x.body(VALUE_BYTES_MAX, "value_too_large")
    return await _written(x, op_id, put_of(key, value, ttl_ms, lease), guards)


async def delete(x: Exchange) -> web.Response:
    """Delete one key. Answers 200 also if the key was absent; `Acordo-Existed` says whether it was
    there.
    """
    key = key_in(x)
    op_id = x.take_op_id(x.text_params("op_id"))
    return await _written(x, op_id, Delete(key), conditions(x, key))


def conditions(x: Exchange, key: bytes) -> tuple[Guard, ...]:
    """Return the guards for the conditional headers of a write to one key. Raises BadRequest."""
    headers = x.request.headers
    if "If-Match" not in headers and "If-None-Match" not in headers:
        return ()
    # Several lines of one header are one list (RFC 9110 section 5.3). Join them, so that none is
    # ignored.
    given = (
        ",".join(headers.getall(name)) if name in headers else None
        for name in ("If-Match", "If-None-Match")
    )
    return preconditions(key, *given)


async def _written(
    x: Exchange, op_id: str, write: Put | PutWith | Delete, guards: tuple[Guard, ...]
) -> web.Response:
    intent = Intent(op_id, 0, guards, (write,), None, (write.key,))
    accepted_s = x.spent_s
    answer = await x.services.writes.one(intent, deadline=x.deadline, lifetime_s=x.lifetime_s)
    revision, outcome, again = first_outcome(answer)
    if not isinstance(outcome, Applied):
        return refused(x, op_id, answer, "precondition_failed", write.key)
    existed = bool(outcome.seen and outcome.seen[0])
    more = {"Acordo-Existed": "true" if existed else "false", "Acordo-Op-Id": op_id}
    if not isinstance(write, Delete):
        more["ETag"] = f'"{revision}"'
    if x.request.headers.get("Acordo-Timing") == "true":
        more["Server-Timing"] = _timing(accepted_s, x.spent_s)
    status = 200 if isinstance(write, Delete) or existed else 201
    return x.json(
        WrittenAnswer(revision, existed, again, op_id), status, revision=revision, more=more
    )


def _timing(accepted_s: float, all_s: float) -> str:
    """Return the header Server-Timing of a write: until its body was there and it was admitted,
    and until its outcome was known here.
    """
    order_s = all_s - accepted_s
    return f"accept;dur={accepted_s * 1000:.2f}, order;dur={order_s * 1000:.2f}"


def refused(
    x: Exchange, op_id: str, answer: Answer, code: str, key: bytes | None = None
) -> web.Response:
    """Return the problem document of an attempt that was ordered but has no effect. `code`: the
    code for a failed guard; `key`: the key of the only guard, if the request had one condition, as
    a header.
    """
    revision, outcome, again = first_outcome(answer)
    more: dict[str, str] = {"Acordo-Op-Id": op_id}
    document: Problem
    match outcome:
        case Refused(reason=reason) if reason:
            document = problem(
                reason, REASONS.get(reason, reason), op_id=op_id, revision=revision, again=again
            )
        case Refused(guard, current):
            if current:
                more["ETag"] = f'"{current}"'
            held = f"is at revision {current}" if current else "is absent"
            detail = f"guard {guard} does not hold: its key {held}"
            if key is not None:
                # Name the key: the request had one condition, as a header, so a guard's number
                # would mean nothing to the client.
                name = key[:64].decode("utf-8", "backslashreplace")
                detail = f"the condition on key {name!r} does not hold: it {held}"
            document = problem(
                code, detail, op_id=op_id, guard=guard, current=current,
                revision=revision, again=again,
            )  # fmt: skip
        case Expired():
            detail = (
                "it was ordered after its deadline, was cancelled, or its staged value was gone"
            )
            document = problem("expired", detail, op_id=op_id, revision=revision, again=again)
        case _:
            detail = "this op_id is known with another body, method or condition"
            document = problem("mismatch", detail, op_id=op_id, revision=revision)
    return x.refuse(document, more=more, at=revision)
