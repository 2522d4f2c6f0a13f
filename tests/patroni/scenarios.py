"""What is done to Patroni, its PostgreSQL and its store, and what is measured meanwhile.

A scenario begins and ends with one primary that two others follow; it must leave nothing stopped or
cut behind.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import aiohttp

from tests.patroni.databases import TTL_S, Databases
from tests.patroni.stores import Store

HOLD_S: Final = TTL_S + 4.0
"""How long a harm of the store lasts: longer than a lease lives that nobody keeps alive."""


@dataclass(frozen=True)
class Scenario:
    """A harm, and how many new primaries it is meant to bring."""

    name: str
    wanted: int
    harm: Callable[[Store, Databases], Awaitable[None]]


@dataclass(frozen=True)
class Result:
    """What was seen while a scenario ran."""

    scenario: str
    new_primary_s: float | None
    """From the harm to a primary of a new timeline; None if there was to be none."""
    without_s: float
    """How long no primary was seen."""
    unwanted: int
    """New primaries that were not wanted."""
    errors: tuple[str, ...]
    failure: str = ""
    """What did not come about in time."""


async def run(scenario: Scenario, store: Store, databases: Databases) -> Result:
    """Run one scenario, and wait until all is whole again."""
    positions, databases.without_s = databases.positions(), 0.0
    known = len(databases.primaries)
    timeline = databases.primaries[-1][2] if known else 0
    began, took, failure = time.monotonic(), None, ""
    harm = asyncio.ensure_future(scenario.harm(store, databases))
    try:
        if scenario.wanted:
            took = await databases.new_primary(timeline) - began
        await harm
        await databases.whole()
    except (TimeoutError, OSError, RuntimeError, aiohttp.ClientError) as exc:
        failure = f"{type(exc).__name__} {exc}".strip()
    finally:
        harm.cancel()
    unwanted = max(0, len(databases.primaries) - known - scenario.wanted)
    errors = tuple(databases.errors(positions))
    return Result(scenario.name, took, databases.without_s, unwanted, errors, failure)


async def _nothing(store: Store, databases: Databases) -> None:
    """They were started a moment ago."""


async def _switch(store: Store, databases: Databases) -> None:
    to = next(name for name in databases.names if name != databases.primary())
    await databases.switch(to)


async def _kill_leader(store: Store, databases: Databases) -> None:
    leader = await store.leader()
    await store.kill(leader)
    await asyncio.sleep(HOLD_S)
    await store.start(leader)
    await store.healthy(leader)


async def _kill_primary(store: Store, databases: Databases) -> None:
    databases.kill_postgres(databases.primary())


async def _lose_primary(store: Store, databases: Databases) -> None:
    name = databases.primary()
    await databases.kill(name)
    await asyncio.sleep(HOLD_S)
    await databases.start(name)


async def _kill_both(store: Store, databases: Databases) -> None:
    leader = await store.leader()
    await store.kill(leader)
    databases.kill_postgres(databases.primary())
    await asyncio.sleep(HOLD_S)
    await store.start(leader)
    await store.healthy(leader)


async def _stop_leader(store: Store, databases: Databases) -> None:
    leader = await store.leader()
    store.signal(leader, signal.SIGSTOP)
    await asyncio.sleep(HOLD_S)
    store.signal(leader, signal.SIGCONT)
    await store.healthy(leader)


async def _cut_leader(store: Store, databases: Databases) -> None:
    link = store.links[await store.leader()]
    link.up.cut = link.down.cut = True
    await asyncio.sleep(HOLD_S)
    link.heal()


async def _isolate_leader(store: Store, databases: Databases) -> None:
    """Its clients still reach it; nobody may be told that it leads."""
    before = store.ways.swallowed
    store.ways.cut_off(await store.leader())
    try:
        await asyncio.sleep(HOLD_S)
    finally:
        store.ways.heal()
    if store.ways.swallowed == before:
        raise RuntimeError("nothing was cut between the members")


async def _restart_all(store: Store, databases: Databases) -> None:
    for n in range(3):
        await store.restart(n)
        await asyncio.sleep(3)


START: Final = Scenario("start and elect", 1, _nothing)
KILL_LEADER: Final = Scenario("the store's leader is killed", 0, _kill_leader)
KILL_PRIMARY: Final = Scenario("the primary PostgreSQL is killed", 1, _kill_primary)
SHORT: Final = (START, KILL_LEADER, KILL_PRIMARY)
ALL: Final = (
    START,
    Scenario("switch over", 1, _switch),
    KILL_LEADER,
    KILL_PRIMARY,
    Scenario("the primary is killed with its Patroni", 1, _lose_primary),
    Scenario("the store's leader and the primary are killed", 1, _kill_both),
    Scenario("the store's leader is stopped (SIGSTOP)", 0, _stop_leader),
    Scenario("clients' links to the store's leader are cut", 0, _cut_leader),
    Scenario("the store's leader is cut off from its members", 0, _isolate_leader),
    Scenario("the store is restarted, one after another", 0, _restart_all),
)
