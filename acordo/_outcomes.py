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


class Certainty(enum.StrEnum):
    """What is known for certain of an attempt or an operation: `ok`, `fail` or `info`, as in
    Jepsen.
    """

    OK = "ok"
    """It took effect, or was evaluated and observed something, between its start and its end."""
    FAIL = "fail"
    """It has no effect and never will, and observed nothing."""
    UNKNOWN = "info"
    """It may have taken effect, may yet, or never will."""


class Observation(msgspec.Struct, frozen=True, kw_only=True):
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
    """What an attempt, or an operation, certainly came to, and by which rule."""

    certainty: Certainty
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


def classify(observed: Observation) -> Judgement:
    """Judge one attempt by the table of outcomes.

    Total: every `Observation` has exactly one row.
    """
    if not observed.sent:
        return Judgement(Certainty.FAIL, "nothing_sent")
    judged = _by_status(observed)
    if judged.certainty is Certainty.UNKNOWN and not observed.mutation:
        return Judgement(Certainty.FAIL, judged.rule)
    return judged


def conclude(attempts: Iterable[Judgement]) -> Judgement:
    """Judge one operation from its attempts, in the order in which they were made.

    One unknown attempt makes the operation unknown until an answer speaks of the operation itself:
    a definite refusal of a later attempt says nothing of the earlier one.
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
    # Our nodes never redirect; 307 and 308 say by RFC 9110 that nothing was done here, the older
    # ones are abused.
    if status in (307, 308):
        return Judgement(Certainty.FAIL, "redirected")
    return Judgement(Certainty.UNKNOWN, "redirected_loosely")


def _missing(observed: Observation) -> Judgement:
    if not observed.from_node:
        return Judgement(Certainty.UNKNOWN, "not_from_a_node")
    if observed.status == 404 and observed.code in (None, "key_not_found", "not_found"):
        return Judgement(Certainty.OK, "absent", refused=True, settles=observed.idempotent)
    return Judgement(Certainty.FAIL, "no_such_thing")


def _guarded(observed: Observation) -> Judgement:
    if not observed.from_node or not observed.complete or not observed.parsed:
        return Judgement(Certainty.UNKNOWN, "refusal_damaged")
    # Without an op_id, a refusal may be the echo of an earlier attempt's own success: then it
    # settles nothing.
    return Judgement(Certainty.OK, "guard_refused", refused=True, settles=observed.idempotent)


def _refused_by_node(observed: Observation, status: int) -> Judgement:
    if status == 503 and observed.code == EXPIRED:
        # The expiry is recorded under the op_id: a late arrival of an earlier attempt meets it.
        return Judgement(Certainty.FAIL, "expired", settles=observed.idempotent)
    if status in (501, 503):
        return Judgement(Certainty.FAIL, "said_not_applied")
    if status < 500:
        return Judgement(Certainty.FAIL, "rejected")
    return Judgement(Certainty.UNKNOWN, "server_error")


def _rejected(observed: Observation) -> Judgement:
    # Another body is recorded under this op_id, so none of our attempts is, or ever will be.
    settles = observed.status == 422 and observed.code == MISMATCH and observed.from_node
    return Judgement(Certainty.FAIL, "mismatch" if settles else "rejected", settles=settles)
