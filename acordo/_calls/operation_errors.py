"""Convert a failed operation into the one error that says what the caller may do next. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from acordo._calls.retry_policy import FINAL
from acordo._errors import (
    AcordoError,
    BadRequest,
    Mismatch,
    NotApplied,
    OutcomeUnknown,
    PreconditionFailed,
    Pruned,
    ReadFailed,
    TransactionRefused,
    Unreachable,
    Unsupported,
)
from acordo._messages import Problem, Reply, Request
from acordo._outcomes import GUARDED, MISMATCH, Certainty, Judgement, conclude

_EMPTY = Problem()
_HOPELESS: Final = frozenset(
    {
        "not_a_voter",
        "nothing_to_adopt",
        "membership_refused",
        "gives_up",
        "ask_leader",
        "foreign_store",
        "lease_exists",
        "lease_full",
        "no_admin",
        "access_changed",
    }
)
"""Codes of a 409 without a guard for which a retry gives the same answer."""


def error_of(request: Request, reply: Reply, judgements: Sequence[Judgement]) -> AcordoError:
    """Return the error for an operation whose newest attempt brought `reply`.

    If the server gave advice, the error carries it instead of our own, because the server knows the
    cause.
    """
    error = _error_of(request, reply, judgements)
    if reply.problem is not None and reply.problem.advice and not isinstance(error, OutcomeUnknown):
        error.advice = reply.problem.advice
    return error


def _error_of(request: Request, reply: Reply, judgements: Sequence[Judgement]) -> AcordoError:
    whole = conclude(judgements)
    attempts, problem = len(judgements), reply.problem or _EMPTY
    if whole.certainty is Certainty.UNKNOWN:
        return OutcomeUnknown(
            f"the outcome is unknown after {_times(attempts)}: {_seen(reply)}",
            code=problem.code,
            op_id=request.op_id,
            status=reply.observed.status,
            node=reply.node,
            attempts=attempts,
        )
    if all(each.rule == "nothing_sent" for each in judgements):
        return Unreachable(
            f"no node could be reached in {_times(attempts)}; last {reply.url}: {reply.error}",
            reason="unreachable",
            op_id=request.op_id,
            attempts=attempts,
        )
    if whole.rule == "guard_refused":
        return _refused(request, reply, problem, attempts)
    return _failed(request, reply, problem, attempts)


def _refused(request: Request, reply: Reply, problem: Problem, attempts: int) -> AcordoError:
    # A 409 without the index of a guard is a conflict of another kind, such as a membership change
    # in progress.
    if reply.observed.status == 409 and problem.guard is None:
        return _failed(request, reply, problem, attempts)
    kind = PreconditionFailed if reply.observed.status == 412 else TransactionRefused
    return kind(
        problem.detail or problem.title or "a guard did not hold",
        guard=problem.guard or 0,
        key=request.key,
        current=problem.current,
        revision=problem.revision or 0,
        op_id=request.op_id or "",
        again=problem.again,
        status=reply.observed.status,
        node=reply.node,
        attempts=attempts,
    )


def _failed(request: Request, reply: Reply, problem: Problem, attempts: int) -> AcordoError:
    status, node, detail = reply.observed.status, reply.node, _seen(reply)
    code = problem.code
    if status == 410:
        return Pruned(detail, floor=problem.floor, status=status, node=node)
    if status == 422 and code == MISMATCH:
        return Mismatch(
            detail, code=code, op_id=request.op_id, status=status, node=node, attempts=attempts
        )
    if status == 501:
        return Unsupported(
            detail, code=code, op_id=request.op_id, status=status, node=node, attempts=attempts
        )
    asked_wrongly = (
        status is not None and 400 <= status < 500 and status not in GUARDED | {408, 429}
    )
    if reply.node and (asked_wrongly or (status == 409 and code in _HOPELESS)):
        return BadRequest(
            detail,
            allowed=None if problem.allowed is None else str(problem.allowed),
            code=code,
            op_id=request.op_id,
            status=status,
            node=node,
            attempts=attempts,
        )
    reason = code or ("timed_out" if status is None else f"http_{status}")
    if request.mutation:
        return NotApplied(
            f"not applied after {_times(attempts)}: {detail}",
            reason=reason,
            retry_after_s=reply.retry_after_s,
            op_id=request.op_id,
            status=status,
            node=node,
            attempts=attempts,
        )
    return ReadFailed(
        detail if code in FINAL else f"no answer after {_times(attempts)}: {detail}",
        reason=reason,
        status=status,
        node=node,
        attempts=attempts,
    )


def _times(attempts: int) -> str:
    return "one attempt" if attempts == 1 else f"{attempts} attempts"


def _seen(reply: Reply) -> str:
    problem = reply.problem
    if problem and (problem.detail or problem.title):
        return problem.detail or problem.title
    if reply.error:
        return f"{reply.url}: {reply.error}"
    who = "" if reply.node else ", not from an Acordo node"
    where = reply.headers.get("Location")
    return f"{reply.url} answered {reply.observed.status}{who}" + (
        f", redirecting to {where}" if where else ""
    )
