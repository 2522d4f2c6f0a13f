"""The command `acordo dev`: a cluster on this machine to try things with, until Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import webbrowser
from pathlib import Path
from typing import Annotated, Final

import typer

from acordo._cli.children import PASSED_ON
from acordo._extras import MissingExtra, server_home
from acordo._local import direct_opener

EX_CONFIG: Final = 78
OPEN_WITHIN_S: Final = 60.0


def dev(
    nodes: Annotated[
        int, typer.Option("--nodes", "-n", min=1, max=9, help="Nodes, each in its own process.")
    ] = 1,
    port: Annotated[
        int, typer.Option("--port", "-p", help="HTTP port of the first node; others follow.")
    ] = 8001,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Keep the data here; else it is deleted."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--open", help="Open the first node's page in a browser.")
    ] = False,
) -> None:
    """Run a cluster on this machine until Ctrl-C: nothing else is needed.

    Needs the extra `server`. Clients of etcd are served too.
    """
    try:
        home = server_home("acordo dev")
    except MissingExtra as exc:
        typer.echo(f"error: {exc}", err=True)
        raise typer.Exit(EX_CONFIG) from exc
    with contextlib.ExitStack() as stack:
        if data is None:
            made = stack.enter_context(tempfile.TemporaryDirectory(prefix="acordo-dev-"))
            data = Path(made)
            typer.echo("the data is deleted at the end; --data DIR keeps it")
        if show:
            url = f"http://127.0.0.1:{port}/"
            threading.Thread(target=_open_when_ready, args=(url,), daemon=True).start()
        raise typer.Exit(_run(home, nodes, port, data.absolute()))


def _run(home: Path, nodes: int, port: int, data: Path) -> int:
    """Run the local runner until it ends. It is in our process group, and gets Ctrl-C itself; other
    signals that would end us are passed on to it.
    """
    paths = [str(home), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "cluster", "up", "--nodes", str(nodes)),
            *("--base-port", str(port), "--data", str(data)),
        ],
        env={"ACORDO_ETCD": "true", **os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    for number in PASSED_ON if threading.current_thread() is threading.main_thread() else ():
        signal.signal(number, lambda number, _: process.send_signal(number))
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # the runner stops its nodes in order; a second Ctrl-C makes it kill them


def _open_when_ready(url: str) -> None:
    deadline = time.monotonic() + OPEN_WITHIN_S
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(OSError),
            direct_opener().open(f"{url}readyz", timeout=1) as response,
        ):
            if response.status == 200:
                webbrowser.open(url)
                return
        time.sleep(0.1)
