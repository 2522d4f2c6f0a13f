"""Convert If-Match and If-None-Match of a write into guards, and evaluate If-None-Match of a read.
Pure.
"""

from __future__ import annotations

import re
from typing import Final

from kv.errors import BadRequest
from kv.model import (
    REVISION_MAX,
    Absent,
    AtRevision,
    Exists,
    Guard,
)

REVISIONS_MAX: Final = 64
"""Most revisions in one guard or If-Match."""
_ETAG: Final = re.compile(r'\s*"([0-9]{1,16})"\s*')


def preconditions(key: bytes, if_match: str | None, if_none_match: str | None) -> tuple[Guard, ...]:
    """Return the guards for the If-Match and If-None-Match of a write. Raises BadRequest."""
    if if_match is not None and if_none_match is not None:
        raise BadRequest(
            "two_conditions", "If-Match and If-None-Match exclude each other", allowed="one of them"
        )
    if if_none_match is not None:
        if if_none_match.strip() != "*":
            raise BadRequest(
                "bad_if_none_match", "only If-None-Match: * works on a write", allowed="*"
            )
        return (Absent(key),)
    if if_match is None:
        return ()
    if if_match.strip() == "*":
        return (Exists(key),)
    return (AtRevision(key, parse_etags(if_match, "If-Match")),)


def parse_etags(header: str, name: str) -> tuple[int, ...]:
    """Return the revisions in a list of strong ETags. Raises BadRequest."""
    parts = header.split(",")
    found = [_ETAG.fullmatch(part) for part in parts[: REVISIONS_MAX + 1]]
    if len(parts) > REVISIONS_MAX or any(
        m is None or not 1 <= int(m[1]) <= REVISION_MAX for m in found
    ):
        raise BadRequest(
            f"bad_{name.lower().replace('-', '_')}",
            f"{name}: {header[:60]!r} is no list of strong ETags of this server",
            allowed=f'*, or "revision", up to {REVISIONS_MAX} of them with commas between',
        )
    return tuple(int(m[1]) for m in found if m)


def matches_none(header: str, revision: int) -> bool:
    """Return whether If-None-Match of a read makes the answer a 304. The comparison is weak, so W/
    is ignored (RFC 9110).
    """
    if header.strip() == "*":
        return True
    return any(
        part.strip().removeprefix("W/") == f'"{revision}"'
        for part in header.split(",")[:REVISIONS_MAX]
    )
