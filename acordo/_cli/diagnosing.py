"""The command that collects a bundle for who looks for a fault."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

import typer

from acordo._bulk.diagnosis import diagnose as collect
from acordo._cli.output import Output
from acordo._cli.shell import GlobalOptions, run
from acordo._client import Client

FILE_MODE: Final = 0o600


def diagnose(
    context: typer.Context,
    target: Annotated[Path, typer.Argument(help="The bundle to write, a .tar.gz.")],
    settings: Annotated[
        list[Path] | None,
        typer.Option("--settings", help="A file of settings to add, with secrets masked."),
    ] = None,
    log: Annotated[
        list[Path] | None, typer.Option("--log", help="A node's log, of which the end is added.")
    ] = None,
    lines: Annotated[
        int, typer.Option(min=1, max=100_000, help="Lines of each log that are added.")
    ] = 1000,
) -> None:
    """Collect what every node says of itself: status, members, digests, versions, readiness and
    metrics, with settings and the end of logs, if they are given.

    It holds no values, and no tokens, passwords or keys; findings may name keys. A node that does
    not answer is named, and the others are asked.
    """

    async def work(client: Client, output: Output) -> None:
        options: GlobalOptions = context.obj
        found = await collect(
            client,
            settings=settings or (),
            logs=log or (),
            lines=lines,
            environ=os.environ,
            timeout_s=options.timeout_s,
        )
        _write(target, found.content)
        if output.as_json:
            output.json({"file": str(target), "files": found.files, "silent": found.silent})
            return
        output.say(f"{target}: {len(found.files)} files of {len(found.content)} bytes")
        for url in found.silent:
            output.note(f"{url} did not answer everything: the bundle says why")

    run(context, work)


def _write(target: Path, content: bytes) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, FILE_MODE)  # of a file that was there, too
        file.write(content)
