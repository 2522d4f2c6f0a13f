"""What is done to the primary of the store, and what is seen of the cluster on it meanwhile.

A scenario begins and ends with one primary, that has a synchronous standby, and leaves nothing
stopped or cut behind.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from tests.failover.databases import SynchronousDatabases
from tests.patroni.databases import TTL_S, WRITE

HOLD_S: Final = TTL_S + 6.0
"""How long a harm lasts at least: longer than a lock lives that nobody keeps."""


@dataclass(frozen=True)
class Scenario:
    """A harm of the primary, and how it is undone."""

    name: str
    harm: Callable[[SynchronousDatabases, str], Awaitable[None]]
    heal: Callable[[SynchronousDatabases, str], Awaitable[None]]
    needs_disks: bool = False
    """Whether every PostgreSQL must have a disk of its own, of a size that can be filled."""


@dataclass(frozen=True)
class Result:
    """What was seen while a scenario ran. Times are from the harm."""

    scenario: str
    promoted_s: float
    """When another PostgreSQL called itself the primary."""
    store_s: float
    """How long after that it acknowledged a commit: once it has a synchronous standby again."""
    writes_s: float
    """How long after that the cluster acknowledged a write; 0 if it had before."""
    gap_s: float
    """How long it acknowledged none."""


class Acknowledged:
    """When the cluster acknowledged writes."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def note(self) -> None:
        """Note that a write was acknowledged now."""
        self.times.append(time.monotonic())

    async def after(self, moment: float, within_s: float) -> float:
        """Return when the first write after a moment was acknowledged. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while not (self.times and self.times[-1] >= moment):
                await asyncio.sleep(0.02)
        return self.times[bisect.bisect_left(self.times, moment)]

    def gap(self, since: float, upto: float) -> float:
        """Return the longest time without one."""
        inside = [since, *(t for t in self.times if since <= t <= upto), upto]
        return max(b - a for a, b in itertools.pairwise(inside))


async def run(
    scenario: Scenario, databases: SynchronousDatabases, writes: Acknowledged, within_s: float
) -> Result:
    """Run one scenario, and wait until all is whole again. Raises TimeoutError, RuntimeError."""
    await databases.synchronous()
    primary, began = databases.primary(), time.monotonic()
    held = asyncio.ensure_future(asyncio.sleep(HOLD_S))
    try:
        harming = asyncio.ensure_future(scenario.harm(databases, primary))
        name, promoted = await databases.promoted(primary)
        committed = await databases.committed(name)
        written = await writes.after(promoted, within_s)
        await harming
        if scenario.heal is not _nothing:
            await held
    finally:
        held.cancel()
        await scenario.heal(databases, primary)
    await databases.whole()
    await databases.synchronous()
    gap = writes.gap(began, time.monotonic())
    late = max(0.0, written - committed)
    return Result(scenario.name, promoted - began, committed - promoted, late, gap)


async def _nothing(databases: SynchronousDatabases, name: str) -> None:
    """It mends itself."""


async def _switch(databases: SynchronousDatabases, primary: str) -> None:
    asked = "select application_name from pg_stat_replication where sync_state = 'sync'"
    to = await databases.ask_for(primary, asked)
    await databases.switch((to or "").split("\n")[0])


async def _kill(databases: SynchronousDatabases, primary: str) -> None:
    databases.kill_postgres(primary)


async def _kill_machine(databases: SynchronousDatabases, primary: str) -> None:
    await databases.kill(primary)


async def _start_machine(databases: SynchronousDatabases, primary: str) -> None:
    if databases.processes[primary].returncode is not None:
        await databases.start(primary)


async def _stop_machine(databases: SynchronousDatabases, primary: str) -> None:
    databases.signal_machine(primary, signal.SIGSTOP)


async def _go_on(databases: SynchronousDatabases, primary: str) -> None:
    with contextlib.suppress(ProcessLookupError):
        databases.signal_machine(primary, signal.SIGCONT)


async def _fill(databases: SynchronousDatabases, primary: str) -> None:
    databases.fill_disk(primary)
    # It goes on with the files of its log that it has; then it needs a new one.
    async with asyncio.timeout(HOLD_S):
        while await databases.ask_for(primary, "select pg_switch_wal(); " + WRITE) is not None:
            await asyncio.sleep(0.05)


async def _empty(databases: SynchronousDatabases, primary: str) -> None:
    databases.empty_disk(primary)


async def _cut(databases: SynchronousDatabases, primary: str) -> None:
    databases.cut(primary, True)


async def _join(databases: SynchronousDatabases, primary: str) -> None:
    databases.cut(primary, False)


SWITCH: Final = Scenario("switch over", _switch, _nothing)
KILLED: Final = Scenario("the primary PostgreSQL is killed", _kill, _nothing)
LOST: Final = Scenario("it is killed with its Patroni", _kill_machine, _start_machine)
STOPPED: Final = Scenario("both are stopped (SIGSTOP)", _stop_machine, _go_on)
CUT: Final = Scenario("both are cut off from everybody", _cut, _join)
FULL: Final = Scenario("its disk is full", _fill, _empty, needs_disks=True)
SHORT: Final = (SWITCH, KILLED)
ALL: Final = (SWITCH, KILLED, LOST, STOPPED, CUT, FULL)
