"""Convert errors into RFC 9457 problem documents. Pure; it never calls an unknown outcome a
failure, or the reverse.

`code` (and `type`) are stable names to program against. `title` is fixed per code; `detail` says
what happened in this case, `outcome` whether this attempt may have an effect, `advice` what to do
next.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import msgspec

from kv.errors import (
    BackendUnavailable,
    BadRequest,
    InvariantViolated,
    KvError,
    NotApplied,
    OutcomeUnknown,
    Pruned,
    StoreDamaged,
    Undone,
)

CONTENT_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:acordo:problem:"


class Problem(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An RFC 9457 problem document; the members after `instance` are Acordo's own."""

    type: str
    title: str
    status: int
    detail: str
    instance: str | None = None
    """Path of the request."""
    code: str
    outcome: Literal["not_applied", "unknown"] | None = None
    """not_applied: this attempt has no effect and never will. unknown: it may have had an effect,
    or may still have one. Left out when the request was a read that was answered: the key is
    absent.
    """
    advice: str
    op_id: str | None = None
    allowed: str | None = None
    """What would be accepted instead."""
    reason: str | None = None
    revision: int | None = None
    """The revision given to this attempt."""
    guard: int | None = None
    """Index of the first guard that did not hold."""
    current: int | None = None
    """Revision of that guard's key; 0 when absent."""
    again: bool = False
    """Whether this is the outcome of an earlier attempt with this op_id."""
    floor: int | None = None
    """Lowest revision that is still kept."""
    undone_after: int | None = None
    """The newest revision, of those acknowledged before an adoption, that the adoption kept."""
    newest: int | None = None
    lookup: str | None = None
    """Path at which the outcome can be looked up."""
    lookup_until_ms: int | None = None
    """Log time until which a look-up can make the outcome definite."""
    node: str | None = None
    leader: str | None = None
    request_id: str | None = None


class ProblemKind(NamedTuple):
    """The fixed part of every problem document of one code."""

    status: int
    title: str
    advice: str = "fix the request; nothing was changed"


_NOT_NOW: Final = "wait until it is safe, or ask for something else; nothing was changed"
_RETRY: Final = "retry freely, here or at another node; nothing was changed"
_MOVES: Final = (
    "the leadership moves: retry in a moment, here or at another node; nothing was changed"
)

KINDS: Final[dict[str, ProblemKind]] = {
    # the request can never work as it is
    "bad_request": ProblemKind(400, "Bad request"),
    "bad_http": ProblemKind(400, "Not HTTP as it should be"),
    "not_signed_in": ProblemKind(
        401, "Not signed in", "send a valid token, or a client's certificate; nothing was changed"
    ),
    "bad_name": ProblemKind(400, "Not a name"),
    "bad_role": ProblemKind(400, "Not a role to give"),
    "too_many": ProblemKind(400, "Too many"),
    "not_there": ProblemKind(404, "Not there"),
    "no_token": ProblemKind(400, "No token for a session"),
    "bad_url": ProblemKind(400, "Not a URL for webhooks"),
    "bad_secret": ProblemKind(400, "Not a secret"),
    "name_taken": ProblemKind(409, "Name in use", "choose another name; nothing was changed"),
    "no_admin": ProblemKind(
        409, "No admin would remain", "make another admin first; nothing was changed"
    ),
    "access_changed": ProblemKind(
        409, "Access was changed", "look again, and repeat; nothing was changed"
    ),
    "not_open": ProblemKind(
        403,
        "Not open to other machines",
        "at the node's own machine, make an admin's token and switch access control on; nothing "
        "was changed",
    ),
    "not_allowed": ProblemKind(
        403, "Not allowed", "ask an admin for a role that allows it; nothing was changed"
    ),
    "key_empty": ProblemKind(400, "Key empty"),
    "key_too_long": ProblemKind(400, "Key too long"),
    "not_utf8": ProblemKind(400, "Not UTF-8"),
    "bad_base64": ProblemKind(400, "Not base64"),
    "malformed_json": ProblemKind(400, "Malformed JSON"),
    "invalid_body": ProblemKind(400, "Body not as described"),
    "bad_guard": ProblemKind(400, "Guard not as described"),
    "bad_write": ProblemKind(400, "Write not as described"),
    "duplicate_key": ProblemKind(400, "Key twice in one transaction"),
    "bad_order": ProblemKind(400, "Not an order of keys"),
    "bad_separator": ProblemKind(400, "Not a separator"),
    "listing_too_large": ProblemKind(400, "Too many keys to put in order"),
    "too_deep": ProblemKind(400, "Transactions nested too deep"),
    "too_many_operations": ProblemKind(400, "Too many operations"),
    "empty_transaction": ProblemKind(400, "Nothing to do"),
    "bad_percent_encoding": ProblemKind(400, "Not percent-encoded"),
    "bad_ttl": ProblemKind(400, "ttl not allowed"),
    "bad_lease": ProblemKind(400, "Not a lease"),
    "reserved_key": ProblemKind(400, "Key of the system"),
    "bad_limit": ProblemKind(400, "limit not allowed"),
    "bad_max_age": ProblemKind(400, "max_age not allowed"),
    "bad_timeout": ProblemKind(400, "Acordo-Timeout not allowed"),
    "bad_lifetime": ProblemKind(400, "Acordo-Lifetime not allowed"),
    "bad_flag": ProblemKind(400, "Neither yes nor no"),
    "unknown_parameter": ProblemKind(400, "Unknown parameter"),
    "duplicate_parameter": ProblemKind(400, "Parameter given twice"),
    "missing_parameter": ProblemKind(400, "Parameter missing"),
    "conflicting_parameters": ProblemKind(400, "Parameters exclude each other"),
    "bad_revision": ProblemKind(400, "Not a revision"),
    "bad_consistency": ProblemKind(400, "Unknown read level"),
    "bad_parameter": ProblemKind(400, "Parameter not allowed"),
    "backup_of_another_history": ProblemKind(
        400, "Backup of another history", "take a whole backup; nothing was changed"
    ),
    "bad_if_match": ProblemKind(400, "If-Match is no revision"),
    "bad_if_none_match": ProblemKind(400, "If-None-Match does not work here"),
    "two_conditions": ProblemKind(400, "Two conditions"),
    "unsupported_condition": ProblemKind(400, "Condition that does not work here"),
    "bad_op_id": ProblemKind(400, "op_id not allowed"),
    "not_cancellable": ProblemKind(
        400, "Made by a node", "read the key: its value says whether the write is in"
    ),
    "bad_token": ProblemKind(400, "Token of another listing"),
    "future_revision": ProblemKind(
        400,
        "Revision not given yet",
        "no node gave this position: it is another cluster's, or of a time that a restore "
        "undid; begin again from the "
        "present state; nothing was changed",
    ),
    "unknown_path": ProblemKind(404, "No such path"),
    "key_not_found": ProblemKind(
        404, "Key not found", "the key is absent; Acordo-Revision says as of when"
    ),
    "lease_not_found": ProblemKind(
        404,
        "Lease not found",
        "it has ended or was never granted: grant another; nothing was changed",
    ),
    "unknown_member": ProblemKind(404, "No such member"),
    "method_not_allowed": ProblemKind(405, "Method not allowed"),
    "body_timeout": ProblemKind(408, "Body too slow", "send the body faster; nothing was changed"),
    "precondition_failed": ProblemKind(
        412, "Precondition failed", "read the key again and decide; nothing was changed"
    ),
    "refused": ProblemKind(
        409, "Transaction refused", "read the keys again and decide; nothing was changed"
    ),
    "lease_exists": ProblemKind(
        409, "Lease id in use", "choose another id, or none; nothing was changed"
    ),
    "key_absent": ProblemKind(
        409, "Nothing to keep", "the key is absent: write it whole; nothing was changed"
    ),
    "too_many_keys": ProblemKind(
        409, "Too many keys in the range", "name smaller ranges; nothing was changed"
    ),
    "lease_full": ProblemKind(
        409, "Too many keys at one lease", "grant another lease; nothing was changed"
    ),
    "no_control": ProblemKind(
        404,
        "No control port",
        "start the cluster by `python -m cluster up`, and ask from the same machine",
    ),
    "pruned": ProblemKind(410, "No longer kept", "begin again from the present state"),
    "undone": ProblemKind(
        410,
        "Undone",
        "read anew, and watch from there on: what was told may not be there",
    ),
    "body_too_large": ProblemKind(413, "Body too large"),
    "value_too_large": ProblemKind(413, "Value too large"),
    "unsupported_media_type": ProblemKind(415, "Unsupported media type"),
    "unsupported_encoding": ProblemKind(415, "Unsupported content encoding"),
    "expectation_failed": ProblemKind(417, "Expectation failed"),
    "wrong_host": ProblemKind(
        421, "Host not served here", "ask this node by a name of its own; nothing was changed"
    ),
    "cross_site": ProblemKind(
        403, "From another origin", "use the page of this node, or a client; nothing was changed"
    ),
    "mismatch": ProblemKind(
        422,
        "op_id known with another body",
        "use a new op_id for a new operation; nothing was changed",
    ),
    "header_too_large": ProblemKind(431, "Head too large"),
    # this attempt has no effect and never will
    "no_leader": ProblemKind(
        503,
        "No leader",
        "this node knows no leader yet: retry in a moment, here or at another node; if it "
        "stays so, /v1/cluster shows "
        "which voters are away; nothing was changed",
    ),
    "no_quorum": ProblemKind(
        503,
        "No quorum",
        "a majority of the voters does not answer: bring voters back, then retry; nothing was "
        "changed",
    ),
    "not_leader": ProblemKind(503, "Leader changed", _MOVES),
    "deposed": ProblemKind(503, "Leader changed", _MOVES),
    "not_taken_over": ProblemKind(503, "Leader is taking over", _MOVES),
    "diverged": ProblemKind(
        503, "Member differs from the leader", "use another node; nothing was changed"
    ),
    "starting": ProblemKind(
        503, "Not ready yet", "wait until /readyz says ok, or use another node; nothing was changed"
    ),
    "upgrading": ProblemKind(
        503, "Not in every member's version", "repeat it once all are upgraded; nothing was changed"
    ),
    "rate_limited": ProblemKind(
        429, "Too much of one client", "wait for Retry-After, or ask for less; nothing was changed"
    ),
    "overloaded": ProblemKind(503, "Too much at once", "wait for Retry-After; nothing was changed"),
    "draining": ProblemKind(503, "Node is stopping", "use another node; nothing was changed"),
    "too_many_leases": ProblemKind(
        503,
        "Too many leases",
        "revoke leases that nobody needs, or attach many keys to one; nothing was changed",
    ),
    "lease_ending": ProblemKind(
        503,
        "Lease is about to end",
        "its time was over: grant another, or ask again in a moment; nothing was changed",
    ),
    "store_refused": ProblemKind(
        503,
        "Store is not what was settled",
        "an operator decides: give the cluster back the store it had, or give up what this one "
        "lacks with "
        "`acordo adopt`; see /v1/cluster; nothing was changed",
    ),
    "store_foreign": ProblemKind(
        503,
        "Store of another cluster",
        "give this cluster the store it had; another cluster's cannot be adopted; nothing was "
        "changed",
    ),
    "own_store_undecided": ProblemKind(
        503,
        "Members' stores differ",
        "an operator decides which member is right, and replaces the others; see /v1/cluster; "
        "nothing was changed",
    ),
    "store_away": ProblemKind(
        503,
        "Store does not answer or commit",
        "wait: nodes try on, and retry; if it stays so, look at the database and its disk; "
        "nothing was changed",
    ),
    "store_damaged": ProblemKind(
        503,
        "Store holds something damaged",
        "restore the store from a backup, or write or delete the key anew; other keys are not "
        "concerned; "
        "nothing was changed",
    ),
    "broker_unavailable": ProblemKind(
        503,
        "Broker unavailable",
        "wait: nodes try on, and retry; all but /v1/async works meanwhile; nothing was changed",
    ),
    "behind": ProblemKind(
        503,
        "Not there yet",
        "this node lags: retry in a moment, or at another node; nothing was changed",
    ),
    "timeout": ProblemKind(
        503, "Out of time", "retry freely, with more time (Acordo-Timeout); nothing was changed"
    ),
    "expired": ProblemKind(503, "Expired", "it never takes effect: send it again with a new op_id"),
    "not_applied": ProblemKind(503, "Not applied", _RETRY),
    # the operator's doing
    "not_configured": ProblemKind(
        501, "Not configured", "the settings of this cluster do not allow it; nothing was changed"
    ),
    "not_a_voter": ProblemKind(409, "Not a voter", "name a voter; nothing was changed"),
    "membership_refused": ProblemKind(
        409, "Membership change refused", "ask for something else; nothing was changed"
    ),
    "ask_leader": ProblemKind(
        409,
        "Another node leads",
        "send it to the leader, which `leader` names; nothing was changed",
    ),
    "nothing_to_adopt": ProblemKind(
        409, "Nothing to adopt", "the store is what was settled; nothing was changed"
    ),
    "gives_up": ProblemKind(
        409,
        "Say what is given up",
        "if those revisions may be lost, repeat with the number that is allowed; else put the "
        "right store in place; "
        "nothing was changed",
    ),
    "foreign_store": ProblemKind(
        409, "Store of another cluster", "give this cluster its own store; nothing was changed"
    ),
    "unsafe": ProblemKind(409, "Not safe now", _NOT_NOW),
    # unknown
    "outcome_unknown": ProblemKind(
        504,
        "Outcome unknown",
        "look the op_id up, or repeat with the same op_id; a POST to the look-up settles it",
    ),
    "outcome_forgotten": ProblemKind(
        504,
        "Outcome not remembered",
        "read the key: its value says whether the write is in; give writes an op_id",
    ),
    "internal": ProblemKind(
        500, "Internal error", "report it; look the op_id up before you repeat"
    ),
}
"""Every code that a problem document may carry."""


def kind_of(code: str) -> ProblemKind:
    """Return the fixed part of a code; an unlisted code is a plain bad request."""
    return KINDS.get(code, KINDS["bad_request"])


def problem(
    code: str,
    detail: str,
    *,
    outcome: Literal["not_applied", "unknown"] | None = None,
    status: int | None = None,
    **more: object,
) -> Problem:
    """Return the problem document of a code. `outcome` defaults to "unknown" for 500 and 504, to
    none for key_not_found, and to "not_applied" otherwise.
    """
    kind = kind_of(code)
    at = status or kind.status
    if outcome is None and code != "key_not_found":
        outcome = "unknown" if at in (500, 504) else "not_applied"
    return Problem(
        type=TYPE_PREFIX + code,
        title=kind.title,
        status=at,
        detail=detail,
        code=code,
        outcome=outcome,
        advice=kind.advice,
        **more,  # type: ignore[arg-type]  # names checked by the constructor itself
    )


def problem_of(error: KvError, *, mutation: bool, op_id: str | None = None) -> Problem:
    """Return the problem document of an error. A read changes nothing, so none of its failures is
    unknown.
    """
    match error:
        case BadRequest(code=code, detail=detail, allowed=allowed):
            return problem(code, detail, allowed=allowed, op_id=op_id)
        case Undone(floor=floor, after=after):
            return problem("undone", str(error), floor=floor, undone_after=after, op_id=op_id)
        case Pruned(floor=floor):
            return problem("pruned", str(error), floor=floor, op_id=op_id)
        case NotApplied(reason=reason, detail=detail):
            code = reason if reason in KINDS else "not_applied"
            status = 429 if code == "rate_limited" else 503
            return problem(code, detail, reason=reason, op_id=op_id, status=status)
        case StoreDamaged(detail=detail):
            return problem("store_damaged", detail, op_id=op_id)
        case BackendUnavailable(backend=backend, detail=detail):
            code = (
                "broker_unavailable"
                if backend in ("broadcast", "rabbitmq", "broker")
                else "store_away"
            )
            return problem(code, f"{backend}: {detail}", op_id=op_id)
        case OutcomeUnknown(detail=detail):
            if not mutation:
                return problem("timeout", detail, op_id=op_id)
            return problem("outcome_unknown", detail, op_id=error.op_id or op_id)
        case InvariantViolated():
            return problem(
                "internal", str(error), op_id=op_id, outcome=None if mutation else "not_applied"
            )
    return problem("internal", str(error), op_id=op_id, outcome=None if mutation else "not_applied")
