"""Classify what a client saw of one attempt: took effect, certainly did not, or unknown. Never
talks to anything.

One table for the client and for every checker of histories (INV-4). `classify` judges one attempt;
`conclude` judges an operation from all its attempts. Reads are never unknown: one without an answer
observed nothing and is dropped.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final, Literal

import msgspec


class Verdict(enum.StrEnum):
    """Say what is known of an attempt or an operation (`ok`, `fail`, `info` in the words of
    Jepsen).
    """

    OK = "ok"
    """It took effect, or was evaluated and observed something, between its start and its end."""
    FAIL = "fail"
    """It has no effect and never will, and observed nothing."""
    UNKNOWN = "info"
    """It may have taken effect, may yet, or never will."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What one attempt of a request showed its client."""

    mutation: bool
    sent: bool
    """Any request byte may have left. When in doubt: True."""
    status: int | None = None
    """None: no whole response head arrived."""
    complete: bool = False
    """The response body arrived whole."""
    parsed: bool = False
    """The body (and the headers it needs) are what the API promises for this status."""
    from_node: bool = False
    """A node answered, not a proxy before it: `Acordo-Node` was there."""
    outcome: Literal["not_applied", "unknown"] | None = None
    """What the problem document says."""
    code: str | None = None
    """`code` of the problem document."""
    idempotent: bool = True
    """The attempt carried an op_id, so a repeated one is answered with its first outcome."""


class Judgement(msgspec.Struct, frozen=True):
    """Verdict on one attempt, or on an operation."""

    verdict: Verdict
    rule: str
    """Name of the row of the table that decided."""
    refused: bool = False
    """With OK: it was evaluated and the answer is "no" (key absent, guard not held): an
    observation, not a failure.
    """
    settles: bool = False
    """It speaks of the operation, not of this attempt alone: earlier attempts of unknown outcome
    are settled by it.
    """


REJECTED: Final = frozenset({400, 401, 403, 405, 408, 411, 413, 414, 415, 422, 429, 431})
"""Statuses that say: rejected before anything was proposed."""
GUARDED: Final = frozenset({409, 412})
"""Statuses that say: guards were evaluated and one did not hold."""
MISMATCH: Final = "mismatch"
EXPIRED: Final = "expired"


def classify(seen: Seen) -> Judgement:
    """Judge one attempt by the table of outcomes. Total: every `Seen` has exactly one row."""
    if not seen.sent:
        return Judgement(Verdict.FAIL, "nothing_sent")
    judged = _by_status(seen)
    if judged.verdict is Verdict.UNKNOWN and not seen.mutation:
        return Judgement(Verdict.FAIL, judged.rule)
    return judged


def conclude(attempts: Iterable[Judgement]) -> Judgement:
    """Judge one operation from its attempts, in the order in which they were made.

    One unknown attempt makes the operation unknown until an answer speaks of the operation itself:
    a definite refusal of a later attempt says nothing of the earlier one.
    """
    unknown: Judgement | None = None
    last = Judgement(Verdict.FAIL, "never_tried")
    for attempt in attempts:
        if attempt.settles:
            return attempt
        if attempt.verdict is Verdict.UNKNOWN:
            unknown = attempt
        last = attempt
    return unknown or last


def _by_status(seen: Seen) -> Judgement:
    status = seen.status
    if status is None:
        return Judgement(Verdict.UNKNOWN, "no_answer")
    if seen.outcome == "unknown":
        return Judgement(Verdict.UNKNOWN, "said_unknown")
    if 200 <= status < 300:
        if seen.complete and seen.parsed:
            return Judgement(Verdict.OK, "success", settles=True)
        return Judgement(Verdict.UNKNOWN, "answer_damaged")
    if status == 304 and not seen.mutation and seen.from_node:
        return Judgement(Verdict.OK, "not_modified", settles=True)
    if 300 <= status < 400:
        return _redirected(status)
    if status in (404, 410):
        return _missing(seen)
    if status in GUARDED:
        return _guarded(seen)
    if status in REJECTED:
        return _rejected(seen)
    if seen.outcome == "not_applied" and seen.from_node:
        return _refused_by_node(seen, status)
    return Judgement(Verdict.UNKNOWN, "server_error" if status >= 500 else "unexpected_status")


def _redirected(status: int) -> Judgement:
    # Our nodes never redirect; 307 and 308 say by RFC 9110 that nothing was done here, the older
    # ones are abused.
    if status in (307, 308):
        return Judgement(Verdict.FAIL, "redirected")
    return Judgement(Verdict.UNKNOWN, "redirected_loosely")


def _missing(seen: Seen) -> Judgement:
    if not seen.from_node:
        return Judgement(Verdict.UNKNOWN, "not_from_a_node")
    if seen.status == 404 and seen.code in (None, "key_not_found", "not_found"):
        return Judgement(Verdict.OK, "absent", refused=True, settles=seen.idempotent)
    return Judgement(Verdict.FAIL, "no_such_thing")


def _guarded(seen: Seen) -> Judgement:
    if not seen.from_node or not seen.complete or not seen.parsed:
        return Judgement(Verdict.UNKNOWN, "refusal_damaged")
    # Without an op_id, a refusal may be the echo of an earlier attempt's own success: then it
    # settles nothing.
    return Judgement(Verdict.OK, "guard_refused", refused=True, settles=seen.idempotent)


def _refused_by_node(seen: Seen, status: int) -> Judgement:
    if status == 503 and seen.code == EXPIRED:
        # The expiry is recorded under the op_id: a late arrival of an earlier attempt meets it.
        return Judgement(Verdict.FAIL, "expired", settles=seen.idempotent)
    if status in (501, 503):
        return Judgement(Verdict.FAIL, "said_not_applied")
    return Judgement(
        *(Verdict.FAIL, "rejected") if status < 500 else (Verdict.UNKNOWN, "server_error")
    )


def _rejected(seen: Seen) -> Judgement:
    # Another body is recorded under this op_id, so none of our attempts is, or ever will be.
    settles = seen.status == 422 and seen.code == MISMATCH and seen.from_node
    return Judgement(Verdict.FAIL, "mismatch" if settles else "rejected", settles=settles)
