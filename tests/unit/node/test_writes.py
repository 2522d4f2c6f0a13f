"""Admitting, grouping and answering, over fakes and without HTTP: never the wrong kind of "no"."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.memory.database import MemoryDatabase
from backends.memory.faults import AnswerLost, NoFaults
from backends.memory.store import MemoryStore
from kv.errors import NotApplied, OutcomeUnknown
from kv.model import Answer, Applied, Cancel, Compare, Delete, DeleteRange, Intent, Put, Reference
from node.settings import ServerSettings
from node.writes.staging import INTENT_INLINE_BYTES_MAX, inline_bytes, to_stage
from node.writes.submit_queue import (
    SUBMIT_BYTES_MAX,
    SUBMIT_RANGES_MAX,
    SUBMITS_MAX,
    TICK_S,
    Deadlines,
    QueuedIntent,
)
from node.writes.writes import Writes
from tests.unit.node.fakes import FakeClock, FakeConsensus


class Bench:
    def __init__(self, store: MemoryStore | None = None, **more: Any) -> None:
        self.store = store or MemoryStore(MemoryDatabase())
        self.consensus = FakeConsensus(self.store.database)
        self.clock = FakeClock()
        self.writes = Writes(
            self.consensus,
            self.store,
            self.clock,
            ServerSettings(node_id="n1", advertised_url="", incarnation="7", **more),
        )

    async def put(self, key: bytes, value: bytes = b"v", left_s: float = 5.0) -> Answer:
        intent = Intent(self.writes.new_op_id(), 0, writes=(Put(key, value),))
        return await self.writes.one(intent, deadline=self.clock.monotonic() + left_s)


async def test_what_is_queued_goes_as_one_command() -> None:
    b = Bench()
    answers = await asyncio.gather(*(b.put(str(n).encode()) for n in range(100)))
    assert [answer.revision for answer in answers] == list(range(1, 101))
    assert [len(group) for group in b.consensus.submits] == [100]
    assert b.writes.held == b.writes.held_bytes == 0


async def test_a_leader_that_gives_way_costs_no_refusal() -> None:
    b = Bench()
    b.consensus.moves = 3
    assert (await b.put(b"k")).revision == 1
    assert len(b.consensus.submits) == 4
    assert {i.op_id for group in b.consensus.submits for i in group} == {
        b.consensus.submits[0][0].op_id
    }
    assert b.writes.held == b.writes.held_bytes == 0


async def test_patience_with_leaders_that_give_way_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.writes.submit_queue.MOVE_PATIENCE_S", 0.2)
    b = Bench()
    b.consensus.moves = 10**6
    with pytest.raises(NotApplied, match="not_leader"):
        await b.put(b"k")
    assert 1 < len(b.consensus.submits) < 10


async def test_who_is_waited_for_by_nobody_is_not_handed_over_again() -> None:
    b = Bench()
    b.consensus.moves = 10**6
    task = asyncio.create_task(b.put(b"k"))
    while not b.consensus.submits:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    before = len(b.consensus.submits)
    await asyncio.sleep(0.15)
    assert len(b.consensus.submits) <= before + 1
    assert b.writes.held == b.writes.held_bytes == 0


async def test_a_lonely_write_does_not_wait_for_company() -> None:
    b = Bench()
    for n in range(3):
        await b.put(str(n).encode())
    assert [len(group) for group in b.consensus.submits] == [1, 1, 1]


async def test_while_a_round_is_out_the_next_collects() -> None:
    b = Bench()
    b.consensus.hold = True
    tasks = [asyncio.create_task(b.put(b"first"))]
    while len(b.consensus.submits) < 1:
        await asyncio.sleep(0)
    tasks += [asyncio.create_task(b.put(str(n).encode())) for n in range(20)]
    while b.writes.held < 21:
        await asyncio.sleep(0)
    assert len(b.consensus.submits) == 1
    b.consensus.hold = False
    b.consensus.commit_held()
    await asyncio.gather(*tasks)
    assert [len(group) for group in b.consensus.submits] == [1, 20]


async def test_full_rounds_do_not_wait_for_each_other() -> None:
    b = Bench()
    b.consensus.hold = True
    value = bytes(40_000)
    per_round = SUBMIT_BYTES_MAX // len(value)
    tasks = [
        asyncio.create_task(b.put(b"%d" % n, value)) for n in range((SUBMITS_MAX + 2) * per_round)
    ]
    while b.writes.held < len(tasks):
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(b.consensus.submits) == SUBMITS_MAX
    b.consensus.hold = False
    b.consensus.commit_held()
    await asyncio.gather(*tasks)
    assert max(len(group) for group in b.consensus.submits) == per_round


async def test_a_round_that_is_never_answered_does_not_hold_back_others() -> None:
    b = Bench()
    b.consensus.hold = True
    lost = [asyncio.create_task(b.put(b"lost", left_s=0.5))]
    while len(b.consensus.submits) < 1:
        await asyncio.sleep(0)
    b.consensus.hold = False  # a new leader
    assert (await b.put(b"next")).outcome == Applied()
    for task in lost:
        with pytest.raises(OutcomeUnknown):
            await task


async def test_rounds_are_bounded_in_bytes() -> None:
    b = Bench()
    await asyncio.gather(*(b.put(str(n).encode(), b"v" * 60_000) for n in range(40)))
    sizes = [sum(inline_bytes(intent) for intent in group) for group in b.consensus.submits]
    assert max(sizes) <= SUBMIT_BYTES_MAX
    assert len(sizes) == 3


async def test_time_out_before_and_after_handing_over() -> None:
    b = Bench()
    b.consensus.hold = True
    handed = asyncio.create_task(b.put(b"x", left_s=0.05))
    while len(b.consensus.submits) < 1:
        await asyncio.sleep(0)
    queued = asyncio.create_task(b.put(b"z", left_s=0.02))
    with pytest.raises(NotApplied) as never:
        await queued
    assert never.value.reason == "timeout"
    with pytest.raises(OutcomeUnknown):
        await handed
    assert [len(group) for group in b.consensus.submits] == [1]
    assert b.writes.held == 0


async def test_deadlines_are_log_time_from_the_time_left() -> None:
    b = Bench()
    b.consensus.now_offset_ms = 5_000_000
    before = b.consensus.now_ms()
    await b.put(b"x", left_s=3.0)
    (intent,) = b.consensus.submits[0]
    assert isinstance(intent, Intent)
    assert before + 2_900 <= intent.deadline_ms <= b.consensus.now_ms() + 3_000


async def test_what_consensus_says_is_passed_on() -> None:
    b = Bench()
    b.consensus.no_leader = "deposed"
    with pytest.raises(NotApplied) as refused:
        await b.put(b"x")
    assert refused.value.reason == "deposed"
    b.consensus.no_leader = None
    b.consensus.lose = True
    with pytest.raises(OutcomeUnknown):
        await b.put(b"x")


async def test_cancelling_a_waiter_does_not_cancel_the_commit() -> None:
    b = Bench()
    b.consensus.hold = True
    task = asyncio.create_task(b.put(b"x"))
    while not b.consensus.held:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not b.consensus.held[0][1].cancelled()
    b.consensus.commit_held()
    assert b.store.database.read((b"x",), None, 0).versions[0] is not None
    assert b.writes.held == 0


async def test_cancelling_before_the_queue_moves_hands_nothing_over() -> None:
    b = Bench()
    task = asyncio.create_task(b.put(b"x"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    await b.put(b"y")
    assert sum(len(group) for group in b.consensus.submits) == 1


async def test_admission_is_bounded_in_count_and_bytes() -> None:
    b = Bench(writes_max=2)
    with pytest.raises(NotApplied) as over:
        await b.writes.many(
            [Intent(f"o{n}", 0, writes=(Delete(b"k"),)) for n in range(3)],
            deadline=b.clock.monotonic() + 1,
        )
    assert over.value.reason == "overloaded"
    b = Bench(write_bytes_max=5000)
    with pytest.raises(NotApplied):
        await b.put(b"x", b"v" * 6000)
    assert (await b.put(b"x", b"v" * 3000)).revision == 1
    assert b.writes.held_bytes == 0


async def test_a_value_that_cannot_be_staged_is_definitely_not_applied() -> None:
    class Losing(NoFaults):
        def fate(self, session: str, call: str) -> Any:
            return (
                AnswerLost(lands_after_s=None) if call == "stage" else super().fate(session, call)
            )

    b = Bench(MemoryStore(MemoryDatabase(), faults=Losing()))
    with pytest.raises(NotApplied) as refused:
        await b.put(b"x", b"v" * 100_000)
    assert refused.value.reason == "store_away"
    assert b.consensus.submits == []
    assert b.writes.held == 0


async def test_cancels_go_the_same_way() -> None:
    b = Bench()
    results = await b.writes.many((Cancel("who"),), deadline=b.clock.monotonic() + 1)
    assert isinstance(results[0], Answer)


async def test_op_ids_of_two_incarnations_never_meet() -> None:
    one, other = Bench(), Bench()
    other.writes = Writes(
        other.consensus,
        other.store,
        other.clock,
        ServerSettings(node_id="n1", advertised_url="", incarnation="8"),
    )
    made = {one.writes.new_op_id() for _ in range(100)} | {
        other.writes.new_op_id() for _ in range(100)
    }
    assert len(made) == 200
    assert all(op_id.startswith("~n1.") for op_id in made)


@settings(deadline=None)
@given(st.lists(st.integers(0, 300_000), max_size=40), st.randoms(use_true_random=False))
def test_staging_bounds_what_stays_inline(sizes: list[int], rng: Any) -> None:
    """What travels in the log is bounded, and depends on the values alone (so a retry has the same
    body hash).
    """
    values = [rng.choice(b"ab").to_bytes(1, "big") * size for size in sizes]
    intent = Intent("o", 0, writes=tuple(Put(str(n).encode(), v) for n, v in enumerate(values)))
    chosen = to_stage(intent)
    inline = [v for v in values if v not in chosen]
    assert sum(map(len, inline)) <= INTENT_INLINE_BYTES_MAX
    assert all(len(v) <= 64 * 1024 for v in inline)
    assert to_stage(Intent("p", 9, writes=tuple(reversed(intent.writes)))) == chosen
    if sum(map(len, values)) <= 64 * 1024:
        assert chosen == []


async def test_the_same_value_twice_is_staged_once() -> None:
    b = Bench()
    value = b"v" * 100_000
    intent = Intent("o", 0, writes=(Put(b"a", value), Put(b"b", value)))
    await b.writes.one(intent, deadline=b.clock.monotonic() + 5)
    (sent,) = b.consensus.submits[0]
    assert isinstance(sent, Intent)
    references = [w.value for w in sent.writes if isinstance(w, Put)]
    assert references[0] == references[1]
    assert isinstance(references[0], Reference)


class Counting(MemoryStore):
    """A store that counts what is staged and taken back."""

    staged = taken_back = 0

    async def stage(self, *args: Any, **more: Any) -> Any:
        self.staged += 1
        return await super().stage(*args, **more)

    async def unstage(self, *args: Any, **more: Any) -> Any:
        self.taken_back += 1
        return await super().unstage(*args, **more)


def _blobs(store: MemoryStore) -> int:
    return len(store.database._blobs)


@pytest.mark.parametrize("reason", ["no_leader", "no_quorum", "store_away", "overloaded"])
async def test_refused_large_writes_do_not_fill_the_store(reason: str) -> None:
    """44 refusals of 1 MB left 44 MB. It is asked before staging, and a refusal that comes later
    takes it back.
    """
    store = Counting(MemoryDatabase())
    b = Bench(store)
    b.consensus.no_leader = reason
    for hides, staged in ((False, 0), (True, 3)):
        b.consensus.hides = hides
        for _ in range(3):
            with pytest.raises(NotApplied) as refused:
                await b.put(b"x", b"v" * 100_000)
            assert refused.value.reason == reason
        assert (store.staged, store.taken_back, _blobs(store)) == (staged, staged, 0)
    assert b.writes.held == b.writes.held_bytes == 0
    b.consensus.no_leader = None
    await b.put(b"x", b"v" * 100_000)
    assert _blobs(store) == 1


async def test_a_large_write_that_ran_out_of_time_in_the_queue_is_taken_back() -> None:
    store = Counting(MemoryDatabase())
    b = Bench(store)
    b.consensus.hold = True
    lost = [asyncio.create_task(b.put(b"first"))]
    while len(b.consensus.submits) < 1:
        await asyncio.sleep(0)
    results = await b.writes.many(
        (Intent("late", 0, writes=(Put(b"big", b"v" * 100_000),)),),
        deadline=b.clock.monotonic() + 0.05,
    )
    assert isinstance(results[0], NotApplied | OutcomeUnknown)
    handed = any(intent.op_id == "late" for group in b.consensus.submits for intent in group)
    # unknown: it may be needed yet
    assert (_blobs(store) == 1) == handed == isinstance(results[0], OutcomeUnknown)
    b.consensus.hold = False
    b.consensus.commit_held()
    await asyncio.gather(*lost)


async def test_what_a_batch_staged_is_taken_back_when_the_store_takes_no_more() -> None:
    store = Counting(MemoryDatabase())
    store.staged_bytes_max = 250_000
    b = Bench(store)
    intents = [
        Intent(f"o{n}", 0, writes=(Put(b"k%d" % n, bytes([n]) * 100_000),)) for n in range(3)
    ]
    with pytest.raises(NotApplied) as refused:
        await b.writes.many(intents, deadline=b.clock.monotonic() + 1)
    assert refused.value.reason == "overloaded"
    assert (store.taken_back, _blobs(store), b.consensus.submits) == (2, 0, [])


async def test_few_ranges_go_in_one_command() -> None:
    """Every member reads them all at once while it applies the command."""
    b = Bench()
    delete = DeleteRange(b"a", b"b")
    ranges = [Intent(f"~r{n}", 0, (), (delete,)) for n in range(2 * SUBMIT_RANGES_MAX)]
    wide = Intent("~w", 0, tuple(Compare(b"a", b"b", "mod", "=", n) for n in range(100)), ())
    plain = Intent("~p", 0, (), (Put(b"k", b"v"),))
    deadline = b.clock.monotonic() + 5
    await b.writes.many((*ranges, wide, plain), deadline=deadline)
    assert [len(group) for group in b.consensus.submits] == [*[SUBMIT_RANGES_MAX] * 2, 1, 1]


async def test_deadlines_of_many_intents_share_timers() -> None:
    """Intents that end within a tick have one timer; it ends those that still wait, no earlier."""
    loop = asyncio.get_running_loop()
    deadlines = Deadlines()
    at = loop.time() + 0.02
    waiting = [
        QueuedIntent(Intent(f"o{n}", 0), 1, at + n * TICK_S / 100, 0.0, deadlines)
        for n in range(100)
    ]
    assert 1 <= len(deadlines) <= 2
    for each in waiting[::2]:
        each.end(OutcomeUnknown("heard of nothing"))
    for each in waiting[1::2]:
        result = await each.result
        assert isinstance(result, NotApplied)
        assert result.reason == "timeout"
        assert loop.time() >= each.deadline
    assert len(deadlines) == 0
