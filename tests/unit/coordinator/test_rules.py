"""What each rule of the protocol is for: a story that keeps every promise, and breaks one once the
rule is away.

How each is taken away: tests/planted/protocol.py. Not here: `as_of` (the node's read path; planted
in tests/planted/reads.py), `waits_noop` (the Log calls `led` only after the no-op), and
`ledger_outcomes`, without which the model in docs/model found nothing broken either.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
from collections.abc import Awaitable, Callable

import pytest

from backends.memory.database import MemoryDatabase
from backends.memory.faults import AnswerLost
from coordinator.consensus import Coordinator
from coordinator.machine.chain import group_on, mark_of, settle_of
from coordinator.machine.commands import Adopt, Command, Found, Rebase, Settle, Submit, decode
from coordinator.machine.evaluate import evaluate
from coordinator.machine.limits import Limits
from coordinator.machine.machine import Machine
from coordinator.machine.needs import needs
from coordinator.machine.pending import Mark
from coordinator.machine.snapshot import decode_state, encode_state
from kv.errors import NotApplied
from kv.model import (
    GENESIS_DIGEST,
    Answer,
    Applied,
    DeleteRange,
    Intent,
    LedgerRow,
    Recorded,
    roll,
)
from kv.ports import Appended
from tests.planted import protocol
from tests.planted.registry import PlantedFault, planted
from tests.unit.coordinator.audit import Feeds, broken_promises, cached, reads_stale
from tests.unit.coordinator.cluster import FAR_MS, QUIET, Cluster, answer, cluster, put
from tests.virtual import run, until

Story = Callable[[], Awaitable[set[str]]]


def gate(c: Cluster, name: str, call: str) -> asyncio.Event:
    """Hold up every such call of a member's store session until the gate is set."""
    opened = c.scripts[name].gates[call] = asyncio.Event()
    return opened


async def held(c: Cluster, name: str, call: str) -> None:
    await until(lambda: call in c.scripts[name].waiting)


async def quiet() -> None:
    """Let everything happen that is on its way: virtual time costs nothing."""
    await asyncio.sleep(20)


async def lose_committed(
    c: Cluster, *, then: tuple[str, ...] = (), known: bytes = b"k"
) -> tuple[Coordinator, Answer]:
    """Commit op1 (key `known`) on a; elect b whose log lacks it; order `then` there before b has
    taken over.
    """
    a, b = await c.lead("a"), c["b"]
    await c.settled()
    ordered = len(c.shared.entries)
    told = await answer(a, put("op1", known))
    taking = gate(c, "b", "take_over")
    c.shared.elect("b", lose=len(c.shared.entries) - ordered)
    await held(c, "b", "take_over")
    if then:
        b.submit([put(op_id) for op_id in then])
        await until(lambda: b.machine.revision == len(then))
    taking.set()
    return b, told


# -------------------------------------------------------------------------------------------- fence


async def late_transaction_of_a_deposed_leader() -> set[str]:
    async with cluster("ab") as c:
        a, b = await c.lead("a"), c["b"]
        late = gate(c, "a", "append")
        first = a.submit([put("op1")])[0]
        await held(c, "a", "append")
        await c.lead("b")
        told = [("op2", await answer(b, put("op2", b"l")))]
        told.append(("op1", await first))
        late.set()
        await quiet()
        told.append(("op3", await answer(b, put("op3", b"m"))))
        await c.settled()
        return broken_promises(c, told)


async def same_place_and_term_after_a_restore() -> set[str]:
    async with cluster("a") as c:
        c.broadcast.down = True  # what a restore takes away may have been told before
        a = await c.lead("a")
        await answer(a, put("op1"))
        await c.settled()
        c.scripts["a"].fates["append"] = [AnswerLost(lands_after_s=5.0)]
        taking = gate(c, "a", "take_over")
        a.submit([put("op2")])
        await held(c, "a", "take_over")
        # the row of op1 is gone; taking over puts an empty one in its place
        c.database.lose_rows(1)
        taking.set()
        await quiet()
        return broken_promises(c)


async def nothing_takes_the_place_of_what_is_in_flight() -> set[str]:
    async with cluster("ab") as c:
        a, b = await c.lead("a"), c["b"]
        entry = cached(c, b"k")
        late = gate(c, "a", "append")
        ordered = len(c.shared.entries)
        a.submit([put("op1")])
        await held(c, "a", "append")
        c.shared.members["a"].ignores_loss = True
        await c.lead("b", lose=len(c.shared.entries) - ordered)
        late.set()
        await quiet()
        return {"INV-1"} if await reads_stale(c, b, entry, c.database.head().last) else set()


async def deposed_leader_goes_on_behind_its_successor() -> set[str]:
    async with cluster("ab") as c:
        a, b = await c.lead("a"), c["b"]
        entry = cached(c, b"k")
        c.scripts["a"].down = True
        ordered = len(c.shared.entries)
        first = a.submit([put("op1")])[0]
        await until(lambda: a.machine.revision == 1)
        c.shared.members["a"].ignores_loss = True
        c.shared.elect("b", lose=len(c.shared.entries) - ordered, unnoticed=True)
        await until(lambda: b.committer.taken_over)
        c.scripts["a"].down = False
        await asyncio.wait([first], timeout=20)
        known = first.result().revision if first.done() and first.exception() is None else 0
        return {"INV-1"} if await reads_stale(c, b, entry, known) else set()


# -------------------------------------------------------------------------------------- taking over


async def another_intent_has_the_revision() -> set[str]:
    """By the time b compares, op2 has the revision that op1 has in the ledger."""
    async with cluster("ab") as c:
        b, told = await lose_committed(c, then=("op2",))
        await until(lambda: b.committer.taken_over)
        b.submit([put("op3", b"m")])
        await quiet()
        return broken_promises(c, [("op1", told)])


async def acknowledged_and_lost_from_the_log() -> set[str]:
    """A client knows of op1, the new leader's log does not. A cache has the key as it was
    before.
    """
    async with cluster("ab") as c:
        entry = cached(c, b"k")
        b, told = await lose_committed(c)
        await until(lambda: b.committer.taken_over)
        return {"INV-1"} if await reads_stale(c, b, entry, told.revision) else set()


async def read_before_taking_over() -> set[str]:
    async with cluster("ab") as c:
        entry = cached(c, b"k")
        await c.lead("a")
        await c.settled()
        ordered = len(c.shared.entries)
        told = await answer(c["a"], put("op1"))
        gate(c, "b", "take_over")
        c.shared.elect("b", lose=len(c.shared.entries) - ordered)
        await held(c, "b", "take_over")
        return {"INV-1"} if await reads_stale(c, c["b"], entry, told.revision) else set()


async def retried_after_the_log_lost_it() -> set[str]:
    async with cluster("ab") as c:
        b, told = await lose_committed(c)
        await until(lambda: b.committer.taken_over)
        again = await answer(b, put("op1"))
        return broken_promises(c, [("op1", told), ("op1", again)])


async def pending_is_ordered_again() -> set[str]:
    async with cluster("ab") as c:
        committing = gate(c, "b", "append")
        b, _ = await lose_committed(c, then=("op2",))
        await held(c, "b", "append")
        entry = cached(c, b"k")
        committing.set()
        await until(lambda: b.machine.settled.revision == 2)
        return {"INV-1"} if await reads_stale(c, b, entry, 2) else set()


async def watchers_across_a_rebase() -> set[str]:
    async with cluster("abc") as c:
        c.shared.members["c"].lags = True
        feeds = Feeds(c)
        b, _ = await lose_committed(c)
        c.shared.members["c"].lags = False
        c.shared.pump()
        await until(lambda: b.committer.taken_over)
        await answer(b, put("op2"))
        await c.settled()
        return broken_promises(c, (), feeds)


# -------------------------------------------------------------------------------------- the machine


def ordered(machine: Machine, *op_ids: str, key: bytes = b"k") -> None:
    machine.apply(Submit(tuple(put(op_id, key) for op_id in op_ids)), 1)


def settle(machine: Machine, count: int = 1) -> Settle:
    """Return the Settle of the next so many pending intents."""
    first = machine.settled.revision + 1
    batch = [machine.pending[first + n] for n in range(count)]
    records = tuple(
        Recorded(p.intent.op_id, p.body_hash, Applied(), p.intent.touched) for p in batch
    )
    return Settle(first, batch[-1].revision, batch[-1].digest, 1, records)


def rebase(base: Mark, *op_ids: str, key: bytes = b"k") -> Rebase:
    """Return a Rebase with one row per op_id."""
    rows, at, digest = [], base.revision, base.digest
    for op_id in op_ids:
        intent = put(op_id, key)
        at, digest = at + 1, roll(digest, op_id, intent.body_hash)
        body = (Recorded(op_id, intent.body_hash, Applied(), (key,)),)
        rows.append(LedgerRow(at, 1, "a", at, at, digest, 1, body))
    return Rebase(base, tuple(rows))


async def late_rebase() -> set[str]:
    """A Rebase of a deposed leader arrives when more than it brings is settled: a revision must not
    come twice.
    """
    machine = Machine()
    late = rebase(Mark(), "op1")
    machine.apply(late, 1)
    ordered(machine, "op2")
    machine.apply(settle(machine), 1)
    machine.apply(late, 1)
    ordered(machine, "op3")
    return {"INV-6"} if machine.revision != 3 or machine.settled.revision != 2 else set()


async def rebase_on_a_settled_revision_that_was_lost() -> set[str]:
    machine = Machine()
    other = rebase(Mark(), "op1", "op2")
    effects = machine.apply(Rebase(mark_of(other.rows[0]), other.rows[1:]), 1)
    jumps = any(
        settled.previous + len(settled.records) != settled.last for settled in effects.settled
    )
    return {"INV-6"} if jumps else set()


async def floor_over_a_known_key() -> set[str]:
    """The key was touched at revision 1; the ledger changed it again in a row that this log never
    held.
    """
    machine = Machine()
    ordered(machine, "op1")
    machine.apply(settle(machine), 1)
    machine.apply(rebase(machine.settled, "op2"), 1)
    as_of = 1
    return {"INV-5"} if machine.touched(b"k") <= as_of else set()


async def read_between_commit_and_settle() -> set[str]:
    async with cluster("ab") as c:
        await c.lead("a")
        await c.settled()
        entry = cached(c, b"k")
        c.shared.filter = lambda member, command: (
            NotApplied("no_quorum") if isinstance(decode(command), Settle) else None
        )
        told = await answer(c["a"], put("op1"))
        await until(lambda: c["b"].machine.revision == 1)
        assert c["b"].machine.settled.revision == 0
        return {"INV-1"} if await reads_stale(c, c["b"], entry, told.revision) else set()


async def read_between_commit_and_settle_of_a_range() -> set[str]:
    async with cluster("ab") as c:
        await c.lead("a")
        await answer(c["a"], put("op1"))
        await c.settled()
        entry = cached(c, b"k")
        c.shared.filter = lambda member, command: (
            NotApplied("no_quorum") if isinstance(decode(command), Settle) else None
        )
        delete = Intent("op2", FAR_MS, writes=(DeleteRange(b"a", b"z"),))
        told = await answer(c["a"], delete)
        assert c.database.ledger(2, 1)[0].body[0].keys == (b"k",)
        await until(lambda: c["b"].machine.revision == 2)
        assert c["b"].machine.settled.revision == 1
        return {"INV-1"} if await reads_stale(c, c["b"], entry, told.revision) else set()


async def range_that_was_deleted() -> set[str]:
    async with cluster("ab") as c:
        await c.lead("a")
        await answer(c["a"], put("op1"))
        entry = cached(c, b"k")
        told = await answer(c["a"], Intent("op2", FAR_MS, writes=(DeleteRange(b"k", b""),)))
        await c.settled()
        return {"INV-1"} if await reads_stale(c, c["b"], entry, told.revision) else set()


async def same_op_id_twice() -> set[str]:
    async with cluster("ab") as c:
        await c.lead("a")
        told = [("op1", await answer(c["a"], put("op1")))]
        told.append(("op1", await answer(c["b"], put("op1"))))
        return broken_promises(c, told)


async def same_op_id_after_the_window_forgot_it() -> set[str]:
    small = dataclasses.replace(QUIET, limits=Limits(window_max=2))
    async with cluster("a", settings=small) as c:
        a = await c.lead("a")
        told = [(op_id, await answer(a, put(op_id))) for op_id in ("op1", "op2", "op3", "op4")]
        await c.settled()
        assert a.recorded("op1") is None
        told.append(("op1", await answer(a, put("op1"))))
        return broken_promises(c, told)


async def overwritten_log() -> set[str]:
    """c has applied op2@1, which the log lost; in the new log op3 comes first and op2 is 2."""
    async with cluster("abc") as c:
        a, b = await c.lead("a"), c["b"]
        await c.settled()
        c.scripts["a"].down = True
        before = len(c.shared.entries)
        c.shared.members["b"].lags = True
        a.submit([put("op2")])
        await until(lambda: c["c"].machine.revision == 1)
        c.shared.members["b"].lags = False
        c.shared.elect("b", lose=len(c.shared.entries) - before)
        await until(lambda: b.committer.taken_over)
        await answer(b, put("op3", b"m"))
        entry = cached(c, b"k")
        told = await answer(b, put("op2"))
        await until(lambda: c.shared.members["c"].position == c.shared.members["b"].position)
        return {"INV-1"} if await reads_stale(c, c["c"], entry, told.revision) else set()


async def read_index_of_another_log() -> set[str]:
    """c's log is as long as the leader's, with entries that the leader's has lost."""
    async with cluster("abc") as c:
        a, b = await c.lead("a"), c["b"]
        await c.settled()
        c.scripts["a"].down = True
        before = len(c.shared.entries)
        for n in range(9):
            a.submit([put(f"lost{n}", b"m")])
        await until(lambda: c["c"].machine.revision == 9)
        entry = cached(c, b"k")
        c.shared.members["c"].ignores_loss = c.shared.members["c"].lags = True
        c.shared.elect("b", lose=len(c.shared.entries) - before)
        await until(lambda: b.committer.taken_over)
        told = await answer(b, put("op1"))
        assert c.shared.members["c"].position.index >= len(c.shared.entries)
        return {"INV-1"} if await reads_stale(c, c["c"], entry, told.revision) else set()


# ------------------------------------------------------------------------------- broadcast, restore


async def broadcast_over_a_change_of_leader() -> set[str]:
    async with cluster("ab") as c:
        await c.lead("a")
        c.broadcast.down = True
        await answer(c["a"], put("op1"))
        await c.settled()
        await c.lead("b")
        c.broadcast.down = False
        await answer(c["b"], put("op2"))
        await until(lambda: any(change.op_id == "op2" for change in c.broadcast.changes))
        return broken_promises(c)


async def store_lost_what_was_settled() -> set[str]:
    async with cluster("ab") as c:
        a = await c.lead("a")
        await answer(a, put("op1"))
        await c.settled()
        c.database.lose_rows(1)
        await c.shared.members["b"].transfer("b", timeout_s=1)
        await quiet()
        refused = [node.refusal for node in c.nodes.values()]
        written = [future for node in c.nodes.values() for future in node.submit([put("op2")])]
        await asyncio.wait(written, timeout=5)
        definite = all(w.done() and isinstance(w.exception(), NotApplied) for w in written)
        return set() if None not in refused and definite else {"INV-1"}


# ----------------------------------------------------------------------- rules that the model lacks


async def answered_before_commit() -> set[str]:
    """The commit's answer is lost and it never lands; meanwhile another leader's store says
    expired.
    """
    async with cluster("ab") as c:
        a = await c.lead("a")
        c.scripts["a"].fates["append"] = [AnswerLost(lands_after_s=None)]
        gate(c, "a", "take_over")
        deadline_ms = a.now_ms() + 1000
        first = a.submit([put("op1", deadline_ms=deadline_ms)])[0]
        await until(lambda: a.committer.unknown_commits == 1)
        c.scripts["a"].down = True
        await asyncio.sleep(2)
        await c.lead("b")
        told = await asyncio.wait_for(first, 60)
        await c.settled()
        return broken_promises(c, [("op1", told)], None)


async def settled_before_commit() -> set[str]:
    async with cluster("ab") as c:
        feeds = Feeds(c)
        a = await c.lead("a")
        c.scripts["a"].fates["append"] = [AnswerLost(lands_after_s=None)]
        first = a.submit([put("op1", deadline_ms=a.now_ms() + 1000)])[0]
        await until(lambda: a.committer.unknown_commits == 1)
        told = (await asyncio.wait([first], timeout=5))[0]
        return broken_promises(c, [("op1", future.result()) for future in told], feeds)


async def settle_overtakes_the_submit() -> set[str]:
    """A follower's log gets a Settle before the follower has applied the Submit."""
    async with cluster("ab") as c:
        a, b = await c.lead("a"), c["b"]
        await until(lambda: b.stamped)
        c.shared.members["b"].lags = True
        told = b.submit([put("op1")])[0]
        await until(lambda: a.machine.settled.revision == 1)
        c.shared.members["b"].lags = False
        c.shared.pump()
        return set() if isinstance((await told).outcome, Applied) else {"INV-3"}


async def late_intent() -> set[str]:
    async with cluster("a") as c:
        a = await c.lead("a")
        c.scripts["a"].down = True
        deadline_ms = a.now_ms() + 1000
        a.submit([put("op1", deadline_ms=deadline_ms)])
        await until(lambda: a.now_ms() > deadline_ms)
        c.scripts["a"].down = False
        await c.settled()
        return {"INV-4"} if c.value(b"k") is not None else set()


async def snapshot_without_last() -> set[str]:
    machine = Machine()
    ordered(machine, "op1")
    machine.apply(settle(machine), 1)
    ordered(machine, "op2")
    as_of = 1
    machine.restore(decode_state(encode_state(machine.capture(last=False))))
    return {"INV-5"} if machine.touched(b"k") <= as_of else set()


async def forgotten_key() -> set[str]:
    machine = Machine(Limits(recent_max=1))
    ordered(machine, "op1")
    ordered(machine, "op2", key=b"l")
    as_of = 0
    return {"INV-5"} if machine.touched(b"k") <= as_of else set()


async def another_retention_on_each_member() -> set[str]:
    """The leader forgets op_ids after an hour, the follower was started with a day."""
    hour_ms = 3600 * 1000
    leader, follower = Machine(Limits(window_ms=hour_ms)), Machine(Limits())
    database, now_ms = MemoryDatabase(), 1
    found = Found(b"h", 1 << 40, b"k" * 32, leader.limits)

    def both(command: Command) -> None:
        for machine in leader, follower:
            machine.apply(command, now_ms)

    def commit() -> None:
        batch = list(leader.pending.values())
        asks = needs(batch)
        facts = database.facts(asks.op_ids, asks.keys, asks.hashed, asks.blobs)
        evaluation = evaluate(batch, facts, now_ms)
        group = group_on(
            database.head(),
            term=1,
            committer="a",
            log_time_ms=now_ms,
            batch=batch,
            evaluation=evaluation,
        )
        assert isinstance(database.append(group), Appended)
        both(settle_of(group.row))

    both(found)
    both(Submit((put("x", value=b"old"),)))
    commit()
    now_ms += 2 * hour_ms
    both(Submit((put("x", value=b"old"),)))
    commit()
    as_of = database.head().last
    both(Submit((put("y", value=b"new"),)))
    commit()
    return (
        {"INV-1"}
        if follower.touched(b"k") <= as_of or follower.settled != leader.settled
        else set()
    )


async def broadcast_from_a_store_that_was_behind() -> set[str]:
    async with cluster("a", settings=dataclasses.replace(QUIET, publish_buffer_max=2)) as c:
        a = await c.lead("a")
        c.broadcast.down = True
        for n in range(6):
            await answer(a, put(f"op{n}"))
        await c.settled()
        right = copy.deepcopy(c.database.__dict__)
        c.database.lose_rows(6)
        c.broadcast.down = False
        await quiet()
        c.database.__dict__.update(right)
        await answer(a, put("last"))
        await quiet()
        return broken_promises(c)


async def machine_that_went_another_way() -> set[str]:
    async with cluster("ab") as c:
        a, b = await c.lead("a"), c["b"]
        await answer(a, put("op1"))
        await c.settled()
        entry = cached(c, b"k")
        c.shared.members["b"].replay = lambda: True  # type: ignore[method-assign]  # look at it before it is mended
        known = Recorded("op2", b"another", Applied())
        # the leader has forgotten it, this member has not
        b.machine.window.record(known, 1, b.machine.log_time_ms)
        told = await answer(a, put("op2", b"k", b"new"))
        await until(lambda: b.likeness.apart)
        return {"INV-1"} if await reads_stale(c, b, entry, told.revision) else set()


async def adoption_that_was_ordered_late() -> set[str]:
    machine = Machine()
    ordered(machine, "~a.1")
    row = LedgerRow(1, 1, "a", 1, machine.revision + 1, GENESIS_DIGEST, 1)
    ordered(machine, "~a.2")
    ordered(machine, "~a.3")
    given = {entry.revision: entry.intent.op_id for entry in machine.pending.values()}
    machine.apply(Adopt(row, 1 << 40), 1)
    ordered(machine, "op4", key=b"l")
    newest = machine.pending[machine.revision]
    return {"INV-6"} if given.get(newest.revision, "op4") != newest.intent.op_id else set()


async def two_clusters_on_one_store() -> set[str]:
    """Each reads from its memory what the other has overwritten."""
    database = MemoryDatabase()
    async with cluster("a", database=database) as ours:
        a = await ours.lead("a")
        await answer(a, put("op1"))
        await ours.settled()
        async with cluster("b", database=database, id="theirs") as theirs:
            theirs.shared.elect("b")
            b = theirs["b"]
            await until(lambda: b.committer.taken_over or b.refusal is not None)
            if b.refusal is not None:
                return set()
            told = await answer(b, put("op2", b"k", b"other"))
            return {"INV-1"} if a.machine.touched(b"k") < told.revision else set()


STORIES: list[tuple[Story, tuple[str, ...], str]] = [
    (late_transaction_of_a_deposed_leader, ("fence", "fence_row"), "INV-6"),
    (same_place_and_term_after_a_restore, ("fence",), "INV-6"),
    (nothing_takes_the_place_of_what_is_in_flight, ("fence_row",), "INV-1"),
    (deposed_leader_goes_on_behind_its_successor, ("fence_ordered",), "INV-1"),
    (another_intent_has_the_revision, ("digest_check", "fence_digest"), "INV-6"),
    (acknowledged_and_lost_from_the_log, ("reads_head",), "INV-1"),
    (acknowledged_and_lost_from_the_log, ("rebase_floor",), "INV-1"),
    (read_before_taking_over, ("readindex_taken",), "INV-1"),
    (retried_after_the_log_lost_it, ("rebase_rows", "store_dedupe"), "INV-3"),
    (pending_is_ordered_again, ("rebase_touch",), "INV-1"),
    (watchers_across_a_rebase, ("rebase_feeds",), "INV-6"),
    (late_rebase, ("rebase_stale",), "INV-6"),
    (rebase_on_a_settled_revision_that_was_lost, ("rebase_base",), "INV-6"),
    (floor_over_a_known_key, ("judge_floor",), "INV-5"),
    (floor_over_a_known_key, ("rebase_floor",), "INV-5"),
    (read_between_commit_and_settle, ("touch",), "INV-1"),
    (read_between_commit_and_settle_of_a_range, ("range_touch",), "INV-1"),
    (range_that_was_deleted, ("range_untouched",), "INV-1"),
    (same_op_id_twice, ("dedupe", "store_dedupe"), "INV-3"),
    (same_op_id_after_the_window_forgot_it, ("store_dedupe",), "INV-3"),
    (overwritten_log, ("reset",), "INV-1"),
    (read_index_of_another_log, ("readindex_entry",), "INV-1"),
    (broadcast_over_a_change_of_leader, ("publish",), "INV-6"),
    (store_lost_what_was_settled, ("refuse_behind",), "INV-1"),
    (answered_before_commit, ("answer_committed",), "INV-2"),
    (settled_before_commit, ("settle_committed",), "INV-2"),
    (settle_overtakes_the_submit, ("foresee_ours",), "INV-3"),
    (late_intent, ("late_expires",), "INV-4"),
    (snapshot_without_last, ("snapshot_floor",), "INV-5"),
    (forgotten_key, ("forget_floor",), "INV-5"),
    (another_retention_on_each_member, ("limits_ordered",), "INV-1"),
    (broadcast_from_a_store_that_was_behind, ("publish_whole",), "INV-6"),
    (machine_that_went_another_way, ("machines_alike",), "INV-1"),
    (two_clusters_on_one_store, ("store_identity",), "INV-1"),
    (adoption_that_was_ordered_late, ("adopt_above",), "INV-6"),
]
"""Story, the rules taken away, the promise that breaks then."""

ALL = {each.name: each for each in vars(protocol).values() if isinstance(each, PlantedFault)}


@pytest.mark.parametrize(
    "story", dict.fromkeys(story for story, _, _ in STORIES), ids=lambda story: story.__name__
)
def test_protocol_keeps_its_promises(story: Story) -> None:
    assert run(story) == set()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("story", "away", "promise"),
    STORIES,
    ids=[f"{'+'.join(away)}-{story.__name__}" for story, away, _ in STORIES],
)
def test_without_the_rule_the_promise_breaks(
    story: Story, away: tuple[str, ...], promise: str
) -> None:
    with planted(*away):
        assert promise in run(story)  # type: ignore[arg-type]


def test_every_rule_has_its_story() -> None:
    assert {name for _, away, _ in STORIES for name in away} == set(ALL)
