"""Tell problems to clients of etcd, in the form and with the codes of its JSON gateway. Pure; it
never calls an unknown outcome a failure, or the reverse.
"""

from __future__ import annotations

from typing import Final

from node.wire.documents import encode
from node.wire.problems import Problem

STATUS: Final = {
    2: 500, 3: 400, 5: 404, 7: 403, 8: 503, 9: 412, 11: 400, 12: 501, 13: 500, 14: 503, 16: 401,
}  # fmt: skip
"""The HTTP status of each code of gRPC that is used."""
UNAVAILABLE: Final = 14
_WORDS: Final = {
    "pruned": (11, "mvcc: required revision has been compacted"),
    "undone": (11, "mvcc: required revision has been compacted"),
    "future_revision": (11, "mvcc: required revision is a future revision"),
    "too_many_operations": (3, "too many operations in txn request"),
    "duplicate_key": (3, "duplicate key given in txn request"),
    "body_too_large": (3, "request is too large"),
    "value_too_large": (3, "request is too large"),
    "key_empty": (3, "key is not provided"),
    "no_leader": (UNAVAILABLE, "no leader"),
    "overloaded": (8, "too many requests"),
    "rate_limited": (8, "too many requests"),
    "draining": (UNAVAILABLE, "server stopped"),
    "timeout": (UNAVAILABLE, "request timed out"),
    "not_signed_in": (16, "invalid auth token"),
    "not_allowed": (7, "permission denied"),
    "too_many_leases": (8, "too many leases"),
    "lease_not_found": (5, "requested lease not found"),
}
"""The code of gRPC and etcd's words for problems that it has too."""
_CODES: Final = {400: 3, 403: 7, 404: 5, 405: 12, 413: 3, 415: 3, 421: 3, 501: 12, 503: UNAVAILABLE}


def gateway_error(code: int, message: str) -> tuple[int, bytes]:
    """Return HTTP status and body of an error."""
    return STATUS[code], encode({"error": message, "message": message, "code": code})


def gateway_problem(document: Problem) -> tuple[int, bytes]:
    """Return HTTP status and body of a problem."""
    if document.outcome == "unknown":
        return gateway_error(
            UNAVAILABLE,
            f"etcdserver: request timed out, and it may have been applied: {document.detail}",
        )
    code, words = _WORDS.get(document.code, (0, ""))
    if not code:
        code = _CODES.get(document.status, 3 if document.status < 500 else UNAVAILABLE)
        words = f"{document.code}: {document.detail}"
    return gateway_error(code, f"etcdserver: {words}")
