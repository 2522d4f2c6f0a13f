"""Show results, errors and progress, for people or as JSON, and choose the exit code. Never asks
the network.
"""

from __future__ import annotations

import sys
import unicodedata
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from acordo import _results as results
from acordo._calls.retry_policy import FINAL
from acordo._errors import (
    AcordoError,
    BadRequest,
    NotApplied,
    OutcomeUnknown,
    Pruned,
    ReadFailed,
    Refused,
    Unreachable,
)
from acordo._wire import forms

OK: Final = 0
NO: Final = 1
USAGE: Final = 2
NOT_APPLIED: Final = 3
UNKNOWN: Final = 4
UNREACHABLE: Final = 5
PRUNED: Final = 6
CONFIG: Final = 78
INTERRUPTED: Final = 130

CODES: Final = {
    OK: "done",
    NO: "no: key not found, guard did not hold, check failed",
    USAGE: "the request can never work as it is",
    NOT_APPLIED: "not applied, or a read without an answer: retry freely",
    UNKNOWN: "outcome unknown: look the op_id up (acordo operation), or repeat with the same --op-id",
    UNREACHABLE: "no node could be reached: nothing was changed",
    PRUNED: "the revision asked for is no longer kept",
    CONFIG: "a setting must be mended first, such as a node's URL (sysexits.h: EX_CONFIG)",
    INTERRUPTED: "interrupted, whatever else came of it",
}
SHOWN_CHARS_MAX: Final = 60
BASE64: Final = "base64:"
"""How an argument begins that gives a key as base64."""
TABLE_WIDTH: Final = 10_000
PIPE_WIDTH: Final = 300
"""Columns of a table that goes into a pipe: nothing is cut there."""


def code_of(error: AcordoError) -> int:
    """Return the exit code for an error."""
    match error:
        case Refused():
            return NO
        case BadRequest(code="bad_url" | "no_url"):
            return CONFIG
        case BadRequest():
            return USAGE
        case Unreachable():
            return UNREACHABLE
        case NotApplied() | ReadFailed():
            return NOT_APPLIED
        case OutcomeUnknown():
            return UNKNOWN
        case Pruned():
            return PRUNED
    return NOT_APPLIED


class Output:
    """Standard output and standard error of one command."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.out = Console(
            highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_WIDTH
        )
        self.err = Console(stderr=True, highlight=False, soft_wrap=True)
        self.op_id: str | None = None
        """Of the newest write, as long as nobody said how it ended."""
        self._interruption_told = False

    def json(self, form: object) -> None:
        """Print one JSON document on a line of its own."""
        self.raw(msgspec.json.encode(form) + b"\n")

    def raw(self, content: bytes) -> None:
        """Write bytes to standard output as they are."""
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()

    def say(self, text: str) -> None:
        """Print a line for people. Takes rich's markup: escape what comes from elsewhere."""
        self.out.print(text)

    def note(self, text: str) -> None:
        """Print a line beside the results."""
        self.err.print(text)

    def table(self, made: Table) -> None:
        """Print a table with every cell whole: a terminal may wrap a line, but a URL that is cut is
        of no use.
        """
        Console(highlight=False, width=TABLE_WIDTH).print(made, crop=False)

    def interrupted(self, text: str = "") -> None:
        """Say once that Ctrl-C was heard, and what may have happened. `text`: what the command says
        of it.
        """
        if self._interruption_told:
            return
        self._interruption_told = True
        if self.as_json:
            self.err.out(
                msgspec.json.encode(
                    {"error": "Interrupted", "op_id": self.op_id, "exit_code": 130}
                ).decode()
            )
        elif text:
            self.note(f"[yellow]interrupted: {escape(text)}[/yellow]")
        elif self.op_id is not None:
            look_up = f"acordo operation {escape(printable(self.op_id, 200))}"
            self.note(f"interrupted: the write may have been applied, or may yet be: {look_up}")
        else:
            self.note("interrupted")

    def error(self, error: AcordoError) -> None:
        """Say what happened, whether the write may have taken effect, and what to do."""
        if self.as_json:
            form = {
                "error": type(error).__name__,
                "detail": error.detail,
                "code": error.code,
                "maybe_applied": error.maybe_applied,
                "advice": error.advice,
                "op_id": error.op_id,
                "status": error.status,
                "node": error.node,
                "attempts": error.attempts,
                "exit_code": code_of(error),
            }
            for name in ("allowed", "current", "guard", "floor", "revision"):
                if getattr(error, name, None) is not None:
                    form[name] = getattr(error, name)
            if isinstance(error, Refused) and error.key is not None:
                form["key"] = forms.to_json(error.key)
            sys.stderr.write(msgspec.json.encode(form).decode() + "\n")
            return
        self.note(f"[red]{escape(printable(error.detail, 2000))}[/red]")
        allowed = getattr(error, "allowed", None)
        if allowed:
            self.note(f"  allowed: {escape(printable(str(allowed), 500))}")
        current = getattr(error, "current", None)
        if current is not None:
            key = getattr(error, "key", None)
            which = "the key" if key is None else shown_key(key)
            self.note(f"  {which} is {'absent' if not current else f'at revision {current}'} now")
        useful = error.maybe_applied and error.op_id and error.code not in FINAL
        look_up = f": acordo operation {escape(error.op_id)}" if useful and error.op_id else ""
        self.note(f"  {escape(printable(error.advice, 500))}{look_up}")

    @contextmanager
    def progress(self, what: str, total: int | None) -> Iterator[Any]:
        """Show a bar on standard error while the block runs; yields a function told (lines,
        bytes).
        """
        if self.as_json or not self.err.is_terminal:
            yield lambda told: None
            return
        columns = [
            SpinnerColumn(),
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("keys"),
        ]
        if total is not None:
            columns = [SpinnerColumn(), TextColumn(what), BarColumn(), DownloadColumn()]
            columns += [
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[lines]} lines"),
            ]
        with Progress(*columns, console=self.err, transient=True) as bar:
            task = bar.add_task(what, total=total, lines=0)

            def told(point: Any) -> None:
                bar.update(
                    task, completed=point.lines if total is None else point.bytes, lines=point.lines
                )

            yield told


def printable(text: str | bytes, most: int = SHOWN_CHARS_MAX) -> str:
    """Return text that a terminal shows and does not obey, cut to `most` characters.

    Of bytes each form stands for one thing only: a byte that is no UTF-8 is \\xff, a hidden
    character \\x00 or \\u202e, and a backslash is doubled. Text of ours (`str`) keeps its
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


def reading_form(found: results.Reading, *, value: bool = True) -> dict[str, object]:
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
