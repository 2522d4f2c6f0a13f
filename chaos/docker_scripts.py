"""Disturb the stack once, with a small load running, and say what happened: `python -m chaos.docker_scripts NAME`.

Each of chaos/scripts/ is one of these. What was killed is started again after a stated pause, also when a signal ends
the process; every write that was acknowledged is read again at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TextIO

from acordo.client import Client
from acordo.errors import AcordoError
from chaos.docker_target import NODES, DockerTarget, How, NoStack
from chaos.targets import until
from chaos.windows import WINDOWS

EACH: Final = "each"
TABLE: Final = Path("out/docker/kills.md")
PAUSE_S: Final = 5.0
WARM_UP: Final = 300
"""Acknowledged writes before anything is done: what must still be there afterwards."""
WARM_UP_LEAST: Final = 20
"""So many must do when WARM_UP_S is over."""
WARM_UP_S: Final = 30.0
RECOVER_WITHIN_S: Final = 120.0
WRITERS: Final = 4
ATTEMPT_S: Final = 3.0
EVERY_S: Final = 0.1
"""Between the beginnings of two attempts of one writer, or of the reader."""
SELDOM_S: Final = 1.0
"""The same after QUICK attempts: the keys to read again stay few, however long an outage lasts."""
QUICK: Final = 1500
AT_ONCE: Final = 32
"""Attempts of one writer, or of the reader, under way: one that hangs for ATTEMPT_S keeps no other from being made."""
READ_BACK_AT_ONCE: Final = 32
READ_BACK_WITHIN_S: Final = 120.0
TROUBLE: Final = (NoStack, TimeoutError, AcordoError)
"""What keeps a disturbance from being judged."""
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

LOST, UNJUDGED, MISSED = 1, 2, 3
CODES: Final = f"""\
exit codes: 0 all is well; {LOST} an acknowledged write is lost; {UNJUDGED} it cannot be judged: there is no stack, it
does not come back, or the engine or the cluster fails; {MISSED} a limit is missed (it is named); 128 + N ended by
signal N, after healing. {EACH}: the first of {LOST}, {UNJUDGED}, {MISSED} that happened to any container."""


@dataclass
class Load:
    """Writers and a reader without retries, and when their attempts succeeded. No key is written twice."""

    url: str
    acked: dict[bytes, bytes] = field(default_factory=dict)
    """Every acknowledged write, for good. One that failed or is unknown is not here."""
    writes_at: list[tuple[float, float]] = field(default_factory=list)
    """Begin and end of every acknowledged write."""
    reads_at: list[tuple[float, float]] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    prefix: str = field(default_factory=lambda: f"disturbed/{secrets.token_hex(4)}/")

    async def run(self, stop: asyncio.Event) -> None:
        connections = (WRITERS + 1) * AT_ONCE
        async with (
            Client(self.url, retries=False, timeout_s=ATTEMPT_S, connections_max=connections) as client,
            asyncio.TaskGroup() as tasks,
        ):
            for writer in range(WRITERS):
                tasks.create_task(_paced(partial(self._write, client, writer), stop))
            tasks.create_task(_paced(partial(self._read, client), stop))

    async def _write(self, client: Client, writer: int, n: int) -> None:
        key, value = f"{self.prefix}{writer}/{n}", f"{writer}:{n}".encode()
        began = asyncio.get_running_loop().time()
        try:
            await client.put(key, value)
        except AcordoError as exc:
            self._fail("write", exc)
        else:
            self.acked[key.encode()] = value
            self.writes_at.append((began, asyncio.get_running_loop().time()))

    async def _read(self, client: Client, n: int) -> None:
        began = asyncio.get_running_loop().time()
        try:
            await client.get(f"{self.prefix}0/0")
        except AcordoError as exc:
            self._fail("read", exc)
        else:
            self.reads_at.append((began, asyncio.get_running_loop().time()))

    def _fail(self, what: str, exc: AcordoError) -> None:
        name = f"{what}: {type(exc).__name__}"
        self.failed[name] = self.failed.get(name, 0) + 1

    async def lost(self) -> list[str]:
        """Read every acknowledged write again; return those that are not there.

        Raises AcordoError, and TimeoutError after READ_BACK_WITHIN_S.
        """
        found: list[str] = []
        left = iter(sorted(self.acked.items()))

        async def read_on(client: Client) -> None:
            for key, value in left:
                entry = await client.get(key)
                if entry is None or entry.value != value:
                    found.append(key.decode())

        try:
            async with asyncio.timeout(READ_BACK_WITHIN_S), Client(self.url, timeout_s=30) as client:
                await _all(read_on(client) for _ in range(READ_BACK_AT_ONCE))
        except TimeoutError as exc:
            raise TimeoutError(f"{len(self.acked)} keys not read again in {READ_BACK_WITHIN_S:g} s") from exc
        return sorted(found)


async def _paced(attempt: Callable[[int], Coroutine[Any, Any, None]], stop: asyncio.Event) -> None:
    """Begin an attempt every EVERY_S (after QUICK of them SELDOM_S) until told to stop; at most AT_ONCE under way."""
    free = asyncio.Semaphore(AT_ONCE)

    async def one(n: int) -> None:
        try:
            await attempt(n)
        finally:
            free.release()

    async with asyncio.TaskGroup() as tasks:
        for n in itertools.count():
            await free.acquire()
            if stop.is_set():
                return
            tasks.create_task(one(n))
            await asyncio.sleep(EVERY_S if n < QUICK else SELDOM_S)


async def _all(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all at once. Raises the first error; the others are cancelled."""
    tasks = [asyncio.create_task(each) for each in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@dataclass(frozen=True)
class Limits:
    """What is promised of one disturbance, in seconds; None: nothing."""

    writes_after_s: float | None = None
    """From the strike until writes work, and for how long they may stop at all."""
    after_healing_s: float | None = None
    """From the container's return until writes work."""
    reads_gap_s: float | None = None


@dataclass(frozen=True)
class Told:
    """What one disturbance did. Times count from just before the first container was struck."""

    name: str
    whom: str
    acked: int
    before: int
    """Of these, acknowledged before the strike."""
    lost: list[str]
    writes_gap_s: float
    """Longest time without an acknowledged write."""
    reads_gap_s: float
    writes_after_s: float
    """From the strike until the end of the interruption that it caused."""
    after_healing_s: float
    """From the moment at which everything ran again until a write that began after it was acknowledged."""
    failed: dict[str, int]
    limits: Limits = Limits()

    def __str__(self) -> str:
        failed = ", ".join(f"{n} {what}" for what, n in sorted(self.failed.items())) or "none"
        return (
            f"{self.name} ({self.whom}): writes worked again after {self.writes_after_s:.1f} s "
            f"({self.after_healing_s:.1f} s after it was back); longest gap: writes {self.writes_gap_s:.1f} s, "
            f"reads {self.reads_gap_s:.1f} s; failed: {failed}; {self.acked} acknowledged keys read again "
            f"({self.before} from before it), {len(self.lost)} lost"
        )

    def missed(self, times: float = 1.0) -> tuple[str, ...]:
        """Say which limits were missed, or which of them so many times over; empty when all were kept."""
        return tuple(
            f"{what} {value:.1f} s, promised within {limit:g} s"
            for what, value, limit in self._measured()
            if limit is not None and value > limit * times
        )

    def _measured(self) -> list[tuple[str, float, float | None]]:
        """Return what was measured and its limit, in the order of the table's columns."""
        return [
            ("writes again after", self.writes_after_s, self.limits.writes_after_s),
            ("writes again after it was back", self.after_healing_s, self.limits.after_healing_s),
            ("longest gap of writes", self.writes_gap_s, self.limits.writes_after_s),
            ("longest gap of reads", self.reads_gap_s, self.limits.reads_gap_s),
        ]

    @property
    def row(self) -> str:
        """Return it as a row of a Markdown table; a limit that was missed stands beside the figure."""
        cells = [
            f"**{value:.1f}** (limit {limit:g})" if limit is not None and value > limit else f"{value:.1f}"
            for _, value, limit in self._measured()
        ]
        return f"| {' | '.join([self.name, self.whom, *cells, str(self.acked), str(len(self.lost))])} |"


HEAD: Final = """\
| disturbance | container | writes again after, s | after it was back, s | longest gap of writes, s | of reads, s \
| keys acknowledged | lost |
|---|---|---|---|---|---|---|---|"""


async def disturb(target: DockerTarget, script: Script, name: str, pause_s: float = PAUSE_S) -> Told:
    """Do it under load. Raises TimeoutError when the stack does not come back, NoStack, AcordoError; heals in any case.

    The pause is at least `script.away_s`.
    """
    loop, load, stop = asyncio.get_running_loop(), Load(target.balancer_url or target.urls[0]), asyncio.Event()
    running = asyncio.create_task(load.run(stop))
    try:
        await _warmed_up(load)
        whom = await script.choose(target)
        try:
            with WINDOWS.window(name, whom):
                struck = await target.strike(script.how, whom)
                landed = loop.time()
                await asyncio.sleep(script.away_s(pause_s))
        finally:
            await target.heal_each(whom)
        back = loop.time()

        async def writes_again() -> bool:
            return any(began > back for began, _ in load.writes_at) and any(b > back for b, _ in load.reads_at)

        if not await until(writes_again, RECOVER_WITHIN_S) or not await target.healthy(RECOVER_WITHIN_S):
            raise TimeoutError(f"{name}: not healthy {RECOVER_WITHIN_S:g} s after everything ran again: {load.failed}")
        ended = loop.time()
    finally:
        stop.set()
        await asyncio.wait([running], timeout=ATTEMPT_S * 4)
        running.cancel()
    return Told(
        name,
        ", ".join(whom),
        len(load.acked),
        sum(end <= struck for _, end in load.writes_at),
        await load.lost(),
        _gap(load.writes_at, struck, ended),
        _gap(load.reads_at, struck, ended),
        _resumed(load.writes_at, struck, landed),
        _next(load.writes_at, back) - back,
        load.failed,
        script.limits,
    )


async def _warmed_up(load: Load) -> None:
    """Wait for enough acknowledged writes, or for a few on a slow machine. Raises TimeoutError."""

    async def reached(writes: int) -> bool:
        return len(load.writes_at) >= writes and len(load.reads_at) >= WARM_UP_LEAST

    if await until(lambda: reached(WARM_UP), WARM_UP_S):
        return
    if not await until(lambda: reached(WARM_UP_LEAST), RECOVER_WITHIN_S):
        raise TimeoutError(f"no load could be put on {load.url}: {load.failed}")


def _gap(done: list[tuple[float, float]], since: float, until_: float) -> float:
    """Return the longest time without a success between two moments."""
    ends = sorted(end for _, end in done if since < end < until_)
    return max(b - a for a, b in itertools.pairwise([since, *ends, until_]))


def _resumed(done: list[tuple[float, float]], struck: float, landed: float) -> float:
    """Return how long after the strike the interruption ended: the longest one that the strike can have begun.

    It began before the engine said that the container was gone (`landed`), so a write that began after that ends it.
    """
    last = _next(done, landed)
    ends = [struck, *sorted(end for _, end in done if struck < end <= last)]
    _, ended = max(itertools.pairwise(ends), key=lambda pair: pair[1] - pair[0], default=(struck, struck))
    return ended - struck


def _next(done: list[tuple[float, float]], since: float) -> float:
    return min((end for began, end in done if began > since), default=since)


@dataclass(frozen=True)
class Script:
    """Whom it hits, with which of the target's methods, and what is promised of it."""

    how: How
    choose: Callable[[DockerTarget], Awaitable[tuple[str, ...]]]
    limits: Limits = Limits()

    def away_s(self, pause_s: float) -> float:
        """Return how long what it hits stays away: never so short that its return could pass for a fail-over."""
        return max(pause_s, (self.limits.writes_after_s or 0) * 5 / 3)


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


READS: Final = Limits(reads_gap_s=10)
LEADER: Final = Limits(writes_after_s=3, reads_gap_s=10)
DATABASE: Final = Limits(after_healing_s=10, reads_gap_s=10)
NOBODY_ANSWERS: Final = Limits()
"""While nginx is away, or all nodes, reads fail for as long as that."""

SCRIPTS: Final[dict[str, Script]] = {
    "kill-leader": Script("kill", _leader, LEADER),
    "kill-follower": Script("kill", _follower, READS),
    "partition-leader": Script("disconnect", _leader, LEADER),
    "pause-follower": Script("pause", _follower, READS),
    "kill-redis-master": Script("kill", _redis_master, READS),
    "kill-sentinel": Script("kill", _service("sentinel2"), READS),
    "kill-rabbit": Script("kill", _service("rabbit1"), READS),
    "kill-database": Script("kill", _database, DATABASE),
    "kill-nginx": Script("kill", _service("nginx"), NOBODY_ANSWERS),
    "full-restart": Script("kill", _service(*NODES.values()), NOBODY_ANSWERS),
}


KEPT: Final = frozenset({"kill-leader", "kill-redis-master", "full-restart"})
"""Scripts that choose by role; the other kills are in the table under their container's name."""
ONCE: Final = frozenset({"secret", "cockroach-init"})
"""Services that end by themselves: nobody misses them."""


async def each(target: DockerTarget, pause_s: float, table: Path) -> int:
    """Kill every container of the stack in turn, under load; print and write the table. Return the exit code."""
    codes, rows = [0], [HEAD]
    scripts = {"kill-database": SCRIPTS["kill-database"]} if target.store else {}
    scripts |= {n: s for n, s in SCRIPTS.items() if n in KEPT or s.how != "kill"}
    for service in sorted(target.services - ONCE - {target.store}):
        limits = NOBODY_ANSWERS if service == "nginx" else READS
        scripts[f"kill {service}"] = Script("kill", _service(service), limits)
    for name, script in scripts.items():
        try:
            told = await disturb(target, script, name, pause_s)
        except TROUBLE as exc:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise  # a signal came, and then healing failed: the next one is left in peace
            _say(f"error: {name}: {_reason(exc)}", sys.stderr)
            codes.append(UNJUDGED)
            rows.append(f"| {name} | not judged: {_reason(exc).replace('|', '/')} | | | | | | |")
        else:
            codes.append(_tell(told))
            rows.append(told.row)
        _write(table, rows)
    return min(filter(None, codes), default=0)


def _write(table: Path, rows: list[str]) -> None:
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text("\n".join(rows) + "\n")


def _tell(told: Told) -> int:
    """Say it and return its exit code."""
    _say(str(told))
    for key in told.lost[:20]:
        _say(f"lost: {key}")
    for limit in told.missed():
        _say(f"limit missed: {limit}")
    return LOST if told.lost else MISSED if told.missed() else 0


def _say(line: str, where: TextIO | None = None) -> None:
    with contextlib.suppress(OSError):  # a terminal that is gone must not keep anything from being healed
        print(line, file=where, flush=True)


def _reason(exc: BaseException) -> str:
    return " ".join(str(exc).split()) or type(exc).__name__


async def run(target: DockerTarget, name: str, pause_s: float, table: Path = TABLE) -> int:
    """Do one script, or `each`, to a stack; heal it on the way out. Return the exit code."""
    code = 0
    try:
        async with target:
            away_s = pause_s if name == EACH else SCRIPTS[name].away_s(pause_s)
            _say(f"{name}: what it hits comes back after {away_s:g} s")
            with WINDOWS.shown(await target.gateway()):
                if name == EACH:
                    code = await each(target, pause_s, table)
                else:
                    code = _tell(await disturb(target, SCRIPTS[name], name, pause_s))
    except TROUBLE as exc:
        _say(f"error: {_reason(exc)}", sys.stderr)
        return LOST if code == LOST else UNJUDGED
    return code


async def interruptible(work: Coroutine[Any, Any, int]) -> int:
    """Do the work; a signal cancels it, so that it heals on its way out. Return its code, or 128 + the signal's number.

    Further signals change nothing: ending while a container is down would leave it so.
    """
    loop, working = asyncio.get_running_loop(), asyncio.create_task(work)
    came: list[signal.Signals] = []

    def take(number: signal.Signals) -> None:
        _say(f"{number.name}: healing, then the end", sys.stderr)
        if not came:
            working.cancel()
        came.append(number)

    for number in SIGNALS:
        loop.add_signal_handler(number, take, number)
    try:
        return await working
    except asyncio.CancelledError:
        if not came:
            raise
        return 128 + came[0]
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


def main(argv: list[str]) -> int:
    """Return the exit code, as CODES says."""
    parser = argparse.ArgumentParser(
        prog="python -m chaos.docker_scripts",
        description=__doc__,
        epilog=CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "name", choices=[*SCRIPTS, EACH], help=f"{EACH}: every container in turn, and the table {TABLE}"
    )
    parser.add_argument(
        "--pause",
        type=float,
        default=PAUSE_S,
        metavar="S",
        help="until it comes back; a leader stays away for at least 5 (default: %(default)g)",
    )
    parser.add_argument("--project", help="compose project (default: COMPOSE_PROJECT_NAME or acordo)")
    given = parser.parse_args(argv)
    return asyncio.run(interruptible(run(DockerTarget(given.project), given.name, given.pause)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
