"""Commands on many keys: load and dump."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from acordo._bulk.checkpoints import checkpoint_of_dump, checkpoint_of_load
from acordo._bulk.dump import dump as write_dump
from acordo._bulk.dump import dump_to
from acordo._bulk.from_etcd import copy_etcd
from acordo._bulk.load import IN_FLIGHT, TIMEOUT_S, LoadDone
from acordo._bulk.load import load as load_lines
from acordo._bulk.tally import Rejected
from acordo._cli.exit_codes import INTERRUPTED, NO, OK
from acordo._cli.output import Output
from acordo._cli.shell import key_of, opened, run
from acordo._cli.text import shown
from acordo._client import Client
from acordo._errors import AcordoError, BadRequest, Pruned


def load(  # noqa: PLR0917  # each is an option of the command
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help='NDJSON file: {"key", "value", "ttl"? or "expires_ms"?} a line, and '
            '"lease" and "lease_ttl" for a key with a lease; - is standard input.'
        ),
    ],
    from_etcd: Annotated[
        str,
        typer.Option(
            help="URL of an etcd: the file is first made of its keys, unless it is there."
        ),
    ] = "",
    in_flight: Annotated[int, typer.Option(min=1, max=64, help="Requests at a time.")] = IN_FLIGHT,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Leave out lines that cannot be.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Forget an interrupted load of this file.")
    ] = False,
) -> None:
    """Write every line of a file. Interrupted, it goes on where it was; nothing is doubled."""

    async def work(client: Client, output: Output) -> int:
        path = None if source == "-" else Path(source)
        if from_etcd:
            await _copy(output, from_etcd, path)
        checkpoint = checkpoint_of_load(path) if path else None
        if checkpoint and restart:
            checkpoint.unlink(missing_ok=True)
        with (
            opened(path) as file,
            output.progress("load", path.stat().st_size if path else None) as progress,
        ):
            try:
                done = await load_lines(
                    client,
                    file,
                    checkpoint=checkpoint,
                    in_flight=in_flight,
                    keep_going=keep_going,
                    timeout_s=max(context.obj.timeout_s, TIMEOUT_S),
                    on_progress=progress,
                    on_rejected=lambda line, why: output.note(
                        f"line {line} left out: {shown(why, 300)}"
                    ),
                )
            except asyncio.CancelledError:
                _say_interrupted(output, path)
                raise
            except AcordoError as error:
                if path:
                    _say_how_to_go_on(output, error)
                raise
        _show_loaded(output, done)
        return NO if done.rejected else OK

    run(context, work, spread=True)


def dump(
    context: typer.Context,
    target: Annotated[
        str, typer.Argument(help="NDJSON file to write; - is standard output.")
    ] = "-",
    prefix: Annotated[str, typer.Option(help="Only keys that begin so.")] = "",
    restart: Annotated[
        bool, typer.Option("--restart", help="Forget an interrupted dump to this file.")
    ] = False,
) -> None:
    """Write all keys, as of one revision, to a file that `load` takes. Interrupted, it goes on
    where it was.
    """

    async def work(client: Client, output: Output) -> None:
        if target == "-":
            await dump_to(client, output.raw, key_of(prefix))
            return
        path = Path(target)
        if restart:
            checkpoint_of_dump(path).unlink(missing_ok=True)
        with output.progress("dump", None) as progress:
            try:
                done = await write_dump(client, path, key_of(prefix), on_progress=progress)
            except asyncio.CancelledError:
                _say_interrupted(output, path)
                raise
            except (Pruned, BadRequest) as error:
                if isinstance(error, BadRequest) and error.code not in {
                    "future_revision",
                    "bad_token",
                }:
                    raise
                output.note("[yellow]--restart begins anew, at the present revision[/yellow]")
                raise
        if output.as_json:
            output.json(done)
        else:
            resumed = f", went on after {done.resumed_at}" if done.resumed_at else ""
            output.say(
                f"{done.keys} keys, {done.bytes} bytes, as of revision {done.revision}{resumed}"
            )

    run(context, work)


async def _copy(output: Output, url: str, path: Path | None) -> None:
    """Make the file of an etcd's keys, unless an earlier run did."""
    if path is None:
        raise BadRequest(
            "--from-etcd makes a file first", code="no_file", allowed="a file's name in place of -"
        )
    if await asyncio.to_thread(path.exists):
        output.note(f"{path.name} is there, and is loaded as it is")
        return
    with output.progress("copy", None) as progress:
        done = await copy_etcd(url, path, on_progress=progress)
    leased = f", {done.leased} of them with a lease" if done.leased else ""
    leases = f"; {done.leases} leases" if done.leases else ""
    output.note(f"{done.keys} keys as of etcd's revision {done.revision}{leased}{leases}")


def _say_how_to_go_on(output: Output, error: AcordoError) -> None:
    if isinstance(error, Rejected):
        how = "the same command goes on once the line is mended; nothing is doubled"
        output.note(f"[yellow]{how}[/yellow]")
    elif not isinstance(error, BadRequest):
        how = "run the same command again to go on; nothing will be doubled"
        output.note(f"[yellow]{how}[/yellow]")


def _show_loaded(output: Output, done: LoadDone) -> None:
    if output.as_json:
        output.json(done)
        return
    resumed = f", went on after line {done.resumed_at}" if done.resumed_at else ""
    again = f", {done.again} were in already" if done.again else ""
    past = f", {done.expired} had expired" if done.expired else ""
    leases = f", {done.leases} leases granted" if done.leases else ""
    output.say(f"{done.lines} lines loaded{resumed}{again}{past}{leases}, {done.rejected} left out")


def _say_interrupted(output: Output, path: Path | None) -> None:
    if path is not None:
        output.interrupted("run the same command again to go on; nothing will be doubled")
        return
    output.interrupted("what came from standard input cannot be gone on with")
    # A thread still reads standard input, and a normal exit of Python would wait for it.
    with suppress(OSError):
        sys.stdout.flush()
    os._exit(INTERRUPTED)
