"""Convert what a cluster says into text that a terminal shows and does not interpret. Never prints
anything.
"""

from __future__ import annotations

import unicodedata
from base64 import b64encode
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from rich.markup import escape
from rich.table import Table

from acordo._results import Reading
from acordo._wire import forms

SHOWN_CHARS_MAX: Final = 60
BASE64: Final = "base64:"
"""Prefix of an argument that gives a key as base64."""


def printable(text: str | bytes, most: int = SHOWN_CHARS_MAX) -> str:
    r"""Return text that a terminal shows and does not interpret, cut to `most` characters.

    For bytes, the text is unambiguous: a byte that is not UTF-8 becomes \xff, a hidden character
    \x00 or \u202e, and a backslash is doubled. Our own text (`str`) keeps its backslashes.
    """
    exact = isinstance(text, bytes)
    whole = text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else text
    cut = whole[: most + 1]
    safe = "".join("\\\\" if exact and ch == "\\" else _visible(ch) for ch in cut)
    return safe if len(cut) <= most else safe[: most - 1] + "…"


def _visible(ch: str) -> str:
    if ch == " " or unicodedata.category(ch)[0] not in "CZ":
        return ch
    code = ord(ch)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if 0x80 <= code < 0x100 else ch.encode("unicode_escape").decode()


def shown_key(key: bytes) -> str:
    """Return a key in the form that arguments accept, without rich's markup."""
    return escape(typed_key(key))


def typed_key(key: bytes) -> str:
    """Return a key in the form that arguments accept: as it is, or as `base64:…` where that would
    be ambiguous.
    """
    text = key.decode("utf-8", "surrogateescape")
    plain = (
        text == text.strip()
        and not text.startswith(BASE64)
        and all(_visible(ch) == ch for ch in text)
    )
    return text if plain else BASE64 + b64encode(key).decode()


def shown(text: str | bytes, most: int = SHOWN_CHARS_MAX) -> str:
    """Return `printable` text without rich's markup."""
    return escape(printable(text, most))


def reading_form(found: Reading, *, value: bool = True) -> dict[str, object]:
    """Return a key as JSON in the form that `load` accepts."""
    form: dict[str, object] = {"key": forms.to_json(found.key)}
    if value:
        form["value"] = None if found.value is None else forms.to_json(found.value)
    form["revision"] = found.revision
    if found.expires_ms is not None:
        form["expires_ms"] = found.expires_ms
    if found.version:
        form["create_revision"], form["version"] = found.create_revision, found.version
    return form


def moment(log_time_ms: int) -> str:
    """Return a log time in a form for people."""
    try:
        return datetime.fromtimestamp(log_time_ms / 1000, UTC).isoformat(
            sep=" ", timespec="seconds"
        )
    except (ValueError, OverflowError, OSError):
        return f"log time {log_time_ms} ms"


def until(expires_ms: int | None) -> str:
    """Return when a key expires, as the end of a line; empty: never."""
    return "" if expires_ms is None else f"  expires {moment(expires_ms)}"


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """Return a plain table."""
    made = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        made.add_row(*row)
    return made
