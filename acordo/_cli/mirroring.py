"""The command that mirrors keys to a second cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.markup import escape

from acordo._bulk.mirror import mirror as mirror_keys
from acordo._bulk.mirror_lag import MirrorProgress, OnMirrored
from acordo._cli.output import Output
from acordo._cli.shell import GlobalOptions, client_of, key_of, run, urls_of
from acordo._cli.text import printable
from acordo._client import Client


def mirror(  # noqa: PLR0917  # each is an option of the command
    context: typer.Context,
    to: Annotated[
        list[str], typer.Option("--to", metavar="URL", help="A node of the target; give several.")
    ],
    prefix: Annotated[str, typer.Option(help="Only keys that begin so.")] = "",
    to_token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File with the token to show to nodes of the target."),
    ] = None,
    state: Annotated[
        str,
        typer.Option(
            metavar="KEY",
            help="Key of the target that holds the position; else acordo-mirror/ and the prefix.",
        ),
    ] = "",
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Overwrite and delete what the target has of its own."),
    ] = False,
    no_relist: Annotated[
        bool,
        typer.Option(
            "--no-relist", help="End where the source's history has a gap; else copy everything."
        ),
    ] = False,
    once: Annotated[
        bool, typer.Option("--once", help="End once the target has what the source has now.")
    ] = False,
) -> None:
    """Keep the keys of another cluster, the target, as they are here, until Ctrl-C.

    First all keys are copied as of one revision, then each revision's changes are applied in one
    transaction, together with the position. Started again, it goes on where it was. Let nobody else
    write to the target under the prefix. Keys with a lease are put there without one, and deleted
    when the lease ends here.
    """

    async def work(client: Client, output: Output) -> None:
        options: GlobalOptions = context.obj
        there = msgspec.structs.replace(
            options,
            urls=urls_of(to),
            token=None if to_token_file else "",  # the source's is nothing for the target
            token_file=to_token_file,
        )
        with _progress(output) as progress:
            async with client_of(there) as target:
                try:
                    done = await mirror_keys(
                        client,
                        target,
                        key_of(prefix),
                        state_key=key_of(state) if state else None,
                        replace=replace,
                        relist=not no_relist,
                        once=once,
                        on_progress=progress,
                        on_copy=lambda why: _say_copy(output, why),
                    )
                except asyncio.CancelledError:
                    output.interrupted(
                        "run the same command again to go on; nothing is applied twice"
                    )
                    raise
        if output.as_json:
            output.json(done)
        else:
            output.say(
                f"the target has everything up to revision {done.revision}: "
                f"{done.written} keys written, {done.deleted} deleted"
            )

    run(context, work)


def _say_copy(output: Output, why: str) -> None:
    if not output.as_json:
        output.note(f"everything is copied: {escape(printable(why, 500))}")


@contextmanager
def _progress(output: Output) -> Iterator[OnMirrored | None]:
    """Show how far the mirror is while the block runs; yields the function that does, None where
    nobody would see it.
    """
    if output.as_json:
        yield output.json
    elif output.err.is_terminal:
        with output.err.status("mirror") as status:
            yield lambda point: status.update(_line(point))
    else:
        yield None


def _line(point: MirrorProgress) -> str:
    return (
        f"revision {point.revision}, {point.lag_revisions} revisions and {point.lag_s:g} s "
        f"behind; {point.written} written, {point.deleted} deleted"
    )
