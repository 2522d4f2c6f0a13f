"""The command `acordo kill`: end a process of a cluster that runs on this machine, to see what
happens then. It never touches another machine's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from acordo._cli import completing
from acordo._cli.exit_codes import CONFIG
from acordo._extras import MissingExtra, server_home


def kill(
    context: typer.Context,
    member: Annotated[
        str,
        typer.Argument(
            help="Its id, or `leader` for the one that leads now.",
            autocompletion=completing.victims,
        ),
    ],
    data: Annotated[
        Path, typer.Option("--data", metavar="DIR", help="Directory of the local cluster.")
    ] = Path("data"),
) -> None:
    """Kill a member of the local cluster with SIGKILL; the runner starts it again.

    The cluster is one of `make run`, `acordo dev --data DIR` or `python -m cluster up`. Another
    member leads soon after: `acordo top` and the page show it. Needs the extra `server`.
    """
    try:
        home = server_home("acordo kill")
    except MissingExtra as exc:
        typer.echo(f"error: {exc}", err=True)
        raise typer.Exit(CONFIG) from exc
    paths = [str(home), *filter(None, [os.environ.get("PYTHONPATH")])]
    json = ["--json"] if context.obj.as_json else []
    done = subprocess.run(
        [sys.executable, "-m", "cluster", "kill", member, "--data", str(data.absolute()), *json],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        check=False,
    )
    raise typer.Exit(done.returncode)
