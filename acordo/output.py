"""Show results, errors and progress, for people or as JSON, and choose the exit code. Never asks the network."""

from __future__ import annotations

import sys
import unicodedata
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

from acordo import results, wire
from acordo.course import FINAL
from acordo.errors import (
    AcordoError,
    BadRequest,
    NotApplied,
    OutcomeUnknown,
    Pruned,
    ReadFailed,
    Refused,
    Unreachable,
)

OK: Final = 0
NO: Final = 1
USAGE: Final = 2
NOT_APPLIED: Final = 3
UNKNOWN: Final = 4
UNREACHABLE: Final = 5
PRUNED: Final = 6
INTERRUPTED: Final = 130

CODES: Final = {
    OK: "done",
    NO: "no: key not found, guard did not hold, check failed",
    USAGE: "the request can never work as it is",
    NOT_APPLIED: "not applied, or a read without an answer: retry freely",
    UNKNOWN: "outcome unknown: look the op_id up (acordo operation), or repeat with the same --op-id",
    UNREACHABLE: "no node could be reached: nothing was changed",
    PRUNED: "the revision asked for is no longer kept",
    INTERRUPTED: "interrupted",
}
SHOWN_CHARS_MAX: Final = 60
PIPE_WIDTH: Final = 300
"""Columns of a table that goes into a pipe: nothing is cut there."""


def code_of(error: AcordoError) -> int:
    """Return the exit code for an error."""
    match error:
        case Refused():
            return NO
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
        self.out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_WIDTH)
        self.err = Console(stderr=True, highlight=False, soft_wrap=True)

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
            sys.stderr.write(msgspec.json.encode(form).decode() + "\n")
            return
        self.note(f"[red]{escape(printable(error.detail, 2000))}[/red]")
        allowed = getattr(error, "allowed", None)
        if allowed:
            self.note(f"  allowed: {escape(printable(str(allowed), 500))}")
        current = getattr(error, "current", None)
        if current is not None:
            self.note(f"  the key is {'absent' if not current else f'at revision {current}'} now")
        useful = error.maybe_applied and error.op_id and error.code not in FINAL
        look_up = f": acordo operation {escape(error.op_id)}" if useful and error.op_id else ""
        self.note(f"  {escape(printable(error.advice, 500))}{look_up}")

    @contextmanager
    def progress(self, what: str, total: int | None) -> Iterator[Any]:
        """Show a bar on standard error while the block runs; yields a function told (lines, bytes)."""
        if self.as_json or not self.err.is_terminal:
            yield lambda told: None
            return
        columns = [SpinnerColumn(), TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("keys")]
        if total is not None:
            columns = [SpinnerColumn(), TextColumn(what), BarColumn(), DownloadColumn()]
            columns += [TransferSpeedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[lines]} lines")]
        with Progress(*columns, console=self.err, transient=True) as bar:
            task = bar.add_task(what, total=total, lines=0)

            def told(point: Any) -> None:
                bar.update(task, completed=point.lines if total is None else point.bytes, lines=point.lines)

            yield told


def printable(text: str | bytes, most: int = SHOWN_CHARS_MAX) -> str:
    """Return text that a terminal shows and does not obey, cut to `most` characters."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    cut = text[: most + 1]
    safe = "".join(
        ch if ch == " " or unicodedata.category(ch)[0] not in "CZ" else ch.encode("unicode_escape").decode()
        for ch in cut
    )
    return safe if len(cut) <= most else safe[: most - 1] + "…"


def shown(text: str | bytes, most: int = SHOWN_CHARS_MAX) -> str:
    """Return `printable` text without rich's markup."""
    return escape(printable(text, most))


def reading_form(found: results.Reading, *, value: bool = True) -> dict[str, object]:
    """Return a key as JSON, in the form that `load` takes."""
    form: dict[str, object] = {"key": wire.to_json(found.key)}
    if value:
        form["value"] = None if found.value is None else wire.to_json(found.value)
    form["revision"] = found.revision
    if found.expires_ms is not None:
        form["expires_ms"] = found.expires_ms
    return form


def moment(log_time_ms: int) -> str:
    """Return a log time as people read it."""
    try:
        return datetime.fromtimestamp(log_time_ms / 1000, UTC).isoformat(sep=" ", timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"log time {log_time_ms} ms"


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """Return a plain table."""
    made = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        made.add_row(*row)
    return made
