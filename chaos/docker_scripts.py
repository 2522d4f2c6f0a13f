"""Disturb the stack once, with a small load running, and say what happened: `python -m chaos.docker_scripts NAME`.

Each of chaos/scripts/ is one of these. What was killed is started again after a stated pause; every write that was
acknowledged is read again at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import secrets
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from acordo.client import Client
from acordo.errors import AcordoError
from chaos.docker_target import NODES, DockerTarget, NoStack
from chaos.targets import until
from chaos.windows import WINDOWS

EACH: Final = "each"
TABLE: Final = Path("out/docker/kills.md")
PAUSE_S: Final = 5.0
WARM_UP: Final = 20
"""Acknowledged writes before anything is done."""
RECOVER_WITHIN_S: Final = 120.0
WRITERS: Final = 4
ATTEMPT_S: Final = 3.0
BREATH_S: Final = 0.02


@dataclass
class Load:
    """Writers and readers without retries, and when each of them last succeeded."""

    url: str
    acked: dict[bytes, bytes] = field(default_factory=dict)
    writes_at: list[tuple[float, float]] = field(default_factory=list)
    """Begin and end of every acknowledged write."""
    reads_at: list[tuple[float, float]] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    prefix: str = field(default_factory=lambda: f"disturbed/{secrets.token_hex(4)}/")

    async def run(self, stop: asyncio.Event) -> None:
        async with Client(self.url, retries=False, timeout_s=ATTEMPT_S) as client, asyncio.TaskGroup() as tasks:
            for n in range(WRITERS):
                tasks.create_task(self._write(client, n, stop))
            tasks.create_task(self._read(client, stop))

    async def _write(self, client: Client, writer: int, stop: asyncio.Event) -> None:
        loop, n = asyncio.get_running_loop(), 0
        while not stop.is_set():
            key, value = f"{self.prefix}{writer}/{n % 200}", f"{writer}:{n}".encode()
            began, n = loop.time(), n + 1
            try:
                await client.put(key, value)
                self.acked[key.encode()] = value
                self.writes_at.append((began, loop.time()))
            except AcordoError as exc:
                self.acked.pop(key.encode(), None)  # an unknown one may stand in its place
                self._fail("write", exc)
            await asyncio.sleep(BREATH_S)

    async def _read(self, client: Client, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        while not stop.is_set():
            began = loop.time()
            try:
                await client.get(f"{self.prefix}0/0")
                self.reads_at.append((began, loop.time()))
            except AcordoError as exc:
                self._fail("read", exc)
            await asyncio.sleep(BREATH_S)

    def _fail(self, what: str, exc: AcordoError) -> None:
        name = f"{what}: {type(exc).__name__}"
        self.failed[name] = self.failed.get(name, 0) + 1

    async def lost(self) -> list[str]:
        """Read every acknowledged write again; return those that are not there."""
        found = []
        async with Client(self.url, timeout_s=30) as client:
            for key, value in sorted(self.acked.items()):
                entry = await client.get(key)
                if entry is None or entry.value != value:
                    found.append(key.decode())
        return found


@dataclass(frozen=True)
class Told:
    """What one disturbance did."""

    name: str
    whom: str
    acked: int
    lost: list[str]
    writes_gap_s: float
    """Longest time without an acknowledged write."""
    reads_gap_s: float
    writes_after_s: float
    """From the disturbance until a write that began after it was acknowledged."""
    after_healing_s: float
    """The same from the moment at which everything ran again."""
    failed: dict[str, int]

    def __str__(self) -> str:
        failed = ", ".join(f"{n} {what}" for what, n in sorted(self.failed.items())) or "none"
        return (
            f"{self.name} ({self.whom}): writes worked again after {self.writes_after_s:.1f} s "
            f"({self.after_healing_s:.1f} s after it was back); longest gap: writes {self.writes_gap_s:.1f} s, "
            f"reads {self.reads_gap_s:.1f} s; failed: {failed}; {self.acked} acknowledged keys read again, "
            f"{len(self.lost)} lost"
        )

    @property
    def row(self) -> str:
        """Return it as a row of a Markdown table."""
        return (
            f"| {self.name} | {self.whom} | {self.writes_after_s:.1f} | {self.after_healing_s:.1f} "
            f"| {self.writes_gap_s:.1f} | {self.reads_gap_s:.1f} | {self.acked} | {len(self.lost)} |"
        )


HEAD: Final = """\
| disturbance | container | writes again after, s | after it was back, s | longest gap of writes, s | of reads, s \
| keys acknowledged | lost |
|---|---|---|---|---|---|---|---|"""


async def disturb(target: DockerTarget, script: Script, name: str, pause_s: float = PAUSE_S) -> Told:
    """Do it under load. Raises TimeoutError when the stack does not come back."""
    loop, load, stop = asyncio.get_running_loop(), Load(target.balancer_url or target.urls[0]), asyncio.Event()
    running = asyncio.create_task(load.run(stop))

    async def warm() -> bool:
        return len(load.writes_at) >= WARM_UP and len(load.reads_at) >= WARM_UP

    try:
        if not await until(warm, RECOVER_WITHIN_S):
            raise TimeoutError(f"no load could be put on {load.url}: {load.failed}")
        whom = await script.choose(target)
        struck = loop.time()
        try:
            with WINDOWS.window(name, whom):
                await asyncio.gather(*(getattr(target, script.how)(s) for s in whom))
                struck = loop.time()
                await asyncio.sleep(pause_s)
        finally:
            for service in whom:
                await target.heal(service)
        back = loop.time()

        async def writes_again() -> bool:
            return any(began > back for began, _ in load.writes_at) and any(b > back for b, _ in load.reads_at)

        if not await until(writes_again, RECOVER_WITHIN_S) or not await target.healthy(RECOVER_WITHIN_S):
            raise TimeoutError(f"{name}: not healthy {RECOVER_WITHIN_S:g} s after everything ran again: {load.failed}")
    finally:
        stop.set()
        await asyncio.wait([running], timeout=ATTEMPT_S * 4)
        running.cancel()
    return Told(
        name,
        ", ".join(whom),
        len(load.acked),
        await load.lost(),
        _gap(load.writes_at, struck),
        _gap(load.reads_at, struck),
        _next(load.writes_at, struck) - struck,
        _next(load.writes_at, back) - back,
        load.failed,
    )


def _gap(done: list[tuple[float, float]], since: float) -> float:
    """Return the longest time between two successes that ended after `since`."""
    ends = sorted(end for _, end in done)
    before = [e for e in ends if e <= since][-1:]
    ends = before + [e for e in ends if e > since]
    return max((b - a for a, b in itertools.pairwise(ends)), default=0.0)


def _next(done: list[tuple[float, float]], since: float) -> float:
    return min((end for began, end in done if began > since), default=since)


@dataclass(frozen=True)
class Script:
    """Whom it hits and with which of the target's methods."""

    how: str
    choose: Callable[[DockerTarget], Awaitable[tuple[str, ...]]]


def _service(*names: str) -> Callable[[DockerTarget], Awaitable[tuple[str, ...]]]:
    async def chosen(target: DockerTarget) -> tuple[str, ...]:
        return names

    return chosen


async def _leader(target: DockerTarget) -> tuple[str, ...]:
    leader = None

    async def known() -> bool:
        nonlocal leader
        leader = await target.leader()
        return leader is not None

    if not await until(known, RECOVER_WITHIN_S) or leader is None:
        raise TimeoutError("nobody leads")
    return (NODES[leader],)


async def _follower(target: DockerTarget) -> tuple[str, ...]:
    (leader,) = await _leader(target)
    return (next(s for s in NODES.values() if s != leader),)


async def _database(target: DockerTarget) -> tuple[str, ...]:
    if target.store is None:
        raise NoStack("the stack has no database of its own")
    return (target.store,)


async def _redis_master(target: DockerTarget) -> tuple[str, ...]:
    return (await target.redis_master() or "redis1",)


SCRIPTS: Final[dict[str, Script]] = {
    "kill-leader": Script("kill", _leader),
    "kill-follower": Script("kill", _follower),
    "partition-leader": Script("disconnect", _leader),
    "pause-follower": Script("pause", _follower),
    "kill-redis-master": Script("kill", _redis_master),
    "kill-sentinel": Script("kill", _service("sentinel2")),
    "kill-rabbit": Script("kill", _service("rabbit1")),
    "kill-database": Script("kill", _database),
    "kill-nginx": Script("kill", _service("nginx")),
    "full-restart": Script("kill", _service(*NODES.values())),
}


KEPT: Final = frozenset({"kill-leader", "kill-redis-master", "full-restart"})
"""Scripts that choose by role; the other kills are in the table under their container's name."""
ONCE: Final = frozenset({"secret", "cockroach-init"})
"""Services that end by themselves: nobody misses them."""


async def each(target: DockerTarget, pause_s: float, table: Path) -> int:
    """Kill every container of the stack in turn, under load; print and write the table. Return how many went wrong."""
    wrong, rows = 0, [HEAD]
    scripts = {"kill-database": SCRIPTS["kill-database"]} if target.store else {}
    scripts |= {n: s for n, s in SCRIPTS.items() if n in KEPT or s.how != "kill"}
    scripts |= {f"kill {s}": Script("kill", _service(s)) for s in sorted(target.services - ONCE - {target.store})}
    for name, script in scripts.items():
        try:
            told = await disturb(target, script, name, pause_s)
        except TimeoutError as exc:
            print(f"error: {exc}", file=sys.stderr, flush=True)
            wrong += 1
            continue
        print(told, flush=True)
        rows.append(told.row)
        wrong += bool(told.lost)
        _write(table, rows)
    return wrong


def _write(table: Path, rows: list[str]) -> None:
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text("\n".join(rows) + "\n")


async def _main(name: str, project: str | None, pause_s: float) -> int:
    try:
        async with DockerTarget(project) as target:
            print(f"{name}: what it hits comes back after {pause_s:g} s", flush=True)
            with WINDOWS.shown(await target.gateway()):
                if name == EACH:
                    return 1 if await each(target, pause_s, TABLE) else 0
                told = await disturb(target, SCRIPTS[name], name, pause_s)
    except (NoStack, TimeoutError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    print(told)
    for key in told.lost[:20]:
        print(f"lost: {key}")
    return 1 if told.lost else 0


def main(argv: list[str]) -> int:
    """Return 0; 1 when an acknowledged write is lost; 2 when there is no stack or it does not come back."""
    parser = argparse.ArgumentParser(prog="python -m chaos.docker_scripts", description=__doc__)
    parser.add_argument(
        "name", choices=[*SCRIPTS, EACH], help=f"{EACH}: every container in turn, and the table {TABLE}"
    )
    parser.add_argument("--pause", type=float, default=PAUSE_S, metavar="S", help="default: %(default)g")
    parser.add_argument("--project", help="compose project (default: COMPOSE_PROJECT_NAME or acordo)")
    given = parser.parse_args(argv)
    with contextlib.suppress(KeyboardInterrupt):
        return asyncio.run(_main(given.name, given.project, given.pause))
    return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
