"""Commands on keys: get, put, cas, delete, list."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, TypeVar, cast, get_args

import typer

from acordo import _results as results
from acordo._cli import completing
from acordo._cli.exit_codes import NO, OK
from acordo._cli.output import Output
from acordo._cli.shell import OpIdOption, input_bytes, key_of, level_of, run
from acordo._cli.text import moment, reading_form, shown, shown_key, until
from acordo._client import Client
from acordo._errors import BadRequest
from acordo._wire import forms

T = TypeVar("T")

KeyArgument = Annotated[
    str,
    typer.Argument(
        help="The key; as base64:… where it cannot be typed, or begins with base64:",
        autocompletion=completing.keys,
    ),
]
PrefixArgument = Annotated[
    str, typer.Argument(help="Only keys that begin so.", autocompletion=completing.keys)
]
LevelOption = Annotated[
    str,
    typer.Option(
        "--level", help="linearizable, session or stale.", autocompletion=completing.levels
    ),
]


def get(
    context: typer.Context,
    key: KeyArgument,
    *,
    level: LevelOption = "linearizable",
    min_revision: Annotated[
        int | None, typer.Option(help="See at least this revision (level session).")
    ] = None,
    max_age: Annotated[
        float | None, typer.Option(help="Seconds that a stale value may be old.")
    ] = None,
    at_revision: Annotated[int | None, typer.Option(help="Read history.")] = None,
) -> None:
    """Print a key's value, byte for byte."""

    async def work(client: Client, output: Output) -> int:
        reading = await client.read(
            key_of(key),
            level=level_of(level),
            min_revision=min_revision,
            max_age_s=max_age,
            at_revision=at_revision,
        )
        if output.as_json:
            served = reading.served
            output.json(
                {
                    **reading_form(reading),
                    "found": reading.present,
                    "level": served.level,
                    "age_ms": served.age_ms,
                    "as_of": served.position,
                    "node": served.node,
                }
            )
        elif reading.value is None:
            output.note(f"not found: {shown_key(key_of(key))}")
        else:
            output.raw(reading.value)
            if sys.stdout.isatty() and not reading.value.endswith(b"\n"):
                output.raw(b"\n")
            if reading.expires_ms is not None:
                output.note(f"expires {moment(reading.expires_ms)}")
        return OK if reading.present else NO

    run(context, work)


def put(
    context: typer.Context,
    key: KeyArgument,
    value: Annotated[str | None, typer.Argument(help="The value; - reads standard input.")] = None,
    *,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Take the value from a file.")
    ] = None,
    ttl: Annotated[float | None, typer.Option(help="Seconds until the key is deleted.")] = None,
    lease: Annotated[
        str | None,
        typer.Option(help="The lease that the key ends with.", autocompletion=completing.leases),
    ] = None,
    if_revision: Annotated[
        int | None, typer.Option(help="Only if the key is at this revision; 0: absent.")
    ] = None,
    if_exists: Annotated[
        bool, typer.Option("--if-exists", help="Only if the key is present.")
    ] = False,
    if_absent: Annotated[
        bool, typer.Option("--if-absent", help="Only if the key is absent.")
    ] = False,
    op_id: OpIdOption = None,
) -> None:
    """Set a key."""

    async def work(client: Client, output: Output) -> None:
        output.op_id = op_id
        written = await client.put(
            key_of(key),
            _value(value, file),
            ttl_s=ttl,
            lease=lease,
            if_revision=if_revision,
            exists=_presence(if_exists, if_absent),
            op_id=op_id,
        )
        _show_written(output, written, "created" if written.existed is False else "written")

    run(context, work)


def cas(
    context: typer.Context,
    key: KeyArgument,
    revision: Annotated[
        int, typer.Argument(help="The revision that the key must be at; 0: absent.")
    ],
    value: Annotated[
        str | None, typer.Argument(help="The new value; - reads standard input.")
    ] = None,
    *,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Take the value from a file.")
    ] = None,
    ttl: Annotated[float | None, typer.Option(help="Seconds until the key is deleted.")] = None,
    op_id: OpIdOption = None,
) -> None:
    """Compare and set: set a key if it is at REVISION."""

    async def work(client: Client, output: Output) -> None:
        output.op_id = op_id
        written = await client.cas(
            key_of(key), _value(value, file), if_revision=revision, ttl_s=ttl, op_id=op_id
        )
        _show_written(output, written, "written")

    run(context, work)


def delete(
    context: typer.Context,
    key: KeyArgument,
    *,
    if_revision: Annotated[
        int | None, typer.Option(help="Only if the key is at this revision.")
    ] = None,
    if_exists: Annotated[
        bool, typer.Option("--if-exists", help="Only if the key is present.")
    ] = False,
    op_id: OpIdOption = None,
) -> None:
    """Make a key absent. Leaves with 1 if it was absent already."""

    async def work(client: Client, output: Output) -> int:
        output.op_id = op_id
        written = await client.delete(
            key_of(key), if_revision=if_revision, exists=if_exists or None, op_id=op_id
        )
        _show_written(output, written, "deleted" if written.existed is not False else "was absent")
        return NO if written.existed is False else OK

    run(context, work)


def order_of(text: str | None) -> results.ListOrder | None:
    """Return the order that --sort names. Raises BadRequest."""
    for known in get_args(results.ListOrder):
        if text == known:
            return cast(results.ListOrder, known)
    if text is None:
        return None
    allowed = ", ".join(get_args(results.ListOrder))
    raise BadRequest(f"--sort {text}", code="bad_order", allowed=allowed)


def list_(
    context: typer.Context,
    prefix: PrefixArgument = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many keys.")] = None,
    keys_only: Annotated[
        bool, typer.Option("--keys-only", "-k", help="Print nothing but keys.")
    ] = False,
    *,
    revision: Annotated[
        int | None, typer.Option(min=1, help="As they were at this revision.")
    ] = None,
    end: Annotated[
        str | None, typer.Option(help="All keys from PREFIX on and before this one.")
    ] = None,
    sort: Annotated[
        str | None, typer.Option(help="key, revision, create_revision or version.")
    ] = None,
    descending: Annotated[bool, typer.Option("--desc", help="From the last on.")] = False,
    counted: Annotated[bool, typer.Option("--count", help="Print nothing but how many.")] = False,
    separator: Annotated[
        str | None,
        typer.Option(
            help="Show what is right under PREFIX, folded at this: keys, "
            "and folders that end with it."
        ),
    ] = None,
) -> None:
    """List the keys under a prefix, all as of one revision."""
    if separator is not None:
        if end or sort or descending or counted:
            raise typer.BadParameter("--separator goes with --limit and --revision only")
        list_children(context, prefix, separator, limit, revision)
        return
    by, behind = order_of(sort), None if end is None else key_of(end)
    plain = revision is None and end is None and by is None and not descending

    async def work(client: Client, output: Output) -> None:
        page = min(limit or 500, 500)
        if counted:
            many = await client.count(key_of(prefix), revision=revision, end=behind)
            output.json({"count": many}) if output.as_json else output.say(str(many))
        elif keys_only and plain:
            keys = client.keys(key_of(prefix), limit=page)
            async for key, at in _first(keys, limit):
                if output.as_json:
                    output.json({"key": forms.to_json(key), "revision": at})
                else:
                    output.say(shown_key(key))
        else:
            listed = client.list(
                key_of(prefix),
                limit=page,
                revision=revision,
                end=behind,
                sort=by,
                descending=descending,
            )
            async for found in _first(listed, limit):
                _print_found(output, found, keys_only=keys_only)

    run(context, work)


def list_children(
    context: typer.Context, prefix: str, separator: str, limit: int | None, revision: int | None
) -> None:
    """Print the keys and the folders right under a prefix."""

    async def work(client: Client, output: Output) -> None:
        found = client.children(
            key_of(prefix),
            separator=key_of(separator),
            revision=revision,
            limit=min(limit or 1000, 1000),
        )
        async for child in _first(found, limit):
            if not output.as_json:
                output.say(shown_key(child.name))
            elif child.is_folder:
                output.json({"prefix": forms.to_json(child.name)})
            else:
                output.json({"key": forms.to_json(child.name), "revision": child.revision})

    run(context, work)


async def _first(found: AsyncIterator[T], limit: int | None) -> AsyncIterator[T]:
    """Yield as many as there is room for; None: all."""
    count = 0
    async for each in found:
        yield each
        count += 1
        if count == limit:
            return


def _print_found(output: Output, found: results.Found, *, keys_only: bool) -> None:
    if output.as_json:
        output.json(reading_form(found, value=not keys_only))
    elif keys_only:
        output.say(shown_key(found.key))
    else:
        value = f"[dim]{shown(found.value)}[/dim]{until(found.expires_ms)}"
        output.say(f"{found.revision:>10}  {shown_key(found.key)}  {value}")


def _presence(if_exists: bool, if_absent: bool) -> bool | None:
    if if_exists and if_absent:
        raise BadRequest("--if-exists and --if-absent exclude each other", code="two_conditions")
    if if_exists:
        return True
    return False if if_absent else None


def _value(value: str | None, file: Path | None) -> bytes:
    if (value is None) == (file is None):
        raise BadRequest(
            "no value, or two",
            code="bad_value",
            allowed="VALUE, or - for standard input, or --file",
        )
    if file is not None:
        return input_bytes(str(file))
    return input_bytes("-") if value == "-" else os.fsencode(value or "")


def _show_written(output: Output, written: results.Written, verb: str) -> None:
    if output.as_json:
        form = {"revision": written.revision, "existed": written.existed, "again": written.again}
        output.json(
            {
                **form,
                "op_id": written.op_id,
                "attempts": written.attempts,
                "node": written.served.node,
            }
        )
    else:
        output.say(f"{verb} at revision {written.revision}" + (" (again)" if written.again else ""))
