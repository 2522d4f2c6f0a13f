"""Expiry as an ordered, guarded write; pruning that never passes what somebody still needs;
ticks.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Literal

import msgspec
import pytest

from coordinator.background.publisher import CURSOR
from coordinator.log import PeerStatus
from coordinator.machine.limits import Limits
from coordinator.settings import CoordinatorSettings
from kv.errors import NotApplied
from kv.model import Applied, Intent, Put
from tests.unit.coordinator.cluster import answer, cluster, put
from tests.virtual import run, until

SWEEPING = CoordinatorSettings(prune_interval_s=1e6)
PRUNING = CoordinatorSettings(
    sweep_interval_s=0.5,
    prune_interval_s=1.0,
    limits=Limits(retention_revisions=10, retention_ms=5_000),
    prune_rows_max=3,
)


def test_due_keys_are_deleted_by_ordered_writes() -> None:
    async def story() -> None:
        async with cluster("ab", settings=SWEEPING) as c:
            a = await c.lead("a")
            await asyncio.gather(
                *a.submit(
                    [put("op1", ttl_ms=2000), put("op2", b"l", ttl_ms=60_000), put("op3", b"m")]
                )
            )
            await asyncio.sleep(1)
            assert c.value(b"k") == b"v"  # present until the delete commits
            await until(lambda: c.value(b"k") is None)
            assert (c.value(b"l"), c.value(b"m")) == (b"v", b"v")
            await c.settled()
            assert a.machine.revision == 4
            assert a.sweeper.expired == 1
            await until(lambda: [change.revision for change in c.broadcast.changes][-1] == 4)
            # a node's op_id
            assert c.database.operations(["op1", c.broadcast.changes[-1].op_id])[1] is None

    run(story)


def test_renewed_key_survives_the_sweep_that_was_meant_for_its_past() -> None:
    async def story() -> None:
        async with cluster("a", settings=SWEEPING) as c:
            a = await c.lead("a")
            await answer(a, put("op1", ttl_ms=500))
            c.scripts["a"].gates["append"] = gate = asyncio.Event()
            renewed = a.submit([put("op2", value=b"new")])[0]  # ordered before the sweep's delete
            await until(lambda: a.machine.revision == 3)
            gate.set()
            assert (await renewed).outcome == Applied()
            await c.settled()
            assert c.value(b"k") == b"new"
            assert a.sweeper.expired == 0

    run(story)


def test_many_due_keys_go_in_bounded_rounds() -> None:
    async def story() -> None:
        async with cluster("a", settings=dataclasses.replace(SWEEPING, sweep_keys_max=4)) as c:
            a = await c.lead("a")
            await asyncio.gather(
                *a.submit([put(f"op{n}", f"k{n}".encode(), ttl_ms=10) for n in range(18)])
            )
            await until(lambda: a.sweeper.expired == 18)
            assert all(c.value(f"k{n}".encode()) is None for n in range(18))

    run(story)


def test_only_the_leader_sweeps_and_the_store_may_be_away() -> None:
    async def story() -> None:
        async with cluster("ab", settings=SWEEPING) as c:
            a = await c.lead("a")
            await answer(a, put("op1", ttl_ms=10))
            c.scripts["a"].down = True
            await asyncio.sleep(5)
            assert "due" not in c.scripts["b"].calls
            await c.lead("b")
            await until(lambda: c.value(b"k") is None)

    run(story)


def test_prunes_by_both_retentions_in_small_steps() -> None:
    async def story() -> None:
        async with cluster("ab", settings=PRUNING) as c:
            a = await c.lead("a")
            for n in range(40):
                await answer(a, put(f"op{n}"))
            await c.settled()
            await asyncio.sleep(3)
            assert c.database.floor() == 0  # old enough by revisions, not by time
            await asyncio.sleep(10)
            assert c.database.floor() == 30 == a.sweeper.floor
            rows = c.database.ledger(0, 1000)
            assert rows[0].last >= 30
            assert rows[-1].last == 40
            assert c.value(b"k") == b"v"
            await answer(a, put("op40"))
            assert a.sweeper.pruned_versions == 29

    run(story)


def test_pruning_stops_at_the_broadcast_cursor_and_at_the_slowest_voter() -> None:
    async def story() -> None:
        async with cluster("ab", settings=PRUNING) as c:
            a = await c.lead("a")
            c.broadcast.down = True
            for n in range(40):
                await answer(a, put(f"op{n}"))
            await asyncio.sleep(20)
            assert c.database.floor() == 0  # nothing is published yet
            c.shared.members["b"].lags = True
            for n in range(40, 60):
                await answer(a, put(f"op{n}"))
            c.broadcast.down = False
            await until(lambda: c.database.cursor(CURSOR) == 60)
            await asyncio.sleep(20)
            assert c.database.floor() == 40  # b has settled no more
            c.shared.members["b"].lags = False
            c.shared.pump()
            await asyncio.sleep(20)
            assert c.database.floor() == 50

    run(story)


@pytest.mark.parametrize("fsync", ["always", "off"])
def test_a_dead_voter_stops_pruning_only_without_synced_disks(
    fsync: Literal["always", "off"],
) -> None:
    """With them, whoever leads has what was committed: no voter needs the rows before that,
    whatever it has.
    """

    async def story() -> None:
        async with cluster("ab", settings=PRUNING) as c:
            c.shared.fsync = fsync
            c.shared.unheard += [
                PeerStatus("c", "c:1", True, "unknown"),
                PeerStatus("o", "o:1", False, "unknown"),
            ]
            a = await c.lead("a")
            for n in range(40):
                await answer(a, put(f"op{n}"))
            await asyncio.sleep(30)
            assert c.database.floor() == (30 if fsync == "always" else 0)

    run(story)


def test_op_ids_are_pruned_after_their_retention() -> None:
    async def story() -> None:
        settings = dataclasses.replace(
            PRUNING, limits=msgspec.structs.replace(PRUNING.limits, window_ms=60_000)
        )
        async with cluster("a", settings=settings) as c:
            a = await c.lead("a")
            await answer(a, put("op1"))
            await asyncio.sleep(30)
            assert c.database.operations(["op1"])[0] is not None
            await asyncio.sleep(40)
            assert c.database.operations(["op1"])[0] is None
            assert a.sweeper.pruned_operations == 1
            # free again
            assert (await answer(a, put("op1", value=b"other body"))).outcome == Applied()

    run(story)


def test_an_idle_cluster_writes_nothing_to_its_log() -> None:
    async def story() -> None:
        async with cluster("ab", settings=SWEEPING) as c:
            await c.lead("a")
            entries = len(c.shared.entries)
            await asyncio.sleep(60)
            assert len(c.shared.entries) == entries

    run(story)


def test_a_failed_delete_is_tried_again_without_waiting_an_interval() -> None:
    async def story() -> None:
        async with cluster(
            "a", settings=dataclasses.replace(SWEEPING, sweep_interval_s=100.0)
        ) as c:
            a = await c.lead("a")
            await answer(a, put("op1", ttl_ms=99_000))
            await asyncio.sleep(99.5)  # the next look at what is due comes soon
            c.shared.dropped += [NotApplied("deposed")] * 3
            await until(lambda: c.value(b"k") is None, limit_s=3.0)
            assert a.sweeper.expired == 1

    run(story)


def test_a_sweep_with_more_than_it_may_take_goes_on_at_once() -> None:
    async def story() -> None:
        settings = dataclasses.replace(SWEEPING, sweep_interval_s=30.0, sweep_keys_max=2)
        async with cluster("a", settings=settings) as c:
            a = await c.lead("a")
            puts = [put(f"op{n}", f"k{n}".encode(), ttl_ms=1_000) for n in range(60)]
            await asyncio.gather(*a.submit(puts))
            await asyncio.sleep(29)
            await until(lambda: a.sweeper.expired == 60, limit_s=3.0)

    run(story)


def test_pruning_that_takes_its_time_holds_up_no_sweep() -> None:
    async def story() -> None:
        async with cluster("a", settings=PRUNING) as c:
            a = await c.lead("a")
            c.scripts["a"].gates["prune"] = asyncio.Event()
            await until(lambda: "prune" in c.scripts["a"].waiting)
            await answer(a, put("op1", ttl_ms=100))
            await until(lambda: c.value(b"k") is None, limit_s=0.1 + PRUNING.sweep_interval_s + 0.1)

    run(story)


def test_a_key_that_came_due_while_the_store_was_away_may_be_renewed_first() -> None:
    """Whoever holds it could not renew it meanwhile, and gets one interval to do so."""

    async def story() -> None:
        async with cluster("a", settings=SWEEPING) as c:
            a = await c.lead("a")
            await asyncio.gather(
                *a.submit([put("op1", ttl_ms=3_000), put("op2", b"l", ttl_ms=3_000)])
            )
            await asyncio.sleep(1)
            c.scripts["a"].down = True
            await asyncio.sleep(6)
            c.scripts["a"].down = False
            await asyncio.sleep(0.5)
            assert (await answer(a, put("op3", ttl_ms=3_000))).outcome == Applied()
            await until(lambda: c.value(b"l") is None, limit_s=2.5)
            assert c.value(b"k") == b"v"
            assert a.sweeper.expired == 1

    run(story)


def test_a_staged_value_that_nobody_ordered_is_swept_and_one_that_is_waited_for_is_not() -> None:
    async def story() -> None:
        settings = dataclasses.replace(PRUNING, staged_ms=60_000)
        async with cluster("a", settings=settings) as c:
            a = await c.lead("a")
            await answer(a, put("op1"))
            never = c.database.stage("never", b"v" * 70_000)
            await answer(a, put("op2"))
            await asyncio.sleep(50)
            assert c.database.blob(never) is not None
            await asyncio.sleep(20)
            assert c.database.blob(never) is None
            waits = c.database.stage("waits", b"w" * 70_000)
            await answer(a, put("op3"))
            # its commit takes long: it is pending meanwhile
            c.scripts["a"].gates["append"] = gate = asyncio.Event()
            late = a.submit([Intent("waits", a.now_ms() + 10**9, writes=(Put(b"k", waits),))])[0]
            await until(lambda: bool(a.machine.pending))
            await asyncio.sleep(40)
            assert a.sweeper._staged_before_ms() == 0
            await asyncio.sleep(40)
            assert c.database.blob(waits) is not None
            gate.set()
            assert (await late).outcome == Applied()

    run(story)


def test_damage_at_rest_is_told_before_somebody_reads_it() -> None:
    async def story() -> None:
        settings = dataclasses.replace(SWEEPING, scrub_interval_s=1.0, scrub_rest_s=100.0)
        async with cluster("ab", settings=settings) as c:
            a = await c.lead("a")
            large = c.database.stage("large", b"v" * 70_000)
            await answer(a, put("op1"))
            await answer(a, put("op2", value=b"newer"))
            await answer(a, Intent("large", 10**15, writes=(Put(b"l", large),)))
            await until(lambda: a.scrubber.scrubbed >= 3)
            assert not a.scrubber.damaged
            assert c["b"].scrubber.scrubbed == 0, "only who leads looks"
            c.database.damage(b"k", 1)
            c.database.damage_blob(large)
            await asyncio.sleep(110)
            assert a.scrubber.damaged == {(b"k", 1), (b"large", 0)}
            assert a.status().counts["versions_damaged"] == 2
            c.scripts["a"].down = True
            await asyncio.sleep(110)
            c.scripts["a"].down = False
            assert (await answer(a, put("op3"))).outcome == Applied(), (
                "a store that is away ends no loop"
            )

    run(story)
