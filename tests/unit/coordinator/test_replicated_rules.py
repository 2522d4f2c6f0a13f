"""What each rule of the replicated store is for (docs/replicated-store.md): a story that keeps
every promise, and breaks one once the rule is away.

How each is taken away: tests/planted/replicated.py. R13 and R15 are Raft's and the start's; R7 is
kept by `readindex_entry`, because what is applied is settled (tests/planted/protocol.py); R11 by
the node, which stages nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence

import pytest

from backends.memory.member_file import MemoryFile
from coordinator.background.publisher import CURSOR
from coordinator.consensus import Coordinator
from coordinator.log import Position
from coordinator.machine.book import LEVEL
from coordinator.machine.commands import Amend, Cursor, Floor, Level, Submit, encode
from coordinator.machine.limits import Limits
from coordinator.machine.needs import Needs
from coordinator.replicated.witnesses import Telling, judge, outlived
from coordinator.settings import CoordinatorSettings
from kv.errors import BackendUnavailable, InvariantViolated, NewerCommand, NotApplied
from kv.model import Absent
from kv.ports import Change, Facts, Settled, StateCopy
from tests.planted import replicated
from tests.planted.registry import PlantedFault, planted
from tests.unit.coordinator.cluster import QUIET, answer, put
from tests.unit.coordinator.own_cluster import OwnCluster, own_cluster
from tests.virtual import run, until

Story = Callable[[], Awaitable[set[str]]]
SHORT = Limits(window_max=2, window_ms=10_000)


def with_limits(limits: Limits) -> CoordinatorSettings:
    return dataclasses.replace(QUIET, limits=limits)


async def knows_time(*nodes: Coordinator) -> None:
    await until(lambda: all(node.stamped for node in nodes))


async def unequal(c: OwnCluster) -> set[str]:
    """Say whether the members' ledgers or contents differ once all have applied everything."""
    await c.level()
    names = sorted(c.nodes)
    same = all(
        c.rows(name) == c.rows(names[0])
        and c[name].machine.book.content == c[names[0]].machine.book.content
        for name in names
    )
    return set() if same else {"R1"}


# ---------------------------------------------------------------------------- rows and evaluation


async def the_same_rows_everywhere() -> set[str]:
    async with own_cluster("abc") as c:
        a = await c.lead("a")
        for n in range(3):
            await answer(a, put(f"op{n}", b"k", guards=(Absent(b"k"),)))
        return await unequal(c)


async def deadline_between_two_clocks() -> set[str]:
    async with own_cluster("abc") as c:
        a = await c.lead("a")
        await answer(a, put("op1", deadline_ms=a.now_ms() + 5_000))
        await answer(a, put("op2", b"l", ttl_ms=1_000))
        return await unequal(c)


async def op_id_that_one_member_pruned() -> set[str]:
    async with own_cluster("abc", settings=with_limits(SHORT)) as c:
        a = await c.lead("a")
        for n in range(6):  # the window forgets the first ones, the stores know them
            await answer(a, put(f"op{n}", b"%d" % n))
        await asyncio.sleep(11)
        await prune_operations(c, "b")
        await answer(a, put("op0", b"other"))
        return await unequal(c)


async def prune_operations(c: OwnCluster, name: str) -> None:
    """Let a member prune the operations that are past the retention, with a dump of now."""
    await answer(next(iter(c.nodes.values())), put("time", b"time"))
    await c.level()
    await c.dump(name)
    node = c[name]
    assert node.own is not None
    await node.own.pruning.prune()


async def retention_that_is_raised_after_pruning() -> set[str]:
    async with own_cluster("abc", settings=with_limits(SHORT)) as c:
        a = await c.lead("a")
        for n in range(6):
            await answer(a, put(f"op{n}", b"%d" % n))
        await asyncio.sleep(11)
        await prune_operations(c, "b")
        longer = Limits(window_max=2, window_ms=3_600_000)
        await c.shared.members["a"].propose(encode(Amend(longer)))
        await answer(a, put("op0", b"other"))
        return await unequal(c)


# ----------------------------------------------------------------------------------------- digests


def evaluates_wrongly(node: Coordinator) -> None:
    """Let a member believe once that no key is there."""
    assert node.own is not None
    settling = node.own.settling
    right = settling._facts

    def facts(asks: Needs) -> Facts:
        settling._facts = right  # type: ignore[method-assign]
        found = right(asks)
        return Facts(found.head, {}, {}, {}, frozenset())

    settling._facts = facts  # type: ignore[method-assign]


async def one_member_evaluates_wrongly() -> set[str]:
    async with own_cluster("abc") as c:
        a = await c.lead("a")
        await answer(a, put("op1"))
        await c.level()
        evaluates_wrongly(c["b"])
        await answer(a, put("op2", guards=(Absent(b"k"),)))
        await asyncio.sleep(10)
        await answer(a, put("op3", b"l"))
        return {"R3"} if await unequal(c) else set()


async def the_leader_evaluates_wrongly() -> set[str]:
    async with own_cluster("abc") as c:
        a = await c.lead("a")
        await answer(a, put("op1"))
        await c.level()
        evaluates_wrongly(a)
        await answer(a, put("op2", guards=(Absent(b"k"),)))
        await asyncio.sleep(20)
        return {"R3"} if await unequal(c) else set()


async def two_members_differ() -> set[str]:
    async with own_cluster("ab") as c:
        a = await c.lead("a")
        await answer(a, put("op1"))
        await c.level()
        evaluates_wrongly(c["b"])
        await answer(a, put("op2", guards=(Absent(b"k"),)))
        await asyncio.sleep(5)
        return {"R3"} if a.refusal is None or c["b"].refusal is None else set()


async def two_members_differ_over_a_change_of_leader() -> set[str]:
    async with own_cluster("ab") as c:
        a = await c.lead("a")
        await answer(a, put("op1"))
        await c.level()
        evaluates_wrongly(c["b"])
        await answer(a, put("op2", guards=(Absent(b"k"),)))
        await until(lambda: a.refusal is not None and c["b"].refusal is not None)
        for node in c.nodes.values():  # nothing more is heard
            node.roster.tellings = lambda raft: iter(())  # type: ignore[method-assign]
        c.shared.elect("b")
        await asyncio.sleep(2)
        return {"R3"} if a.refusal is None or c["b"].refusal is None else set()


async def digests_of_a_lost_suffix() -> set[str]:
    async with own_cluster("abc") as c:
        a = await c.lead("a")
        await answer(a, put("op1"))
        before = len(c.shared.entries)
        for n in range(3):
            await answer(a, put(f"lost{n}"))
        await c.level()
        await asyncio.sleep(3)  # all have told of the rows that will be lost
        for name in "bc":  # they have not heard of the loss yet
            c.shared.members[name].lags = c.shared.members[name].ignores_loss = True
        await c.lead("a", lose=len(c.shared.entries) - before)
        for n in range(3):
            await answer(a, put(f"kept{n}", b"l"))
        await asyncio.sleep(3)
        return {"R3"} if a.refusal is not None or a.leading.term is None else set()


async def right_member_between_a_wrong_one_and_its_copy() -> set[str]:
    wrong, right = b"wrong", b"right"
    source = Telling("a", 7, wrong, True, True)
    copy = Telling("c", 7, wrong, True, False)
    verdict = judge({7: right}, True, [source, copy], 3)
    return {"R3"} if verdict == "diverged" else set()


async def difference_that_is_over_hides_a_new_one() -> set[str]:
    own = {3: b"right 3", 5: b"right 5", 7: b"wrong 7"}
    told = [
        Telling("b", 3, b"wrong 3", True, True),  # before it fetched its state
        Telling("b", 5, b"right 5", True, True),
        Telling("b", 7, b"right 7", True, True),
    ]
    for each in outlived(own, told):
        told.remove(each)
    told += [Telling("c", 5, b"right 5", True, True), Telling("c", 7, b"right 7", True, True)]
    return {"R3"} if judge(own, True, told, 3) != "diverged" else set()


async def member_restarts_with_a_state_that_nothing_has_confirmed() -> set[str]:
    async with own_cluster("abc") as c:
        a = await c.lead("a")
        await answer(a, put("op1"))
        await c.level()
        c["b"].roster.tellings = lambda raft: iter(())  # type: ignore[method-assign]
        c.shared.members["b"].fetch_snapshot()
        await until(lambda: c["b"].status().counts["store_installs"] == 1)
        await c.dump("b")
        await c.stop("b")
        b = await c.start("b")
        before = b.own is not None and b.own.keeping.witness
        if before:
            return {"R3"}
        await answer(a, put("op2"))
        await until(lambda: b.own is not None and b.own.keeping.witness)
        await until(lambda: not c.files["b"].fetched)
        return set()


# ------------------------------------------------------------------------------ dumps and restarts


async def power_cut_after_a_dump() -> set[str]:
    async with own_cluster("ab") as c:
        a = await c.lead("a")
        await answer(a, put("op1"))
        await c.level()
        await c.dump("b")
        at = c.dumps["b"].position.index
        c.stores["b"].power_cut()
        lost = c.files["b"].durable.note.index < at
        await c.stop("b")
        return {"INV-2"} if lost else set()


async def restarted(c: OwnCluster, *, then: Callable[[], None]) -> set[str]:
    """Write, stop b, change its file, start it, and write on."""
    a = await c.lead("a")
    await answer(a, put("op1"))
    await answer(a, put("op2", b"l"))
    await c.level()
    await c.dump("b")
    await answer(a, put("op3"))
    await c.level()
    await c.stop("b")
    then()
    try:
        await c.start("b")
        await answer(a, put("op4", b"m", guards=(Absent(b"l"),)))
        await until(lambda: c["b"].refusal is None, limit_s=20)
        return await unequal(c)
    except (BackendUnavailable, TimeoutError, AssertionError):
        return {"R1"}


async def damaged_file() -> set[str]:
    async with own_cluster("abc") as c:
        found = await restarted(c, then=c.files["b"].spoil)
        aside = bool(c.files["b"].aside)
        return found if aside else found | {"R1"}


async def file_that_is_older_than_the_dump() -> set[str]:
    async with own_cluster("abc") as c:
        a = await c.lead("a")
        await answer(a, put("op0", b"z"))
        await c.level()
        await c.stop("b")
        old = c.files["b"].image()
        await c.start("b")
        return await restarted(c, then=lambda: c.files["b"].replace_by(old))


async def missing_file() -> set[str]:
    async with own_cluster("abc") as c:
        return await restarted(c, then=c.files["b"].wipe)


async def file_of_another_log() -> set[str]:
    """The file is another member's of a run in which the log went another way."""
    async with own_cluster("abc") as c:
        a = await c.lead("a")
        await answer(a, put("op1"))
        await c.level()
        before = len(c.shared.entries)
        await answer(a, put("op2", b"k", b"lost"))
        await c.level()
        await c.stop("b")
        await c.lead("c", lose=len(c.shared.entries) - before)
        await knows_time(c["c"])
        await answer(c["c"], put("op3", b"k", b"kept"))
        await answer(c["c"], put("op4", b"l"))
        b = await c.start("b")
        await until(lambda: b.refusal is None)
        assert b.own is not None
        assert b.own.settling.prefix_losses <= 1
        return await unequal(c)


async def file_of_another_history() -> set[str]:
    async with own_cluster("ab") as other:
        z = await other.lead("a")
        await answer(z, put("op1", b"foreign"))
        await other.level()
        foreign = other.files["a"].image()
    async with own_cluster("abc") as c:
        a = await c.lead("b")
        await answer(a, put("op1"))
        await c.level()
        await c.stop("c")
        c.files["c"].replace_by(foreign)
        node = await c.start("c")
        await answer(a, put("op2", b"l"))
        try:
            await until(lambda: node.refusal is None, limit_s=20)
            return await unequal(c)
        except (TimeoutError, AssertionError):
            return {"R1"}


async def served_before_the_log_reaches_the_file() -> set[str]:
    async with own_cluster("ab") as c:
        a = await c.lead("a")
        await answer(a, put("op1"))
        await c.level()
        await c.stop("b")
        c.shared.late.clear()
        b = await c.start("b")
        c.shared.members["b"].lags = True
        return {"INV-1"} if b.refusal is None else set()


async def state_of_a_member_in_doubt() -> set[str]:
    async with own_cluster("ab") as c:
        a = await c.lead("a")
        await answer(a, put("op1"))
        await c.level()
        evaluates_wrongly(c["b"])
        await answer(a, put("op2", guards=(Absent(b"k"),)))
        await until(lambda: c["b"].refusal is not None)
        try:
            await c["b"].attach()
        except BackendUnavailable:
            return set()
        return {"R6"}


YOUNG = Limits(retention_revisions=1, retention_ms=1_000)


async def copy_that_takes_longer_than_the_next_dump() -> set[str]:
    """What goes with a dump is the file as it is later: by then floors may have been ordered, dumps
    put in place, and rows pruned below them.
    """
    async with own_cluster("ab", settings=with_limits(YOUNG), broadcasts=False) as c:
        a = await c.lead("a")
        await answer(a, put("op0"))
        await c.level()
        await c.dump("a")
        dump, copy, go = c.dumps["a"], c.stores["a"].copy, asyncio.Event()

        async def slow() -> StateCopy:
            await go.wait()
            return await copy()

        c.stores["a"].copy = slow  # type: ignore[method-assign]
        attaching = asyncio.ensure_future(a.attach())
        for n in range(1, 8):
            await answer(a, put(f"op{n}"))
        await asyncio.sleep(5)
        await answer(a, put("later"))
        assert a.own is not None
        await a.own.pruning.order()
        await c.level()
        await c.dump("a")
        await a.own.pruning.prune()
        go.set()
        state, b = await attaching, c["b"]
        await b.install(dump.snapshot, state)
        assert b.own is not None
        usable = b.own.condition.spoilt is None
        await a.own.pruning.prune()  # it goes on once the copy is made
        return set() if usable and a.own.pruning.rows else {"R6"}


# -------------------------------------------------------------------------------- floors, publisher


async def power_cut_after_pruning() -> set[str]:
    async with own_cluster("ab", settings=with_limits(YOUNG), broadcasts=False) as c:
        a = await c.lead("a")
        await answer(a, put("op0"))
        await c.level()
        await c.dump("b")
        for n in range(1, 8):
            await answer(a, put(f"op{n}"))
        await asyncio.sleep(5)
        await answer(a, put("later"))
        assert a.own is not None
        await a.own.pruning.order()
        await c.level()
        b = c["b"]
        assert b.own is not None
        assert b.machine.book.floor > 1
        await b.own.pruning.prune()
        left = {row.index for row in c.rows("b")}
        needed = {row.index for row in c.rows("a") if row.index > c.dumps["b"].position.index}
        return set() if needed <= left else {"INV-2"}


async def floor_and_publisher() -> set[str]:
    async with own_cluster("ab", settings=with_limits(YOUNG)) as c:
        c.broadcast.down = True
        a = await c.lead("a")
        for n in range(8):
            await answer(a, put(f"op{n}"))
        await asyncio.sleep(5)
        await answer(a, put("later"))
        assert a.own is not None
        await a.own.pruning.order()
        await c.level()
        return {"INV-6"} if a.machine.book.floor > 0 else set()


async def broadcast_over_a_change_of_leader() -> set[str]:
    async with own_cluster("ab") as c:
        c.broadcast.down = True
        a = await c.lead("a")
        await knows_time(c["b"])
        for n in range(3):
            await answer(a, put(f"op{n}", b"%d" % n))
        await c.level()
        b = await c.lead("b")
        c.broadcast.down = False
        await answer(b, put("op3", b"3"))
        await asyncio.sleep(10)
        told = {change.revision for change in c.broadcast.changes}
        return set() if told == {1, 2, 3, 4} else {"INV-6"}


async def leader_dies_before_the_broker_confirms() -> set[str]:
    async with own_cluster("ab") as c:
        c.broadcast.down = True
        a = await c.lead("a")
        await answer(a, put("op0"))
        await asyncio.sleep(5)
        return {"INV-6"} if a.machine.book.cursors.get(CURSOR, 0) > 0 else set()


async def position_that_was_ordered_late() -> set[str]:
    async with own_cluster("ab") as c:
        a = await c.lead("a")
        confirmed, right = asyncio.Event(), c.broadcast.publish

        async def slow(changes: Sequence[Change], *, timeout_s: float) -> None:
            await confirmed.wait()
            await right(changes, timeout_s=timeout_s)

        c.broadcast.publish = slow  # type: ignore[method-assign]
        for n in range(3):
            await answer(a, put(f"op{n}", b"%d" % n))
            await asyncio.sleep(0.1)
        # a deposed leader's command arrives only now: what lies before it may be pruned
        await c.shared.members["a"].propose(encode(Cursor(CURSOR, 2)))
        confirmed.set()
        await asyncio.sleep(5)
        told = {change.revision for change in c.broadcast.changes}
        return set() if told == {1, 3} else {"INV-6"}


async def file_that_takes_nothing() -> set[str]:
    small = dataclasses.replace(QUIET, unwritten_bytes_max=1_000)
    async with own_cluster("ab", settings=small) as c:
        a = await c.lead("a")
        c.files["b"].refuse_writes("disk full")
        for n in range(50):
            await answer(a, put(f"op{n}", value=b"v" * 100))
        await asyncio.sleep(1)
        b = c["b"]
        unbounded = c.stores["b"].unwritten_bytes > 2_000
        if not unbounded:
            assert b.status().store_state == "full"
            c.files["b"].refuse_writes("")
            await c.level()
            assert not await unequal(c)
        return {"R9"} if unbounded else set()


# ------------------------------------------------------------------------ overwritten logs, levels


async def applied_log_that_is_overwritten() -> set[str]:
    async with own_cluster("ab") as c:
        a = await c.lead("a")
        await knows_time(c["b"])
        await answer(a, put("op1"))
        await c.level()
        before = len(c.shared.entries)
        await answer(a, put("op2", b"k", b"lost"))
        await c.level()
        b = await c.lead("b", lose=len(c.shared.entries) - before)
        await answer(b, put("op3", b"k", b"kept"))
        await c.level()
        c.files["c"] = MemoryFile()
        await c.start("c")  # it knows nothing but the log as it is now
        return {"INV-1"} if await unequal(c) else set()


async def commands_without_a_row_that_are_lost_with_their_terms() -> set[str]:
    """A member was alone in hearing of later terms, and of a floor that was ordered in them."""
    async with own_cluster("abc", broadcasts=False) as c:
        a = await c.lead("a")
        for n in range(3):
            await answer(a, put(f"op{n}"))
        await c.level()
        before, term = len(c.shared.entries), c.shared.term
        c.shared.term += 5
        await c.lead("a")
        for lost in (Floor(3), Cursor("x", 1), Cursor("x", 2)):
            await c.shared.members["a"].propose(encode(lost))
        await c.level()
        await c.stop("b")
        c.shared.depose()
        c.shared.term = term
        await c.lead("c", lose=len(c.shared.entries) - before)
        for kept in (Cursor("y", 1), Floor(2)):
            await c.shared.members["c"].propose(encode(kept))
        await answer(c["c"], put("op3"))
        b = await c.start("b")
        await until(lambda: b.refusal is None)
        await answer(c["c"], put("op4"))
        floors = {c.stores[name].tables.floor() for name in "abc"}
        return await unequal(c) | (set() if floors == {2} else {"R12"})


async def watchers_across_a_lost_suffix() -> set[str]:
    async with own_cluster("ab") as c:
        a, told = await c.lead("a"), list[Settled]()
        await answer(a, put("op1"))
        before = len(c.shared.entries)
        c["b"].listen(told.append)
        for n in range(3):
            await answer(a, put(f"lost{n}"))
        await c.level()
        await c.lead("a", lose=len(c.shared.entries) - before)
        await answer(a, put("kept"))
        await c.level()
        undone = [event.undone_after for event in told if event.undone_after is not None]
        newest = told[-1].records[-1].op_id if told[-1].records else ""
        return set() if undone == [1] and newest == "kept" else {"INV-6"}


async def watchers_of_a_leader_whose_log_takes_nothing() -> set[str]:
    """A leader cannot commit its term's first command: what no log has is cut off its file."""
    async with own_cluster("ab") as c:
        a, told = await c.lead("a"), list[Settled]()
        await answer(a, put("op1"))
        before = len(c.shared.entries)
        a.listen(told.append)
        for n in range(3):
            await answer(a, put(f"lost{n}"))
        await c.level()
        c.shared.filter = lambda member, command: NotApplied("no_quorum")
        c.shared.elect("a", lose=len(c.shared.entries) - before)
        await until(lambda: a.refusal is None, limit_s=20)
        c.shared.filter = lambda member, command: None
        await until(lambda: a.leading.taken_over, limit_s=20)
        await answer(a, put("kept"))
        undone = [event.undone_after for event in told if event.undone_after is not None]
        newest = told[-1].records[-1].op_id if told[-1].records else ""
        return set() if undone == [1] and newest == "kept" else {"INV-6"}


async def watchers_across_a_lost_history() -> set[str]:
    """A quorum has lost its whole log, and the next leader founds another history."""
    async with own_cluster("ab") as c:
        a, told = await c.lead("a"), list[Settled]()
        c["b"].listen(told.append)
        for n in range(3):
            await answer(a, put(f"lost{n}"))
        await c.level()
        await c.lead("a", lose=len(c.shared.entries))
        await answer(a, put("kept"))
        await c.level()
        undone = [event.undone_after for event in told if event.undone_after is not None]
        newest = told[-1].records[-1].op_id if told[-1].records else ""
        return set() if undone == [0] and newest == "kept" else {"INV-6"}


async def position_across_a_lost_suffix() -> set[str]:
    """Whoever kept a position of the lost suffix would miss what took its place."""
    async with own_cluster("ab") as c:
        a = await c.lead("a")
        await answer(a, put("op1"))
        before = len(c.shared.entries)
        for n in range(3):
            await answer(a, put(f"lost{n}"))
        await c.level()
        kept = [(revision, a.term_of(revision)) for revision in range(1, 5)]
        b = await c.lead("b", lose=len(c.shared.entries) - before)
        for n in range(5):
            await answer(b, put(f"kept{n}"))
        await c.level()
        ends = [[node.holds_to(*each) for each in kept] for node in c.nodes.values()]
        assert [b.term_of(revision) for revision in range(7)] == [0, 1, 2, 2, 2, 2, 2]
        await c.dump("a")
        await c.stop("a")
        a = await c.start("a")
        ends.append([a.holds_to(*each) for each in kept])
        return set() if ends == [[1, 1, 1, 1]] * 3 else {"INV-6"}


async def watchers_whose_member_fetches_what_took_the_place_of_a_lost_suffix() -> set[str]:
    """Its file ends behind what the log has lost, so that all it hears of the loss is a state."""
    async with own_cluster("ab") as c:
        a, told = await c.lead("a"), list[Settled]()
        await answer(a, put("op1"))
        before = len(c.shared.entries)
        c["b"].listen(told.append)
        for n in range(3):
            await answer(a, put(f"lost{n}"))
        await c.level()
        c.shared.members["b"].lags = c.shared.members["b"].ignores_loss = True
        await c.lead("a", lose=len(c.shared.entries) - before)
        for n in range(5):
            await answer(a, put(f"kept{n}"))
        c.shared.members["b"].fetch_snapshot()
        await until(lambda: c["b"].settled.last == a.settled.last, limit_s=20)
        undone = [event.undone_after for event in told if event.undone_after is not None]
        return set() if undone == [1] and told[-1].previous == 1 else {"INV-6"}


async def file_that_was_cut_back_to_nothing() -> set[str]:
    """A quorum has lost its whole log; a member's file was cut back to its beginning meanwhile."""
    async with own_cluster("ab") as c:
        a = await c.lead("a")
        await answer(a, put("lost"))
        await c.level()
        await c.stop("b")
        c.files["b"].commit((lambda tables: tables.cut_back(0),))
        c.files["b"].sync()
        await c.lead("a", lose=len(c.shared.entries))
        await answer(a, put("kept"))
        node = await c.start("b")
        try:
            await until(lambda: node.refusal is None and node.machine.revision == 1, limit_s=20)
        except AssertionError:
            return {"R12"}
        return await unequal(c)


async def cache_across_a_lost_suffix() -> set[str]:
    async with own_cluster("ab") as c:
        a = await c.lead("a")
        await answer(a, put("op1"))
        before = len(c.shared.entries)
        await answer(a, put("op2"))
        await c.level()
        space, as_of = a.space, a.ordered
        b = await c.lead("b", lose=len(c.shared.entries) - before)
        await answer(b, put("op3", b"k", b"other"))
        return {"INV-1"} if b.space == space and b.touched(b"k") <= as_of else set()


async def intent_before_the_history() -> set[str]:
    async with own_cluster("ab") as c:
        c.shared.elect("a")
        early = encode(Submit((put("early"),)))
        await c.shared.members["a"].propose(early)
        a = c["a"]
        await until(lambda: a.leading.taken_over)
        return {"R1"} if a.machine.revision else set()


async def level_that_nobody_speaks() -> set[str]:
    async with own_cluster("a") as c:
        a = await c.lead("a")
        try:
            a.apply(Position(99, 1), 0, encode(Level(LEVEL + 1)))
        except NewerCommand:
            return set()
        return {"R1"}


async def level_that_one_member_does_not_speak() -> set[str]:
    async with own_cluster("ab") as c:
        a = await c.lead("a")
        c["b"].roster._synced = True
        c.shared.members["b"].replica.note = lambda: b""  # type: ignore[method-assign]
        return {"R14"} if a.level_spoken() > 0 else set()


STORIES: list[tuple[Story, tuple[str, ...], str]] = [
    (the_same_rows_everywhere, ("r1_row_time",), "R1"),
    (deadline_between_two_clocks, ("r2_own_clock",), "R1"),
    (op_id_that_one_member_pruned, ("r2_known_by_pruning",), "R1"),
    (retention_that_is_raised_after_pruning, ("r2_retention_raised",), "R1"),
    (one_member_evaluates_wrongly, ("r3_compare",), "R3"),
    (the_leader_evaluates_wrongly, ("r3_compare",), "R3"),
    (two_members_differ, ("r3_majority",), "R3"),
    (two_members_differ, ("r3_count",), "R3"),
    (two_members_differ_over_a_change_of_leader, ("r3_undecided_stays",), "R3"),
    (digests_of_a_lost_suffix, ("r3_same_log",), "R3"),
    (right_member_between_a_wrong_one_and_its_copy, ("r3_witness",), "R3"),
    (difference_that_is_over_hides_a_new_one, ("r3_outlived",), "R3"),
    (member_restarts_with_a_state_that_nothing_has_confirmed, ("r3_witness_restarts",), "R3"),
    (power_cut_after_a_dump, ("r4_durable",), "INV-2"),
    (damaged_file, ("r5_file_whole",), "R1"),
    (missing_file, ("r5_dump_file",), "R1"),
    (file_that_is_older_than_the_dump, ("r5_dump_file",), "R1"),
    (file_of_another_log, ("r5_file_log",), "R1"),
    (file_of_another_history, ("r5_history",), "R1"),
    (served_before_the_log_reaches_the_file, ("r5_head_wait",), "INV-1"),
    (state_of_a_member_in_doubt, ("r6_sure",), "R6"),
    (copy_that_takes_longer_than_the_next_dump, ("r6_pruned_copy",), "R6"),
    (power_cut_after_pruning, ("r8_prune_dump",), "INV-2"),
    (floor_and_publisher, ("r8_prune_cursor",), "INV-6"),
    (file_that_takes_nothing, ("r9_bound",), "R9"),
    (broadcast_over_a_change_of_leader, ("r10_cursor_ordered",), "INV-6"),
    (leader_dies_before_the_broker_confirms, ("r10_cursor_after",), "INV-6"),
    (position_that_was_ordered_late, ("r10_cursor_follows",), "INV-6"),
    (applied_log_that_is_overwritten, ("r12_reset",), "INV-1"),
    (applied_log_that_is_overwritten, ("r12_cut_back",), "INV-1"),
    (commands_without_a_row_that_are_lost_with_their_terms, ("r12_marks_stay",), "R12"),
    (watchers_across_a_lost_suffix, ("r12_watchers",), "INV-6"),
    (watchers_of_a_leader_whose_log_takes_nothing, ("r12_watchers",), "INV-6"),
    (watchers_across_a_lost_history, ("r12_watchers",), "INV-6"),
    (position_across_a_lost_suffix, ("r12_kept_positions",), "INV-6"),
    (
        watchers_whose_member_fetches_what_took_the_place_of_a_lost_suffix,
        ("r12_watchers",),
        "INV-6",
    ),
    (file_that_was_cut_back_to_nothing, ("r12_cut_to_nothing",), "R12"),
    (cache_across_a_lost_suffix, ("r12_cache_term",), "INV-1"),
    (intent_before_the_history, ("r14_founded_first",), "R1"),
    (level_that_nobody_speaks, ("r14_speaks",), "R1"),
    (level_that_one_member_does_not_speak, ("r14_all_speak",), "R14"),
]
"""Story, the rules taken away, the promise that breaks then."""

ALL = {each.name: each for each in vars(replicated).values() if isinstance(each, PlantedFault)}


@pytest.mark.parametrize(
    "story", dict.fromkeys(story for story, _, _ in STORIES), ids=lambda story: story.__name__
)
def test_replicated_store_keeps_its_promises(story: Story) -> None:
    assert run(story) == set()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("story", "away", "promise"),
    STORIES,
    ids=[f"{'+'.join(away)}-{story.__name__}" for story, away, _ in STORIES],
)
def test_without_the_rule_the_promise_breaks(
    story: Story, away: tuple[str, ...], promise: str
) -> None:
    found: set[str] = set()
    with planted(*away):
        try:
            found = run(story)  # type: ignore[arg-type]
        except BaseExceptionGroup as died:
            # a member ended itself, because what it met is impossible with the rule
            found = {promise} if died.subgroup(InvariantViolated) is not None else set()
        assert promise in found


def test_every_rule_has_its_story() -> None:
    assert {name for _, away, _ in STORIES for name in away} == set(ALL)
