"""How far the ordered floor goes, and that pruning keeps up with a row for every command."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from coordinator.machine.limits import Limits
from kv.errors import BadRequest, NotApplied, Pruned
from tests.unit.coordinator.cluster import QUIET, answer, put
from tests.unit.coordinator.own_cluster import own_cluster
from tests.virtual import run


@pytest.mark.parametrize("old", [0, 1, 2, 7, 20])
@pytest.mark.parametrize("keep", [1, 5])
def test_floor_passes_what_is_old_and_not_more(old: int, keep: int) -> None:
    async def story() -> None:
        limits = Limits(retention_revisions=keep, retention_ms=60_000)
        settings = dataclasses.replace(QUIET, limits=limits)
        async with own_cluster("a", settings=settings, broadcasts=False) as c:
            a = await c.lead("a")
            assert a.own is not None
            for n in range(old):
                await answer(a, put(f"old{n}"))
            await asyncio.sleep(61)
            for n in range(3):
                await answer(a, put(f"young{n}"))
            await a.own.pruning.order()
            needed = max(0, old + 3 - keep)
            assert a.machine.book.floor == (min(old + 1, needed) if old else 0)
            await a.own.pruning.order()  # again, from where it is
            assert a.machine.book.floor == (min(old + 1, needed) if old else 0)

    run(story)


def test_the_past_is_given_up_on_demand_at_every_member() -> None:
    async def story() -> None:
        async with own_cluster("abc", settings=QUIET, broadcasts=False) as c:
            await c.lead("a")
            for n in range(5):
                await answer(c["a"], put(f"k{n}"))
            await c.level()
            with pytest.raises(BadRequest):
                await c["b"].compact(6, timeout_s=2)
            assert await c["b"].compact(4, timeout_s=2)
            await c.level()
            for name in "abc":
                assert c[name].machine.book.floor == 4
                own = c[name].own
                assert own is not None
                with pytest.raises(Pruned):
                    await own.store.read([b"k0"], at=3, settled=5, timeout_s=2)
                await own.store.read([b"k0"], at=4, settled=5, timeout_s=2)
            with pytest.raises(Pruned):
                await c["c"].compact(4, timeout_s=2)

    run(story)


def test_what_is_not_broadcast_is_not_given_up() -> None:
    async def story() -> None:
        async with own_cluster("a", settings=QUIET, broadcasts=True) as c:
            a = await c.lead("a")
            for n in range(3):
                await answer(a, put(f"k{n}"))
            assert a.own is not None
            cursors: Any = a.own.cursors
            told = cursors.held_at
            cursors.held_at = lambda: 2  # the broker is behind
            with pytest.raises(NotApplied):
                await a.compact(3, timeout_s=2)
            cursors.held_at = told
            await a.own.cursors.move_cursor("broadcast", 3, timeout_s=2)
            assert await a.compact(3, timeout_s=2)

    run(story)


def test_pruning_goes_on_at_once_while_there_is_more() -> None:
    async def story() -> None:
        settings = dataclasses.replace(
            QUIET,
            limits=Limits(retention_revisions=1, retention_ms=1_000),
            prune_interval_s=30.0,
            prune_steps_max=2,
            prune_rows_max=5,
        )
        async with own_cluster("a", settings=settings, broadcasts=False) as c:
            a = await c.lead("a")
            for n in range(100):
                await answer(a, put(f"op{n}"))
            await asyncio.sleep(5)
            await answer(a, put("late"))
            assert a.own is not None
            await a.own.pruning.order()
            await c.dump("a")
            await asyncio.sleep(45)
            assert len(c.rows("a")) < 10
            assert a.status().counts["ledger_rows_pruned"] > 90

    run(story)
