"""Turn what a cluster says into what a terminal shows and does not obey. Never prints anything."""

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
"""How an argument begins that gives a key as base64."""


def printable(text: str | bytes, most: int = SHOWN_CHARS_MAX) -> str:
    r"""Return text that a terminal shows and does not obey, cut to `most` characters.

    Of bytes each form stands for one thing only: a byte that is no UTF-8 is \xff, a hidden
    character \x00 or \u202e, and a backslash is doubled. Text of ours (`str`) keeps its
    backslashes.
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
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if 0x80 <= code < 0x100 else ch.encode("unicode_escape").decode()


def shown_key(key: bytes) -> str:
    """Return a key in the form in which an argument takes it: as it is, or `base64:…` where that
    would not do.
    """
    text = key.decode("utf-8", "surrogateescape")
    plain = (
        text == text.strip()
        and not text.startswith(BASE64)
        and all(_visible(ch) == ch for ch in text)
    )
    return escape(text if plain else BASE64 + b64encode(key).decode())


def shown(text: str | bytes, most: int = SHOWN_CHARS_MAX) -> str:
    """Return `printable` text without rich's markup."""
    return escape(printable(text, most))


def reading_form(found: Reading, *, value: bool = True) -> dict[str, object]:
    """Return a key as JSON, in the form that `load` takes."""
    form: dict[str, object] = {"key": forms.to_json(found.key)}
    if value:
        form["value"] = None if found.value is None else forms.to_json(found.value)
    form["revision"] = found.revision
    if found.expires_ms is not None:
        form["expires_ms"] = found.expires_ms
    return form


def moment(log_time_ms: int) -> str:
    """Return a log time as people read it."""
    try:
        return datetime.fromtimestamp(log_time_ms / 1000, UTC).isoformat(
            sep=" ", timespec="seconds"
        )
    except (ValueError, OverflowError, OSError):
        return f"log time {log_time_ms} ms"


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """Return a plain table."""
    made = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        made.add_row(*row)
    return made
