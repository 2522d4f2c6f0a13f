"""Decide what follows an attempt: finish, or try the next node after a pause. Pure.

A write is tried again only where that is safe: freely after a definite refusal, and with the same
op_id after an unknown outcome. Time and jitter are arguments.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from acordo._outcomes import Certainty, Judgement

ATTEMPTS_MAX: Final = 60
"""Most attempts of one operation, however much time is left."""
PAUSE_FIRST_S: Final = 0.03
PAUSE_MAX_S: Final = 1.0
ENOUGH_SHARE: Final = 0.2
ENOUGH_MAX_S: Final = 1.0
OVERLOADED: Final = frozenset({"overloaded"})
"""Codes after which `Retry-After` is obeyed; after any other code another node may succeed at
once.
"""

FINAL: Final = frozenset({"outcome_forgotten"})
"""Codes for which a retry, on any node, can hardly give another answer."""

_ELSEWHERE: Final = frozenset({"nothing_sent", "said_not_applied", "redirected"})
_FOR_READS: Final = _ELSEWHERE | {
    "no_answer",
    "said_unknown",
    "answer_damaged",
    "server_error",
    "not_from_a_node",
    "refusal_damaged",
    "redirected_loosely",
}


class Finish(msgspec.Struct, frozen=True):
    """The decision to make no further attempt."""


class TryAgain(msgspec.Struct, frozen=True):
    """The decision to try the next node after a pause."""

    after_s: float


Decision: TypeAlias = Finish | TryAgain


class LastAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about the newest attempt that the decision depends on."""

    judgement: Judgement
    mutation: bool
    idempotent: bool
    status: int | None = None
    code: str | None = None
    retry_after_s: float | None = None


def enough_s(timeout_s: float) -> float:
    """Return the time in seconds that must be left for another attempt. An attempt with too little
    time cannot be answered and only adds an unknown outcome.
    """
    return min(ENOUGH_MAX_S, timeout_s * ENOUGH_SHARE)


def decide(
    last: LastAttempt, *, attempts: int, nodes: int, left_s: float, jitter: float
) -> Decision:
    """Return what follows attempt number `attempts`. `left_s`: seconds until the last moment at
    which another attempt may begin. `jitter` in [0, 1) spreads the pauses of many clients.
    """
    if not _may_try_again(last) or attempts >= ATTEMPTS_MAX:
        return Finish()
    pause = _pause(last, attempts, nodes, jitter)
    return Finish() if pause >= left_s else TryAgain(pause)


def _may_try_again(last: LastAttempt) -> bool:
    judged = last.judgement
    match judged.certainty:
        case Certainty.OK:
            return False
        case Certainty.UNKNOWN:
            return last.idempotent
        case Certainty.FAIL:
            if last.status == 501 or last.code in FINAL or judged.settles:
                return False
            if judged.rule == "rejected":
                return last.status in (408, 429)
            return judged.rule in (_ELSEWHERE if last.mutation else _FOR_READS)


def _pause(last: LastAttempt, attempts: int, nodes: int, jitter: float) -> float:
    if last.status == 429 or last.code in OVERLOADED:
        return (last.retry_after_s or PAUSE_MAX_S) * (1 + jitter / 4)
    if attempts < nodes:
        return 0.0
    rounds = min(attempts // nodes, 10)
    return float(min(PAUSE_MAX_S, PAUSE_FIRST_S * 2 ** (rounds - 1)) * (0.5 + jitter / 2))
