"""Commands on operations: txn, and the look-up of how one ended."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias

import typer

from acordo import _intents as intents
from acordo._cli import completing
from acordo._cli.output import Output
from acordo._cli.shell import OpIdOption, input_bytes, key_of, run
from acordo._cli.text import printable, reading_form, shown, shown_key
from acordo._client import Client
from acordo._errors import BadRequest, OutcomeUnknown
from acordo._results import TransactionDone
from acordo._wire import forms

Given: TypeAlias = Sequence[str] | None
"""The values of a repeatable option."""
_TO_SETTLE: Final = (
    "ask again, repeat the write with this op_id, or give it up for good with --settle"
)


def txn(
    context: typer.Context,
    source: Annotated[
        str | None, typer.Argument(help="File with the JSON form; - is standard input.")
    ] = None,
    *,
    if_absent: Annotated[
        list[str] | None,
        typer.Option("--if-absent", help="Guard: KEY is absent.", autocompletion=completing.keys),
    ] = None,
    if_exists: Annotated[
        list[str] | None,
        typer.Option("--if-exists", help="Guard: KEY is present.", autocompletion=completing.keys),
    ] = None,
    if_revision: Annotated[
        list[str] | None, typer.Option("--if-revision", help="Guard: KEY=REVISION.")
    ] = None,
    if_value: Annotated[
        list[str] | None, typer.Option("--if-value", help="Guard: KEY=VALUE.")
    ] = None,
    puts: Annotated[list[str] | None, typer.Option("--put", help="Write: KEY=VALUE.")] = None,
    deletes: Annotated[
        list[str] | None,
        typer.Option("--delete", help="Write: delete KEY.", autocompletion=completing.keys),
    ] = None,
    deleted_prefixes: Annotated[
        list[str] | None,
        typer.Option(
            "--delete-prefix",
            help="Write: delete all keys that begin so.",
            autocompletion=completing.keys,
        ),
    ] = None,
    reads: Annotated[
        list[str] | None,
        typer.Option(
            "--read", help="Read KEY as the guards see it.", autocompletion=completing.keys
        ),
    ] = None,
    op_id: OpIdOption = None,
) -> None:
    r"""Write many keys at one revision if all guards hold.

    As options, or as JSON: {"guards": [{"key", "absent"|"exists": true | "revision": n | "value":
    v}], "writes": [{"put": key, "value": v} | {"delete": key}], "otherwise": [...], "reads":
    \[key]}.
    """

    async def work(client: Client, output: Output) -> None:
        intent = forms.intent_of_json(input_bytes(source)) if source else intents.Intent()
        output.op_id = op_id
        done = await client.txn(
            guards=[*intent.guards, *_guards(if_absent, if_exists, if_revision, if_value)],
            writes=[
                *intent.writes,
                *_writes(puts, deletes),
                *(intents.delete_prefix(key_of(each)) for each in deleted_prefixes or ()),
            ],
            otherwise=intent.otherwise,
            reads=[*intent.reads, *(key_of(each) for each in reads or ())],
            op_id=op_id or intent.op_id,
        )
        _show_done(output, done)

    run(context, work)


def operation(
    context: typer.Context,
    op_id: Annotated[str, typer.Argument(help="What the write was given.")],
    settle: Annotated[
        bool, typer.Option("--settle", help="Give it up: cancel it for good if nobody knows it.")
    ] = False,
) -> None:
    """Look up how an operation ended. That changes nothing, unless --settle asks for it."""

    async def work(client: Client, output: Output) -> None:
        found = await client.operation(op_id, settle=settle)
        if not found.definite:
            code = found.code or found.outcome
            advice = _TO_SETTLE if code == "not_ordered" else "ask again"
            raise OutcomeUnknown(
                found.detail or f"it is {found.outcome}", code=code, op_id=op_id, advice=advice
            )
        if output.as_json:
            output.json(found)
        else:
            output.say(
                f"{found.outcome}" + (f" at revision {found.revision}" if found.revision else "")
            )
            if found.outcome == "expired":
                output.say("it has no effect and never will")

    run(context, work)


def _guards(
    absent: Given, exists: Given, at_revision: Given, with_value: Given
) -> list[intents.Guard]:
    return [
        *(intents.absent(key_of(each)) for each in absent or ()),
        *(intents.exists(key_of(each)) for each in exists or ()),
        *(intents.at_revision(key_of(k), _whole(v)) for k, v in _pairs(at_revision)),
        *(intents.equals(key_of(k), os.fsencode(v)) for k, v in _pairs(with_value)),
    ]


def _writes(puts: Given, deletes: Given) -> list[intents.Write]:
    return [
        *(intents.put(key_of(k), os.fsencode(v)) for k, v in _pairs(puts)),
        *(intents.delete(key_of(each)) for each in deletes or ()),
    ]


def _show_done(output: Output, done: TransactionDone) -> None:
    if output.as_json:
        form = {
            "revision": done.revision,
            "branch": done.branch,
            "op_id": done.op_id,
            "again": done.again,
        }
        output.json({**form, "reads": [reading_form(each) for each in done.reads]})
        return
    if done.op_id is not None:
        again = " (again)" if done.again else ""
        output.say(f"{done.branch} at revision {done.revision}{again}")
    for each in done.reads:
        text = "[dim]absent[/dim]" if each.value is None else shown(each.value)
        output.say(f"{each.revision:>10}  {shown_key(each.key)}  {text}")


def _pairs(given: Given) -> list[tuple[str, str]]:
    for each in given or ():
        if "=" not in each:
            raise BadRequest(f"{printable(each)!r} has no =", code="bad_pair", allowed="KEY=VALUE")
    return [(key, value) for key, _, value in (each.partition("=") for each in given or ())]


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise BadRequest(
            f"{printable(text)!r} is no revision", code="bad_revision", allowed="a whole number"
        )
    return int(text)
