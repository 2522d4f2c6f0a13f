"""Show results, errors and progress, for people or as JSON. Never uses the network."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bar
from rich.table import Table

from acordo._bulk.progress import OnProgress, Progress, ignore
from acordo._calls.retry_policy import FINAL
from acordo._cli.exit_codes import code_of
from acordo._cli.text import printable, shown_key
from acordo._errors import AcordoError, Refused
from acordo._wire import forms

TABLE_WIDTH: Final = 10_000
PIPE_WIDTH: Final = 300
"""Width of output into a pipe, in columns; nothing is cut there."""


class Output:
    """Standard output and standard error of one command."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.out = Console(
            highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_WIDTH
        )
        self.err = Console(stderr=True, highlight=False, soft_wrap=True)
        self.op_id: str | None = None
        """The op_id of the newest write, until its outcome has been shown."""
        self._interruption_told = False

    def json(self, form: object) -> None:
        """Print one JSON document on a line of its own."""
        self.raw(msgspec.json.encode(form) + b"\n")

    def raw(self, content: bytes) -> None:
        """Write bytes to standard output as they are."""
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()

    def say(self, text: str) -> None:
        """Print a line for people. The text may contain rich's markup: escape what comes from
        elsewhere.
        """
        self.out.print(text)

    def note(self, text: str) -> None:
        """Print a line on standard error, apart from the results."""
        self.err.print(text)

    def table(self, made: Table) -> None:
        """Print a table with every cell complete. A terminal may wrap a long line, but a URL that
        is cut off is of no use.
        """
        Console(highlight=False, width=TABLE_WIDTH).print(made, crop=False)

    def interrupted(self, text: str = "") -> None:
        """Report once that Ctrl-C was received, and what may have happened. `text`: the command's
        own message.
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
        """Print what happened, whether the write may have taken effect, and what to do next."""
        if self.as_json:
            sys.stderr.write(msgspec.json.encode(_error_form(error)).decode() + "\n")
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
    def progress(self, what: str, total: int | None) -> Iterator[OnProgress]:
        """Show a progress bar on standard error while the block runs; yields the function that
        moves it.
        """
        if self.as_json or not self.err.is_terminal:
            yield ignore
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
        with Bar(*columns, console=self.err, transient=True) as bar:
            task = bar.add_task(what, total=total, lines=0)

            def move(point: Progress) -> None:
                bar.update(
                    task, completed=point.lines if total is None else point.bytes, lines=point.lines
                )

            yield move


def _error_form(error: AcordoError) -> dict[str, object]:
    form: dict[str, object] = {
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
    return form
