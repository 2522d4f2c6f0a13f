"""Show the cluster on real input: load, lose the leader half-way, continue, verify every byte.

The input is the source of Python's own standard library. A file counts as kept only if its hash is
equal when it is read back through a node that did not take the write. Exit code 1: something was
lost.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import signal
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from acordo import AcordoError, Client
from cluster.local.runner import LocalCluster
from cluster.ports import free_base_port
from cluster.services.install import Missing, ensure
from cluster.services.postgres import PostgresServer
from cluster.services.rabbitmq import RabbitServer
from cluster.services.redis import RedisServer, SentinelSet
from cluster.settings.loading import load
from cluster.settings.runner import RunnerSettings
from kv.errors import BadRequest
from kv.model import VALUE_BYTES_MAX

PREFIX: Final = "python/"
CLIENTS: Final = 24
WRITE_TIMEOUT_S: Final = 60.0
CACHE_BYTES: Final = 1 << 20
"""The smallest allowed cache, so that values are read back from the store and not from a node's
memory.
"""


class PrivateService(Protocol):
    """A private server of the demo: entering starts it, leaving stops it."""

    def __init__(self) -> None: ...

    @property
    def url(self) -> str:
        """Return its URL in the form that a node's settings take."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


PRIVATE: Final[dict[str, dict[str, tuple[str, type[PrivateService]]]]] = {
    "STORE": {"postgres": ("postgresql", PostgresServer)},
    "CACHE": {"redis": ("redis", RedisServer), "sentinel": ("redis", SentinelSet)},
    "BROADCAST": {"rabbitmq": ("rabbitmq", RabbitServer)},
}
"""Servers that the demo can start, by setting and kind: the packages' name and the class."""


@dataclass
class Tally:
    """The figures of one demo: what was written, when, through which node, and what was lost."""

    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of every file whose write was acknowledged, by key."""
    written_by: dict[str, int] = field(default_factory=dict)
    """Index of the node that took the write, by key."""
    bytes: int = 0
    acknowledged: list[float] = field(default_factory=list)
    """Times of the acknowledgements, on the event loop's clock."""
    killed_at: float = 0.0
    new_leader: str = ""
    lost: list[str] = field(default_factory=list)
    read_s: float = 0.0

    @property
    def load_s(self) -> float:
        """Return the time from the first acknowledgement to the last."""
        return self.acknowledged[-1] - self.acknowledged[0]

    @property
    def outage_s(self) -> float:
        """Return the longest time between two acknowledgements that ended after the kill."""
        pairs = zip(self.acknowledged, self.acknowledged[1:], strict=False)
        return max(
            (after - before for before, after in pairs if after >= self.killed_at), default=0.0
        )


def sources(root: Path, limit: int | None = None) -> list[Path]:
    """Return the standard library's source files, without third-party packages and byte code."""
    out = {"site-packages", "dist-packages", "__pycache__"}
    found = (
        p
        for p in sorted(root.rglob("*.py"))
        if not out & set(p.relative_to(root).parts)
        and p.is_file()
        and p.stat().st_size <= VALUE_BYTES_MAX
    )
    return list(found)[:limit]


async def demo(
    settings: RunnerSettings,
    files: Sequence[Path],
    root: Path,
    console: Console,
    *,
    before_read_back: Callable[[Path, Sequence[str]], None] = lambda data, keys: None,
) -> Tally:
    """Run the demo and return its figures.

    Tests pass `before_read_back`; it is called with the data directory and the keys in the order in
    which they were written.
    """
    tally = Tally()
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(
            LocalCluster(settings, say=lambda line: console.print("  " + line))
        )
        leader = await cluster.wait_ready()
        urls = [node.url for node in cluster.nodes.values()]
        console.print(
            f"{len(urls)} nodes are ready, {leader} leads; loading {len(files)} files through all "
            "of them"
        )
        clients = []
        for i in range(len(urls)):
            client = Client(urls[i:] + urls[:i], timeout_s=WRITE_TIMEOUT_S)
            clients.append(await stack.enter_async_context(client))
        with _progress(console) as progress:
            await _load(cluster, clients, files, root=root, tally=tally, progress=progress)
            before_read_back(settings.data, list(tally.files))
            await _read_back(clients, tally, progress)
        tally.new_leader = (await clients[0].leader()).id
    return tally


async def _load(
    cluster: LocalCluster,
    clients: list[Client],
    files: Sequence[Path],
    *,
    root: Path,
    tally: Tally,
    progress: Progress,
) -> None:
    bar = progress.add_task("writing", total=len(files))
    loop = asyncio.get_running_loop()
    waiting = iter(enumerate(files))
    half = len(files) // 2

    async def one_client() -> None:
        for number, path in waiting:
            content = await asyncio.to_thread(path.read_bytes)
            key, through = PREFIX + path.relative_to(root).as_posix(), number % len(clients)
            await clients[through].put(key, content)
            tally.files[key] = hashlib.sha256(content).hexdigest()
            tally.written_by[key] = through
            tally.bytes += len(content)
            tally.acknowledged.append(loop.time())
            progress.advance(bar)
            if len(tally.files) == half:
                leader = (await clients[through].leader()).id
                cluster.kill(leader, signal.SIGKILL)
                tally.killed_at = loop.time()
                progress.console.print(f"  half-way: killed the leader, {leader}, with SIGKILL")

    async with asyncio.TaskGroup() as tasks:
        for _ in range(CLIENTS):
            tasks.create_task(one_client())


async def _read_back(clients: list[Client], tally: Tally, progress: Progress) -> None:
    bar = progress.add_task("reading back", total=len(tally.files))
    began = time.monotonic()
    waiting = iter(tally.files.items())

    async def one_client(step: int) -> None:
        for key, wanted in waiting:
            other = (tally.written_by[key] + 1 + step) % len(clients)
            if other == tally.written_by[key]:
                other = (other + 1) % len(clients)
            found = await clients[other].get(key, level="linearizable")
            if found is None or hashlib.sha256(found.value).hexdigest() != wanted:
                tally.lost.append(key)
            progress.advance(bar)

    async with asyncio.TaskGroup() as tasks:
        for step in range(CLIENTS):
            tasks.create_task(one_client(step))
    tally.read_s = time.monotonic() - began


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("  {task.description:<14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def show(tally: Tally, console: Console) -> None:
    """Print the figures as a table, and the first 20 lost keys."""
    table = Table(
        show_header=False, title="The Python standard library, kept through the death of a leader"
    )
    for name, value in (
        ("files", f"{len(tally.files):,}"),
        ("bytes", f"{tally.bytes:,}"),
        ("writes/s", f"{len(tally.files) / max(tally.load_s, 1e-9):,.0f}"),
        ("reads/s", f"{len(tally.files) / max(tally.read_s, 1e-9):,.0f}"),
        ("outage", f"{tally.outage_s:.2f} s"),
        ("leader now", tally.new_leader),
        ("lost", str(len(tally.lost))),
    ):
        table.add_row(name, value)
    console.print(table)
    console.print(f"lost: {len(tally.lost)}", style="bold red" if tally.lost else "bold green")
    for key in sorted(tally.lost)[:20]:
        console.print(f"  {key}", highlight=False)


def main(
    argv: list[str],
    *,
    before_read_back: Callable[[Path, Sequence[str]], None] = lambda data, keys: None,
) -> int:
    """Run the demo in a temporary directory and print its table. Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cluster.local.demo", description=__doc__)
    parser.add_argument("--files", type=int, help="load at most so many files (default: all)")
    parser.add_argument("--nodes", type=int, default=3, help="nodes to start (default: 3)")
    given = parser.parse_args(argv)
    console = Console(soft_wrap=True)
    with ExitStack() as servers:
        try:
            backends = _backends(servers, console)
        except BadRequest as exc:
            console.print(
                f"[red]failed:[/] {exc.detail}"
                + (f" (allowed: {exc.allowed})" if exc.allowed else "")
            )
            return 2
        return _run(given, backends, console, before_read_back)


def _backends(servers: ExitStack, console: Console) -> list[str]:
    """Return the flags for the environment variables STORE, CACHE and BROADCAST.

    Each holds a URL, or the name of a server that is then started privately.
    """
    flags: list[str] = []
    for name, private in PRIVATE.items():
        given = os.environ.get(name, "")
        if not given:
            continue
        if "://" not in given:
            if given not in private:
                raise BadRequest(
                    "bad_settings", f"{name}={given}", allowed=f"a URL, or {', '.join(private)}"
                )
            console.print(f"  starting a private {given}")
            given = servers.enter_context(_private(*private[given])).url
        flags += [f"--{name.lower()}", given]
    return flags


def _private(service: str, kind: type[PrivateService]) -> PrivateService:
    """Return a private service, not yet started; install its packages if they are missing."""
    try:
        ensure(service)
    except Missing as exc:
        raise BadRequest("bad_settings", str(exc)) from exc
    return kind()


def _run(
    given: argparse.Namespace,
    backends: list[str],
    console: Console,
    before_read_back: Callable[[Path, Sequence[str]], None],
) -> int:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sources(root, given.files)
    if len(files) < 2:
        console.print(f"[red]no Python source in {root}")
        return 2
    with tempfile.TemporaryDirectory(prefix="acordo-demo-") as directory:
        try:
            flags = [
                "--nodes",
                str(given.nodes),
                "--base-port",
                str(free_base_port(given.nodes, 18001)),
            ]
            flags += ["--data", f"{directory}/data", "--memory-cache-bytes", str(CACHE_BYTES)]
            flags += backends
            settings = load(RunnerSettings, flags, prog="python -m cluster.local.demo")
            tally = asyncio.run(
                demo(settings, files, root, console, before_read_back=before_read_back)
            )
        except* (BadRequest, AcordoError, TimeoutError) as failed:
            for exc in failed.exceptions:
                console.print(f"[red]failed:[/] {exc}")
            for log in sorted(Path(directory).glob("data/*/node.log")):
                console.print(
                    f"--- last lines of {log.parent.name}'s log",
                    *log.read_text().splitlines()[-5:],
                    sep="\n",
                )
            return_code = 1
        else:
            show(tally, console)
            return_code = 1 if tally.lost else 0
    return return_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
