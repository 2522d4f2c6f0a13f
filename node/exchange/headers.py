"""Parse request headers: op_id, lifetime of a write, time limit, media type, and headers to echo.
Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from kv.errors import BadRequest
from kv.model import NODE_OP_ID_PREFIX, RESERVED_PREFIXES
from node.wire.text_fields import checked_op_id, parse_seconds, unquoted

TIMEOUT_S_MIN: Final = 0.001
TIMEOUT_S_MAX: Final = 3600
LIFETIME_S_MAX: Final = 366 * 86400
JSON: Final = "application/json"
BYTES: Final = "application/octet-stream"
HEADER_CHARS_MAX: Final = 256
"""Longest X-Request-Id or traceparent that is echoed."""
_NONE_GIVEN: Final = (None, None, None, None)
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_JSON_TYPES: Final = frozenset({JSON, "text/json"})
"""Media types accepted for JSON bodies. A page of another origin can send three other media types,
or none at all, without a CORS preflight. JSON is accepted under none of those, so no such page can
send one.
"""


def own_timeout_s(headers: Mapping[str, str]) -> float | None:
    """Return the client's own time limit (`Acordo-Timeout`, seconds). Raises BadRequest."""
    given = headers.get("Acordo-Timeout")
    if given is None:
        return None
    return max(parse_seconds(given, "timeout", TIMEOUT_S_MAX), TIMEOUT_S_MIN)


def own_lifetime_s(headers: Mapping[str, str]) -> float | None:
    """Return the lifetime that the client gives its write (`Acordo-Lifetime`, seconds). Raises
    BadRequest.
    """
    given = headers.get("Acordo-Lifetime")
    return None if given is None else parse_seconds(given, "lifetime", LIFETIME_S_MAX)


def own_op_id(
    headers: Mapping[str, str], query_op_id: str | None, body_op_id: str | None
) -> str | None:
    """Return the client's op_id unchanged; None: it gave none.

    Raises BadRequest when two of them differ, when one is reserved for nodes, and when
    `Acordo-Lifetime` comes without one. With that header, op_ids of `/v1/async` are accepted,
    because a worker submits writes that a node named.
    """
    lasting = "Acordo-Lifetime" in headers
    reserved = (NODE_OP_ID_PREFIX,) if lasting else RESERVED_PREFIXES
    key = headers.get("Idempotency-Key")
    candidates = (
        None if key is None else unquoted(key),
        headers.get("Acordo-Op-Id"),
        query_op_id,
        body_op_id,
    )
    if not lasting and candidates == _NONE_GIVEN:
        return None
    given = [checked_op_id(text, reserved=reserved) for text in candidates if text is not None]
    if len(set(given)) > 1:
        raise BadRequest("bad_op_id", "two different op_ids", allowed="one")
    if lasting and not given:
        raise BadRequest(
            "bad_lifetime",
            "Acordo-Lifetime goes with an op_id of yours",
            allowed="an op_id with it",
        )
    return given[0] if given else None


def check_json(headers: Mapping[str, str]) -> None:
    """Raise BadRequest unless the body's media type is JSON."""
    given = headers.get("Content-Type", "")
    if given.partition(";")[0].strip().lower() not in _JSON_TYPES:
        detail = f"Content-Type {given[:60]!r}" if given else "no Content-Type"
        raise BadRequest("unsupported_media_type", detail, allowed=f"{JSON} (curl --json does it)")


def request_id(asked: Mapping[str, str]) -> str | None:
    """Return the client's name for its request, if it gave one that is text of one line; None: it
    did not.
    """
    given = asked.get("X-Request-Id")
    sound = given is not None and 0 < len(given) <= HEADER_CHARS_MAX and given.isprintable()
    return given if sound and given is not None and given.isascii() else None


def echo(asked: Mapping[str, str], answered: dict[str, str]) -> None:
    """Copy the tracing headers of a request into the answer's headers."""
    named, trace = request_id(asked), asked.get("traceparent")
    if named is not None:
        answered["X-Request-Id"] = named
    if trace is not None and _TRACEPARENT.fullmatch(trace):
        answered["traceparent"] = trace
