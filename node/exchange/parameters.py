"""Parse the path and the query of a request. Pure; an unknown or repeated parameter is refused,
never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from kv.errors import BadRequest
from node.reads.levels import LEVELS, Level, ReadOptions
from node.wire.text_fields import parse_revision, parse_seconds

MAX_AGE_S_MAX: Final = 366 * 86400
_BROKEN_PERCENT: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def query_params(raw_query: str, allowed: tuple[str, ...]) -> dict[str, bytes]:
    """Return the query's parameters, percent-decoded. Raises BadRequest for an unknown or repeated
    one.
    """
    found: dict[str, bytes] = {}
    for pair in raw_query.split("&") if raw_query else ():
        if not pair:
            continue
        raw_name, _, raw_value = pair.partition("=")
        name = percent_decoded(raw_name.replace("+", " ")).decode("utf-8", "replace")
        if name not in allowed:
            known = ", ".join(allowed) or "none here"
            raise BadRequest("unknown_parameter", f"unknown parameter {name[:60]!r}", allowed=known)
        if name in found:
            raise BadRequest("duplicate_parameter", f"{name} is given twice", allowed="once")
        found[name] = percent_decoded(raw_value.replace("+", " "))
    return found


def as_texts(params: Mapping[str, bytes]) -> dict[str, str]:
    """Return parameters as text. Raises BadRequest."""
    try:
        return {name: value.decode() for name, value in params.items()}
    except UnicodeDecodeError as exc:
        raise BadRequest(
            "not_utf8", "a parameter is not UTF-8", allowed="UTF-8, percent-encoded"
        ) from exc


def read_options(params: Mapping[str, str], session_revision: str | None) -> ReadOptions:
    """Return the read options. `session_revision`: the header Acordo-Revision, used when
    `min_revision` is not given. Raises BadRequest.
    """
    level = parse_level(params.get("consistency", "linearizable"))
    given, name = params.get("min_revision"), "min_revision"
    if given is None:
        given, name = session_revision, "Acordo-Revision"
    min_revision = 0 if given is None else parse_revision(given, name)
    max_age = params.get("max_age")
    if max_age is None:
        return ReadOptions(level, min_revision)
    if level != "stale":
        raise BadRequest(
            "conflicting_parameters", "max_age bounds stale reads only", allowed="consistency=stale"
        )
    return ReadOptions(level, min_revision, parse_seconds(max_age, "max_age", MAX_AGE_S_MAX))


def parse_level(text: str) -> Level:
    """Return a read level. Raises BadRequest."""
    for level in LEVELS:
        if text == level:
            return level
    raise BadRequest(
        "bad_consistency", f"unknown read level {text[:40]!r}", allowed=", ".join(LEVELS)
    )


def percent_decoded(raw: str) -> bytes:
    """Return the bytes of a percent-encoded text. Raises BadRequest."""
    data = raw.encode("utf-8", "surrogateescape")
    if b"%" not in data:
        return data
    if _BROKEN_PERCENT.search(data):
        raise BadRequest(
            "bad_percent_encoding",
            f"{raw[:60]!r} is not percent-encoded",
            allowed="%25 for a % sign",
        )
    return unquote_to_bytes(data)


def percent_encoded(text: str) -> str:
    """Return text percent-encoded as one path segment."""
    return "".join(
        c if c.isalnum() or c in "-._" else "".join(f"%{b:02X}" for b in c.encode()) for c in text
    )
