"""Refuse requests that must not be worked on, whatever they ask for: foreign hosts and origins,
ambiguous framing, unsupported conditions. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from kv.errors import BadRequest
from node.http.origin import foreign, leads_here

CONDITIONAL: Final = (
    "If-Match",
    "If-None-Match",
    "If-Modified-Since",
    "If-Unmodified-Since",
    "If-Range",
)
"""All conditional headers of RFC 9110 section 13.1."""


def check_framing(codings: Sequence[str], version: tuple[int, int]) -> None:
    """Raise BadRequest for ambiguous framing, where this node and a proxy in front of it may
    disagree on where the body ends. `codings`: the lines of Transfer-Encoding, at least one.
    """
    # RFC 9112 section 6.1: Transfer-Encoding in HTTP/1.0 makes the framing faulty, whatever its
    # value.
    if version < (1, 1):
        raise BadRequest(
            "bad_http", "Transfer-Encoding in HTTP/1.0", allowed="Content-Length, or HTTP/1.1"
        )
    if ",".join(codings).strip().lower() != "chunked":
        raise BadRequest(
            "unsupported_encoding", "a Transfer-Encoding beside chunked", allowed="chunked alone"
        )


def check_host(host: str, names: frozenset[str]) -> None:
    """Raise BadRequest for a Host that a page of another origin may have pointed at this node (DNS
    rebinding).
    """
    if not leads_here(host, names):
        allowed = "an address, localhost, the advertised URL's name, or one of ACORDO_HTTP_NAMES"
        raise BadRequest("wrong_host", f"this node does not serve {host[:100]!r}", allowed=allowed)


def check_origin(headers: Mapping[str, str]) -> None:
    """Raise BadRequest for a write sent by a page of another origin."""
    where = foreign(headers.get("Host", ""), headers.get("Sec-Fetch-Site"), headers.get("Origin"))
    if where is not None:
        raise BadRequest(
            "cross_site", f"the request comes from {where}", allowed="this node's own page"
        )


def check_conditions(headers: Mapping[str, str], heeded: frozenset[str]) -> None:
    """Raise BadRequest for a conditional header that this write does not support. Ignoring it would
    execute a write that the client wanted only under a condition.
    """
    for name in CONDITIONAL:
        if name in headers and name not in heeded:
            works = " and ".join(sorted(heeded)) or "guards in the body, where there are any"
            raise BadRequest(
                "unsupported_condition", f"{name} does not work on this request", allowed=works
            )
