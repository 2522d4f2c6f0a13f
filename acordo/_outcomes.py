"""Classify what a client saw of an attempt: it took effect, certainly did not, or is unknown. Never
talks to anything.

The client and every checker of histories share this one table (INV-4). `classify` judges one
attempt; `conclude` judges an operation from all its attempts. Reads are never unknown: a read
without an answer observed nothing and is dropped.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final, Literal

import msgspec


class Certainty(enum.StrEnum):
    """The certainty about an attempt or an operation: `ok`, `fail` or `info`, as in Jepsen."""

    OK = "ok"
    """It took effect, or was evaluated and observed something, between its start and its end."""
    FAIL = "fail"
    """It has no effect, never will, and observed nothing."""
    UNKNOWN = "info"
    """It may have taken effect, may still take effect, or never will."""


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """The facts that one attempt of a request showed its client."""

    mutation: bool
    sent: bool
    """A byte of the request may have left. When in doubt: True."""
    status: int | None = None
    """The HTTP status; None: no complete response head arrived."""
    complete: bool = False
    """The response body arrived completely."""
    parsed: bool = False
    """The body, and the headers it needs, have the form that the API promises for this status."""
    from_node: bool = False
    """A node answered, not a proxy in front of it: `Acordo-Node` was present."""
    outcome: Literal["not_applied", "unknown"] | None = None
    """`outcome` of the problem document."""
    code: str | None = None
    """`code` of the problem document."""
    idempotent: bool = True
    """The attempt carried an op_id, so a repeated one gets its first outcome."""


class Judgement(msgspec.Struct, frozen=True):
    """The verdict on an attempt or an operation, and the rule that led to it."""

    certainty: Certainty
    rule: str
    """Name of the deciding row of the table."""
    refused: bool = False
    """With OK: it was evaluated and the answer is "no" (key absent, guard not held). That is an
    observation, not a failure.
    """
    settles: bool = False
    """The answer is about the operation, not only this attempt: it also settles earlier attempts of
    unknown outcome.
    """


REJECTED: Final = frozenset({400, 401, 403, 405, 408, 411, 413, 414, 415, 422, 429, 431})
"""Statuses of a request that was rejected before anything was proposed."""
GUARDED: Final = frozenset({409, 412})
"""Statuses of a request whose guards were evaluated and did not all hold."""
MISMATCH: Final = "mismatch"
EXPIRED: Final = "expired"
LEASE_GONE: Final = "lease_not_found"


def classify(observed: Observation) -> Judgement:
    """Judge one attempt by the table of outcomes.

    The function is total: exactly one row applies to every `Observation`.
    """
    if not observed.sent:
        return Judgement(Certainty.FAIL, "nothing_sent")
    judged = _by_status(observed)
    if judged.certainty is Certainty.UNKNOWN and not observed.mutation:
        return Judgement(Certainty.FAIL, judged.rule)
    return judged


def conclude(attempts: Iterable[Judgement]) -> Judgement:
    """Judge one operation from its attempts, given in the order in which they were made.

    One unknown attempt makes the operation unknown until an answer is about the operation itself:
    the definite refusal of a later attempt says nothing about the earlier one.
    """
    unknown: Judgement | None = None
    last = Judgement(Certainty.FAIL, "never_tried")
    for attempt in attempts:
        if attempt.settles:
            return attempt
        if attempt.certainty is Certainty.UNKNOWN:
            unknown = attempt
        last = attempt
    return unknown or last


def _by_status(observed: Observation) -> Judgement:
    status = observed.status
    if status is None:
        return Judgement(Certainty.UNKNOWN, "no_answer")
    if observed.outcome == "unknown":
        return Judgement(Certainty.UNKNOWN, "said_unknown")
    if 200 <= status < 300:
        return _succeeded(observed)
    if status == 304 and not observed.mutation and observed.from_node:
        return Judgement(Certainty.OK, "not_modified", settles=True)
    if 300 <= status < 400:
        return _redirected(status)
    if status in (404, 410):
        return _missing(observed)
    if status in GUARDED:
        return _guarded(observed)
    if status in REJECTED:
        return _rejected(observed)
    if observed.outcome == "not_applied" and observed.from_node:
        return _refused_by_node(observed, status)
    return Judgement(Certainty.UNKNOWN, "server_error" if status >= 500 else "unexpected_status")


def _succeeded(observed: Observation) -> Judgement:
    if observed.complete and observed.parsed:
        return Judgement(Certainty.OK, "success", settles=True)
    return Judgement(Certainty.UNKNOWN, "answer_damaged")


def _redirected(status: int) -> Judgement:
    # Our nodes never redirect. By RFC 9110, 307 and 308 mean that nothing was done here; servers
    # use the older statuses also after executing a request.
    if status in (307, 308):
        return Judgement(Certainty.FAIL, "redirected")
    return Judgement(Certainty.UNKNOWN, "redirected_loosely")


def _missing(observed: Observation) -> Judgement:
    if not observed.from_node:
        return Judgement(Certainty.UNKNOWN, "not_from_a_node")
    if observed.status == 404 and observed.code in (None, "key_not_found", "not_found"):
        return Judgement(Certainty.OK, "absent", refused=True, settles=observed.idempotent)
    if observed.status == 404 and observed.code == LEASE_GONE:
        # The refusal is recorded under the op_id, as that of a guard is.
        return Judgement(Certainty.FAIL, "no_such_lease", settles=observed.idempotent)
    return Judgement(Certainty.FAIL, "no_such_thing")


def _guarded(observed: Observation) -> Judgement:
    if not observed.from_node or not observed.complete or not observed.parsed:
        return Judgement(Certainty.UNKNOWN, "refusal_damaged")
    # Without an op_id, the refusal may be caused by the success of an earlier attempt; then it
    # settles nothing.
    return Judgement(Certainty.OK, "guard_refused", refused=True, settles=observed.idempotent)


def _refused_by_node(observed: Observation, status: int) -> Judgement:
    if status == 503 and observed.code == EXPIRED:
        # The expiry is recorded under the op_id, so an earlier attempt that arrives late gets it
        # too.
        return Judgement(Certainty.FAIL, "expired", settles=observed.idempotent)
    if status in (501, 503):
        return Judgement(Certainty.FAIL, "said_not_applied")
    if status < 500:
        return Judgement(Certainty.FAIL, "rejected")
    return Judgement(Certainty.UNKNOWN, "server_error")


def _rejected(observed: Observation) -> Judgement:
    # Another body is recorded under this op_id, so no attempt of ours was recorded or ever will be.
    settles = observed.status == 422 and observed.code == MISMATCH and observed.from_node
    return Judgement(Certainty.FAIL, "mismatch" if settles else "rejected", settles=settles)
