"""Commands on changes: watch and history. A command that is run for each change may see one again
after a restart, and leaves none out.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from acordo import _results as results
from acordo._cli.children import CannotStart, code_of_child, started
from acordo._cli.exit_codes import OK
from acordo._cli.keys import KeyArgument, PrefixArgument
from acordo._cli.output import Output
from acordo._cli.shell import key_of, run
from acordo._cli.text import shown, shown_key, typed_key, until
from acordo._client import Client
from acordo._errors import BadRequest
from acordo._wire import forms

VALUE_BYTES_MAX: Final = 100_000
"""Longest value that a command gets in its environment, which systems bound; standard input has
every value.
"""
POSITION_CHARS_MAX: Final = 1024


def watch(
    context: typer.Context,
    prefix: PrefixArgument = "",
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- COMMAND...", help="What to run for each change, in order."),
    ] = None,
    *,
    after: Annotated[
        int | None, typer.Option(min=0, help="Begin after this revision; else now.")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Only the key itself, not those that begin so.")
    ] = False,
    bookmarks: Annotated[
        bool, typer.Option("--bookmarks", help="Show positions without changes too.")
    ] = False,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after so many events.")] = None,
    state: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep the position here, and go on from it next time."),
    ] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Go on when the command fails.")
    ] = False,
) -> None:
    """Follow changes under a prefix, for ever; reconnects on its own.

    A command gets the value on its standard input and finds ACORDO_EVENT (put or delete),
    ACORDO_KEY, ACORDO_REVISION and, if it is text, ACORDO_VALUE in its environment. If it fails,
    this leaves with its exit code. With --state a restart goes on behind the last revision whose
    changes were all dealt with: a change may be seen again, and none is left out.
    """

    async def work(client: Client, output: Output) -> int:
        seen, key, told = 0, key_of(prefix), list[int]()
        begin = _position(state) or after
        events = client.watch(key, after=begin, bookmarks=bookmarks or state is not None)
        async for event in events:
            if isinstance(event, results.Bookmark):
                shows = bookmarks
            else:
                shows = not exact or event.key == key
            if shows:
                code = await _tell(output, event, command, told.append)
                if told:  # to end was said to us too, whatever the command made of it
                    return code or 128 + told[0]
                if code != OK and not keep_going:
                    return code
                seen += 1
            if state is not None and event.position:
                _keep(state, event.position)
            if shows and seen == count:
                break
        return OK

    run(context, work)


def history(
    context: typer.Context,
    key: KeyArgument,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many versions.")] = None,
) -> None:
    """Show the versions of a key that are kept, newest first."""

    async def work(client: Client, output: Output) -> None:
        count = 0
        async for change in client.history(key_of(key), limit=min(limit or 10, 100)):
            _show_event(output, change)
            count += 1
            if count == limit:
                return

    run(context, work)


async def _tell(
    output: Output,
    event: results.Event,
    command: Sequence[str] | None,
    on_signal: Callable[[int], object],
) -> int:
    """Show an event, or run the command for a change; return the exit code."""
    if not command or isinstance(event, results.Bookmark):
        _show_event(output, event)
        return OK
    try:
        variables = _variables(event)
        async with started(command, variables, with_input=True, on_signal=on_signal) as child:
            await child.communicate(event.value or b"")
    except CannotStart as exc:
        output.note(f"[red]{shown(exc.detail, 300)}[/red]")
        return exc.code
    code = code_of_child(child)
    if code != OK:
        output.note(
            f"[red]the command left with {code}[/red] for {shown_key(event.key)} "
            f"at revision {event.revision}"
        )
    return code


def _variables(change: results.Change) -> dict[str, str]:
    """Return what a command finds in its environment about a change."""
    found = {
        "ACORDO_EVENT": change.kind,
        "ACORDO_KEY": typed_key(change.key),
        "ACORDO_REVISION": str(change.revision),
    }
    if change.expires_ms is not None:
        found["ACORDO_EXPIRES_MS"] = str(change.expires_ms)
    value = change.value
    if value is not None and b"\0" not in value and len(value) <= VALUE_BYTES_MAX:
        found["ACORDO_VALUE"] = os.fsdecode(value)
    return found


def _position(state: Path | None) -> str | None:
    """Return the position that was kept; None: there is none. Raises BadRequest, OSError."""
    if state is None or not state.exists():
        return None
    text = state.read_text(encoding="ascii", errors="replace").strip()
    if not text or not text.isascii() or not text.isprintable() or len(text) > POSITION_CHARS_MAX:
        raise BadRequest(
            f"{state} holds no position of a watch",
            code="bad_state",
            allowed="a file that --state made; without it the watch begins now, or --after",
        )
    return text


def _keep(state: Path, position: str) -> None:
    """Keep the position: the file has the one before, or this one, whenever we are killed."""
    with tempfile.NamedTemporaryFile(
        "w", encoding="ascii", dir=state.parent, prefix=f".{state.name}.", delete=False
    ) as file:
        file.write(position + "\n")
    Path(file.name).replace(state)


def _show_event(output: Output, event: results.Event) -> None:
    if isinstance(event, results.Bookmark):
        if output.as_json:
            output.json({"event": "bookmark", "revision": event.revision})
        else:
            output.say(f"[dim]{event.revision:>10}  bookmark[/dim]")
        return
    if output.as_json:
        value = None if event.value is None else forms.to_json(event.value)
        form = {
            "event": event.kind,
            "revision": event.revision,
            "key": forms.to_json(event.key),
            "value": value,
        }
        ends = {} if event.expires_ms is None else {"expires_ms": event.expires_ms}
        numbers = {"create_revision": event.create_revision, "version": event.version}
        told = numbers if event.version else {}
        output.json({**form, **ends, **told, "op_id": event.op_id, "last": event.last})
    else:
        colour = "green" if event.kind == "put" else "red"
        kind = f"[{colour}]{event.kind:<6}[/{colour}]"
        value = f"[dim]{shown(event.value or b'')}[/dim]{until(event.expires_ms)}"
        output.say(f"{event.revision:>10}  {kind}  {shown_key(event.key)}  {value}")
