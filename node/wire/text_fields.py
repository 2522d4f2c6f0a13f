"""Parse numbers, times, flags and op_ids given as text in parameters and headers. Pure."""

from __future__ import annotations

import re
from typing import Final

from kv.errors import BadRequest
from kv.model import (
    OP_ID_CHARS_MAX,
    RESERVED_PREFIXES,
    REVISION_MAX,
    TTL_MS_MAX,
)

TTL_S_MAX: Final = TTL_MS_MAX // 1000
_DIGITS: Final = re.compile(r"[0-9]{1,16}")
_SECONDS: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")


def parse_revision(text: str, name: str, *, low: int = 0) -> int:
    """Return a revision given as text. Raises BadRequest."""
    if not _DIGITS.fullmatch(text) or not low <= int(text) <= REVISION_MAX:
        raise BadRequest(
            "bad_revision",
            f"{name}={text[:40]!r} is no revision",
            allowed=f"{low} to {REVISION_MAX}",
        )
    return int(text)


def parse_count(text: str, name: str, most: int) -> int:
    """Return a count from 1 to `most` given as text. Raises BadRequest."""
    if not _DIGITS.fullmatch(text) or not 1 <= int(text) <= most:
        raise BadRequest(
            f"bad_{name}", f"{name}={text[:40]!r} is out of range", allowed=f"1 to {most}"
        )
    return int(text)


def parse_seconds(text: str, name: str, most: float) -> float:
    """Return a time from 0 to `most`, given as text in seconds. Raises BadRequest."""
    if not _SECONDS.fullmatch(text) or not 0 <= float(text) <= most:
        raise BadRequest(
            f"bad_{name}",
            f"{name}={text[:40]!r} is no such time",
            allowed=f"seconds, up to {most:.12g}",
        )
    return float(text)


def ttl_ms_of(seconds: float) -> int:
    """Return a ttl given in seconds as milliseconds. Raises BadRequest."""
    if not 0.001 <= seconds <= TTL_S_MAX:
        raise BadRequest(
            "bad_ttl",
            f"ttl={seconds:.12g} is out of range",
            allowed=f"seconds, 0.001 to {TTL_S_MAX}",
        )
    return round(seconds * 1000)


def parse_flag(text: str, name: str) -> bool:
    """Return a flag given as text; an empty text means yes. Raises BadRequest."""
    match text.lower():
        case "" | "1" | "true" | "yes":
            return True
        case "0" | "false" | "no":
            return False
    raise BadRequest(
        "bad_flag", f"{name}={text[:40]!r} is neither yes nor no", allowed="true or false"
    )


def checked_op_id(text: str, *, reserved: tuple[str, ...] = RESERVED_PREFIXES) -> str:
    """Return a client's op_id unchanged. Raises BadRequest, also for one with a reserved prefix
    (op_ids made by nodes).
    """
    if (
        not 1 <= len(text) <= OP_ID_CHARS_MAX
        or not text.isascii()
        or not text.isprintable()
        or text != text.strip()
    ):
        raise BadRequest(
            "bad_op_id",
            "the op_id is not allowed",
            allowed=f"1 to {OP_ID_CHARS_MAX} printable ASCII",
        )
    for prefix in reserved:
        if text.startswith(prefix):
            raise BadRequest(
                "bad_op_id",
                f"op_ids that begin with {prefix} are made by nodes",
                allowed="any other",
            )
    return text


def unquoted(text: str) -> str:
    """Return an Idempotency-Key without the quotes of a structured field (RFC 8941); an unquoted
    key is accepted too.
    """
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text
