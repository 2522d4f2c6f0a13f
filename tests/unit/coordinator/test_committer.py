"""The leader's loop, one trouble at a time: what the store does, what clients hear, what the ledger
holds after it.
"""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from backends.memory.database import MemoryDatabase
from backends.memory.faults import AnswerLost, Fails
from backends.memory.store import MemoryStore
from coordinator.commit import groups
from coordinator.commit.adoption import next_voters
from coordinator.machine.commands import Rebase, Settle, Submit, decode
from coordinator.machine.limits import Limits
from kv.errors import BackendUnavailable, BadRequest, InvariantViolated, NotApplied, OutcomeUnknown
from kv.model import (
    GENESIS,
    Again,
    Answer,
    Applied,
    AtRevision,
    Cancel,
    Compare,
    DeleteRange,
    Expired,
    Group,
    Intent,
    LedgerRow,
    Mismatch,
    Put,
    PutWith,
    Reference,
    Refused,
    value_hash,
)
from kv.ports import Identity, Settled
from tests.unit.coordinator.audit import Feeds, broken_promises, records
from tests.unit.coordinator.cluster import FAR_MS, QUIET, Cluster, answer, cluster, delete, put
from tests.virtual import run, until


def rows(c: Cluster) -> list[LedgerRow]:
    """Return the ledger's rows with intents."""
    return [row for row in c.database.ledger(0, 1 << 30) if row.body]


def proposals(c: Cluster, kind: type) -> int:
    return sum(
        isinstance(decode(e.command), kind) for e in c.shared.entries if e.command is not None
    )


# ------------------------------------------------------------------------------------ plain working


def test_outcomes_of_all_kinds_in_order() -> None:
    async def story() -> None:
        async with cluster("ab") as c:
            a = await c.lead("a")
            assert await answer(a, put("op1")) == Answer(1, Applied())
            assert await answer(a, put("op2", guards=(AtRevision(b"k", (9,)),))) == Answer(
                2, Refused(0, 1)
            )
            assert await answer(a, put("op1")) == Answer(1, Again(1, Applied()))
            assert await answer(a, put("op1", value=b"other")) == Answer(1, Mismatch())
            assert await answer(a, put("op2", guards=(AtRevision(b"k", (9,)),))) == Answer(
                2, Again(2, Refused(0, 1))
            )
            assert await answer(a, Cancel("op3")) == Answer(3, Expired())
            assert await answer(c["b"], put("op3")) == Answer(3, Again(3, Expired()))
            assert await answer(a, Cancel("op1")) == Answer(1, Again(1, Applied()))
            assert await answer(a, delete("op4")) == Answer(4, Applied())
            assert await answer(a, delete("op5")) == Answer(5, Applied())
            assert [record.keys for record in records(c).values()] == [(b"k",), (), (), (b"k",), ()]
            await c.settled()

    run(story)


def test_what_is_ordered_while_a_group_is_at_the_store_goes_as_one_group() -> None:
    async def story() -> None:
        async with cluster("a") as c:
            a = await c.lead("a")
            c.scripts["a"].gates["append"] = gate = asyncio.Event()
            futures = a.submit([put("op0")])
            await until(lambda: "append" in c.scripts["a"].waiting)
            for n in range(1, 8):
                futures += a.submit([put(f"op{n}")])
            await until(lambda: a.machine.revision == 8)
            gate.set()
            await asyncio.gather(*futures)
            assert [len(row.body) for row in rows(c)] == [1, 7]

    run(story)


def test_groups_are_bounded_by_count_and_bytes() -> None:
    async def story() -> None:
        settings = dataclasses.replace(QUIET, group_intents_max=3, group_bytes_max=4000)
        async with cluster("a", settings=settings) as c:
            a = await c.lead("a")
            await asyncio.gather(*a.submit([put(f"op{n}") for n in range(7)]))
            await asyncio.gather(*a.submit([put(f"big{n}", value=b"v" * 3000) for n in range(2)]))
            await asyncio.gather(*a.submit([put("huge", value=b"v" * 9000), put("small")]))
            assert [len(row.body) for row in rows(c)] == [3, 3, 1, 1, 1, 1, 1]

    run(story)


def test_a_value_is_compared_by_order_with_a_staged_one_that_was_just_written() -> None:
    async def story() -> None:
        async with cluster("a") as c:
            a = await c.lead("a")
            reference = await c.stores["a"].stage("op1", b"m" * 100, timeout_s=1)
            below = (Compare(b"k", b"", "value", "<", b"n"),)
            kept = Intent("op3", FAR_MS, (), (PutWith(b"k", b"", keep_value=True),))
            futures = a.submit(
                [
                    Intent("op1", FAR_MS, (), (Put(b"k", reference),)),
                    put("op2", key=b"x", guards=below),
                    kept,
                    put("op4", key=b"y", guards=below),
                    put("op5", key=b"z", guards=(Compare(b"k", b"", "value", ">", b"n"),)),
                ]
            )
            outcomes = [each.outcome for each in await asyncio.gather(*futures)]
            assert outcomes == [Applied(), Applied(), Applied(), Applied(), Refused(0, 3)]
            assert [len(row.body) for row in rows(c)] == [1, 2, 2]

    run(story)


def test_groups_are_bounded_by_the_keys_that_ranges_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "KEYS_BYTES_MAX", 800)

    async def story() -> None:
        async with cluster("ab") as c:
            a = await c.lead("a")
            keys = [b"%d/%02d" % (n, m) for n in range(3) for m in range(15)]
            await asyncio.gather(*a.submit([put(f"~p{n}", key=key) for n, key in enumerate(keys)]))
            ends = [
                Intent(f"end{n}", FAR_MS, (), (DeleteRange(b"%d/" % n, b"%d0" % n),))
                for n in range(3)
            ]
            before = len(rows(c))
            await asyncio.gather(*a.submit(ends))
            assert [len(row.body) for row in rows(c)[before:]] == [1, 1, 1]
            assert c.value(keys[-1]) is None
            await c.settled()

    run(story)


def test_facts_are_read_only_where_they_are_needed() -> None:
    async def story() -> None:
        async with cluster("a") as c:
            a = await c.lead("a")
            calls = c.scripts["a"].calls
            calls.clear()
            await answer(a, put("~n1"))
            assert [call for call in calls if call in {"facts", "append"}] == ["append"]
            calls.clear()
            await answer(a, put("client"))
            assert [call for call in calls if call in {"facts", "append"}] == ["facts", "append"]

    run(story)


def test_next_group_does_not_wait_for_the_settle_but_no_more_than_so_many() -> None:
    async def story() -> None:
        async with cluster("ab", settings=dataclasses.replace(QUIET, settles_in_flight_max=3)) as c:
            a = await c.lead("a")
            c.shared.members["a"].lags = False
            original = c.shared.members["a"].propose
            held: list[asyncio.Future[object]] = []

            def hold(command: bytes) -> asyncio.Future[object]:
                if isinstance(decode(command), Settle):
                    held.append(asyncio.get_running_loop().create_future())
                    return held[-1]
                return original(command)  # type: ignore[return-value]

            c.shared.members["a"].propose = hold  # type: ignore[method-assign, assignment]
            for n in range(5):
                a.submit([put(f"op{n}", f"k{n}".encode())])
                await asyncio.sleep(0.01)
            await asyncio.sleep(1)
            assert len(held) == len(rows(c)) == 3

    run(story)


def test_a_settle_that_nobody_hears_of_makes_the_leader_take_over_again_even_under_load() -> None:
    async def story() -> None:
        async with cluster("a", settings=dataclasses.replace(QUIET, propose_timeout_s=2.0)) as c:
            a = await c.lead("a")
            original = c.shared.members["a"].propose
            silent = [True]

            def hold(command: bytes) -> asyncio.Future[object]:
                if silent and isinstance(decode(command), Settle):
                    silent.pop()
                    return asyncio.get_running_loop().create_future()
                return original(command)  # type: ignore[return-value]

            c.shared.members["a"].propose = hold  # type: ignore[method-assign, assignment]
            for n in range(60):
                a.submit([put(f"op{n}")])
                await asyncio.sleep(0.1)
            await c.settled()
            assert a.committer.takeovers == 2
            assert broken_promises(c) == set()

    run(story)


def test_a_group_that_is_too_much_for_the_store_gets_through_in_smaller_ones() -> None:
    async def story() -> None:
        async with cluster("a") as c:
            a = await c.lead("a")
            original = c.stores["a"].append

            async def narrow(group: Group, *, timeout_s: float) -> object:
                if len(group.row.body) > 3:
                    raise BackendUnavailable("memory", "too much at once")
                return await original(group, timeout_s=timeout_s)

            c.stores["a"].append = narrow  # type: ignore[method-assign, assignment]
            futures = a.submit([put(f"op{n}") for n in range(40)])
            assert {(await future).outcome for future in futures} == {Applied()}
            await c.settled()

    run(story)


# ------------------------------------------------------------------------------------- lost answers


@pytest.mark.parametrize(
    "lands_after_s", [0.0, 0.00001, 0.5, None], ids=["landed", "at once", "late", "never"]
)
def test_lost_answer_is_found_out_and_never_assumed(lands_after_s: float | None) -> None:
    async def story() -> None:
        async with cluster("ab") as c:
            feeds = Feeds(c)
            a = await c.lead("a")
            c.scripts["a"].fates["append"] = [AnswerLost(lands_after_s)]
            told = [("op1", await answer(a, put("op1")))]
            told.append(("op2", await answer(c["b"], put("op2"))))
            await asyncio.sleep(2)
            await c.settled()
            assert [t.outcome for _, t in told] == [Applied(), Applied()]
            assert sum(len(row.body) for row in rows(c)) == 2
            assert broken_promises(c, told, feeds) == set()
            assert a.committer.unknown_commits == 1

    run(story)


def test_lost_answer_to_taking_over_is_asked_again() -> None:
    async def story() -> None:
        async with cluster("a") as c:
            c.scripts["a"].fates["take_over"] = [
                AnswerLost(0.0),
                AnswerLost(None),
                Fails(),
                AnswerLost(0.3),
            ]
            a = await c.lead("a")
            assert await answer(a, put("op1")) == Answer(1, Applied())
            assert broken_promises(c) == set()

    run(story)


def test_commit_that_hangs_past_its_time_out_is_unknown() -> None:
    async def story() -> None:
        async with cluster("a") as c:
            a = await c.lead("a")
            original, hung = c.stores["a"].append, asyncio.Event()

            async def hang(group: object, *, timeout_s: float) -> object:
                await original(group, timeout_s=timeout_s)  # type: ignore[arg-type]
                c.stores["a"].append = original  # type: ignore[method-assign]
                hung.set()
                return await asyncio.get_running_loop().create_future()

            c.stores["a"].append = hang  # type: ignore[method-assign, assignment]
            assert await answer(a, put("op1")) == Answer(1, Applied())
            assert hung.is_set()
            assert len(rows(c)) == 1

    run(story)


# -------------------------------------------------------------------------------- store unavailable


def test_store_down_keeps_what_is_pending_and_then_refuses_definitely() -> None:
    async def story() -> None:
        async with cluster("ab") as c:
            a = await c.lead("a")
            c.scripts["a"].down = True
            first = a.submit([put("op1")])[0]
            await asyncio.sleep(c.settings.stall_s + 0.1)
            before = len(c.shared.entries)
            for node in a, c["b"]:
                with pytest.raises(NotApplied) as refused:
                    await answer(node, put("op2"))
                assert refused.value.reason == "store_away"  # adopting would be the wrong remedy
            assert len(c.shared.entries) == before  # never handed to the log (INV-4)
            assert not first.done()
            assert a.committer.store_trouble is not None
            # readiness says so, on every member
            assert a.status().store_trouble == a.committer.store_trouble
            assert c["b"].status().store_trouble is not None
            calls = len(c.scripts["a"].calls)
            await asyncio.sleep(60)
            assert len(c.scripts["a"].calls) - calls < 300  # two loops with a bounded back-off
            c.scripts["a"].down = False
            assert await first == Answer(1, Applied())
            await c.settled()
            assert await answer(a, put("op3")) == Answer(2, Applied())
            assert a.committer.store_trouble is None

    run(story)


def test_deadline_that_passes_while_the_store_is_down_expires() -> None:
    async def story() -> None:
        async with cluster("a") as c:
            a = await c.lead("a")
            c.scripts["a"].down = True
            first = a.submit([put("op1", deadline_ms=a.now_ms() + 500), put("op2")])
            await asyncio.sleep(1)
            c.scripts["a"].down = False
            assert await first[0] == Answer(1, Expired())
            assert await first[1] == Answer(2, Applied())

    run(story)


def test_late_at_apply_takes_a_revision_and_expires() -> None:
    async def story() -> None:
        async with cluster("a") as c:
            a = await c.lead("a")
            assert await answer(a, put("op1", deadline_ms=a.now_ms() - 1)) == Answer(1, Expired())
            assert a.recorded("op1") == Answer(1, Expired())

    run(story)


def test_missing_blob_expires_the_intent_alone() -> None:
    async def story() -> None:
        async with cluster("a") as c:
            a = await c.lead("a")
            staged = await c.stores["a"].stage("op1", b"v" * 100, timeout_s=1)
            gone = Reference("op2", value_hash(b"gone"), 4)
            first = a.submit([put("op1", value=staged), put("op2", value=gone), put("op3")])  # type: ignore[arg-type]
            assert [(await f).outcome for f in first] == [Applied(), Expired(), Applied()]

    run(story)


def test_a_store_that_breaks_its_word_ends_the_process() -> None:
    async def story() -> None:
        died: list[BaseException] = []
        try:
            async with cluster("a") as c:
                a = await c.lead("a")

                async def lies(group: object, *, timeout_s: float) -> object:
                    raise InvariantViolated("two rows at one place")

                c.stores["a"].append = lies  # type: ignore[method-assign, assignment]
                await answer(a, put("op1"))
        except* InvariantViolated as group:
            died.extend(group.exceptions)
        assert [str(exc) for exc in died] == ["two rows at one place"]

    run(story)


# -------------------------------------------------------------------------------- rivals and losses


def test_rival_committers_fence_each_other_off() -> None:
    async def story() -> None:
        async with cluster("ab") as c:
            a, b = await c.lead("a"), c["b"]
            c.scripts["a"].gates["append"] = gate = asyncio.Event()
            first = a.submit([put("op1")])[0]
            await until(lambda: "append" in c.scripts["a"].waiting)
            c.shared.elect("b", unnoticed=True)
            await until(lambda: b.committer.taken_over)
            told = [("op1", await first)]  # b committed it, a hears of it through the log
            gate.set()
            told.append(("op2", await answer(b, put("op2"))))
            await c.settled()
            assert broken_promises(c, told) == set()
            assert a.committer.groups == 0
            await until(lambda: c.shared.members["a"].outranked_by != [])

    run(story)


def test_outranked_leader_stands_again_above_the_row() -> None:
    async def story() -> None:
        async with cluster("a") as c:
            c.database.take_over(7, "stranger", 1, None)
            a = await c.lead("a")
            assert c.shared.term > 7
            assert await answer(a, put("op1")) == Answer(1, Applied())
            # of the same term, by another committer
            c.database.take_over(c.shared.term, "twin", 1, None)
            assert await answer(a, put("op2")) == Answer(2, Applied())
            assert broken_promises(c) == set()

    run(story)


def test_lost_suffix_is_rebased_on_the_ledger_and_the_rest_ordered_again() -> None:
    async def story() -> None:
        async with cluster("abc") as c:
            feeds = Feeds(c)
            a, b = await c.lead("a"), c["b"]
            await c.settled()
            before = len(c.shared.entries)
            told = [(f"op{n}", await answer(a, put(f"op{n}", f"k{n}".encode()))) for n in range(3)]
            c.scripts["b"].gates["take_over"] = gate = asyncio.Event()
            c.shared.elect("b", lose=len(c.shared.entries) - before)
            await until(lambda: "take_over" in c.scripts["b"].waiting)
            waiting = dict(
                zip(
                    ["op1", "new", "op2x"],
                    b.submit([put("op1", b"k1"), put("new"), put("op2", b"x")]),
                    strict=True,
                )
            )
            await until(lambda: c["c"].machine.revision == 3)
            gate.set()
            # by the ledger's row, not evaluated again
            assert await waiting["op1"] == Answer(2, Applied())
            assert await waiting["new"] == Answer(4, Applied())  # ordered again, behind the head
            # same op_id, another body: kept, then refused
            assert await waiting["op2x"] == Answer(5, Mismatch())
            await c.settled()
            assert proposals(c, Rebase) == 1
            assert broken_promises(c, told, feeds) == set()
            assert all(node.machine.recent.floor == 3 for node in c.nodes.values())
            assert b.recorded("op0") == Answer(1, Applied())

    run(story)


def test_long_rebase_is_cut_at_row_ends_and_read_in_pages() -> None:
    async def story() -> None:
        settings = dataclasses.replace(QUIET, rows_page=2, rebase_bytes_max=1)
        async with cluster("ab", settings=settings) as c:
            a, b = await c.lead("a"), c["b"]
            await c.settled()
            before = len(c.shared.entries)
            for n in range(5):
                await answer(a, put(f"op{n}"))
            await c.lead("b", lose=len(c.shared.entries) - before)
            assert proposals(c, Rebase) == 5
            assert b.machine.settled.revision == 5
            await c.settled()
            assert broken_promises(c) == set()

    run(story)


def test_head_ahead_of_a_log_that_holds_it_settles_row_by_row() -> None:
    async def story() -> None:
        async with cluster("ab") as c:
            a = await c.lead("a")
            c.shared.filter = lambda member, command: (
                NotApplied("overloaded")
                if member == "a" and isinstance(decode(command), Settle)
                else None
            )
            c.scripts["a"].gates["take_over"] = asyncio.Event()
            assert await answer(a, put("op1")) == Answer(1, Applied())
            assert a.machine.settled.revision == 0
            b = await c.lead("b")
            assert b.machine.settled.revision == 1
            assert proposals(c, Rebase) == 0
            assert (proposals(c, Settle), proposals(c, Submit)) == (1, 3)

    run(story)


@pytest.mark.parametrize(
    "fate", [NotApplied("overloaded"), OutcomeUnknown("lost")], ids=lambda f: type(f).__name__
)
def test_settle_that_is_not_ordered_makes_the_leader_take_over_again(fate: Exception) -> None:
    async def story() -> None:
        async with cluster("ab") as c:
            a = await c.lead("a")
            lost = [fate]
            c.shared.unknown_lands = False
            c.shared.filter = lambda member, command: (
                lost.pop() if lost and isinstance(decode(command), Settle) else None
            )
            assert await answer(a, put("op1")) == Answer(1, Applied())
            await c.settled()
            assert a.committer.takeovers == 2

    run(story)


# -------------------------------------------------------------------------------- restore and adopt


def test_restored_store_is_refused_until_an_operator_adopts_it() -> None:
    async def story() -> None:
        async with cluster("abc") as c:
            c.broadcast.down = True
            a, b = await c.lead("a"), c["b"]
            await answer(a, put("op1", b"k", b"kept"))
            await answer(a, put("op2", b"k", b"lost"))
            await c.settled()
            with pytest.raises(BadRequest):
                await a.adopt(timeout_s=1)
            before = a.space
            assert before is not None
            told: dict[str, list[Settled]] = {name: [] for name in c.nodes}
            for name, node in c.nodes.items():
                node.listen(told[name].append)
            c.database.lose_rows(1)
            lost = a.submit([put("op3", b"l")])[0]
            await until(lambda: a.refusal == "store_behind" and b.refusal == "store_behind")
            for node in a, b:
                with pytest.raises(NotApplied) as refused:
                    await answer(node, put("op4"))
                assert refused.value.reason == "store_refused"
                assert node.status().refusal == "store_behind"
            with pytest.raises(BadRequest) as not_here:
                await b.adopt(timeout_s=1)
            assert (not_here.value.code, not_here.value.allowed) == ("ask_leader", "http://a")
            for said in (None, 0, 2):
                with pytest.raises(
                    BadRequest, match="gives up 1 revisions that were settled, 2 to 2"
                ) as unsaid:
                    await a.adopt(gives_up=said, timeout_s=1)
                assert (unsaid.value.code, unsaid.value.allowed) == ("gives_up", "gives_up: 1")
            await until(lambda: b.status().gives_up == 1)
            assert [(s.gives_up, s.gives_up_after) for s in (a.status(), b.status())] == [
                (1, 1)
            ] * 2
            assert not lost.done()
            adopted = await a.adopt(gives_up=1, timeout_s=5)
            assert adopted == 4  # above the newest revision ever given
            assert await lost == Answer(5, Applied())  # ordered again behind it
            await until(lambda: a.refusal is None and b.refusal is None)
            # the window was emptied
            assert await answer(b, put("op2", b"k", b"lost")) == Answer(6, Applied())
            await c.settled()
            assert len({node.space for node in c.nodes.values()}) == 1
            assert (
                a.space is not None
                and a.space.namespace != before.namespace
                and a.space.key == before.key
            )
            assert all(node.machine.recent.floor >= 4 for node in c.nodes.values())
            for events in told.values():
                assert [(e.previous, e.last, e.undone_after) for e in events[:1]] == [(2, 4, 1)]
                assert [e.undone_after for e in events[1:]] == [None] * len(events[1:])
            assert {(node.undone.after, node.undone.to) for node in c.nodes.values()} == {(1, 4)}
            assert c.database.floor() == 4
            assert broken_promises(c) == set()

    run(story)


def test_a_store_that_lost_what_clients_heard_is_refused_though_nobody_has_settled_it() -> None:
    """An asynchronous standby is promoted between an answer and its Settle: nothing else may take
    that place.
    """

    async def story() -> None:
        async with cluster("a") as c:
            a = await c.lead("a")
            await answer(a, put("op1", b"k", b"1"))
            await c.settled()
            c.shared.members["a"].lags = True  # the Settle is on its way
            c.scripts["a"].gates["append"] = gate = asyncio.Event()
            c.shared.members["a"].lags = False
            heard = a.submit([put("op2", b"k", b"2", deadline_ms=a.now_ms() + 2_000)])[0]
            await until(lambda: a.machine.revision == 2)
            c.shared.members["a"].lags = True
            gate.set()
            assert await heard == Answer(2, Applied())
            c.database.lose_rows(1)
            c.shared.filter = lambda member, command: (
                OutcomeUnknown("lost") if isinstance(decode(command), Settle) else None
            )
            # past the deadline of what was answered: committed again it would be expired
            await asyncio.sleep(60)
            c.shared.members["a"].lags = False
            c.shared.pump()
            a.submit([put("op3", b"l", b"3")])[0].add_done_callback(
                lambda future: future.exception()
            )
            await until(lambda: a.committer.refusal == "store_behind")
            assert all(record.outcome != Expired() for row in rows(c) for record in row.body)

    run(story)


def test_a_leader_whose_way_ends_at_an_old_store_hands_on_before_it_refuses() -> None:
    """An old primary that came back: only one member's connections end there, and the others may go
    on.
    """

    async def story() -> None:
        async with cluster("abc") as c:
            a = await c.lead("a")
            await answer(a, put("op1", b"k", b"1"))
            await c.settled()
            c["b"].committer._context.store.port = MemoryStore(MemoryDatabase(), session="b")
            c.shared.elect("b")
            await until(lambda: c.shared.leader == "c" and c["c"].committer.taken_over)
            assert await answer(a, put("op2", b"k", b"2")) == Answer(2, Applied())
            assert [node.refusal for node in c.nodes.values()] == [None, None, None]
            assert broken_promises(c) == set()

    run(story)


def test_a_store_of_another_cluster_is_refused_and_never_adopted() -> None:
    """Two clusters on one database: each acknowledged what the other overwrote."""

    async def story() -> None:
        database = MemoryDatabase()
        database.claim(Identity("theirs", b"t" * 16))
        async with cluster("ab", database=database) as c:
            c.shared.elect("a")
            a, b = c["a"], c["b"]
            await until(lambda: a.refusal == "store_foreign" and b.refusal == "store_foreign")
            with pytest.raises(NotApplied):
                await answer(b, put("op1"))
            with pytest.raises(BadRequest) as foreign:
                await a.adopt(gives_up=0, timeout_s=1)
            assert foreign.value.code == "foreign_store"
            assert database.head().seq == 0, "not even the empty row was written"
            assert database.claim(Identity("ours")) == Identity("theirs", b"t" * 16)

    run(story)


def test_a_store_of_another_history_is_refused_until_it_is_adopted() -> None:
    """The machines' disks are gone and the store is not, or came back from a backup: that is no
    news for old values.
    """

    async def story() -> None:
        database = MemoryDatabase()
        async with cluster("a", database=database) as c:
            a = await c.lead("a")
            await answer(a, put("op1", b"k", b"former"))
            await c.settled()
            former = a.machine.founded
        async with cluster("vwxyz", database=database) as c:
            c.shared.elect("z")
            a, b = c["z"], c["y"]
            await until(lambda: a.refusal == "store_history" and b.refusal == "store_history")
            assert a.machine.founded is not None and a.machine.founded != former
            with pytest.raises(NotApplied):
                await a.read_index(timeout_s=1)
            assert a.status().gives_up == 0
            assert await a.adopt(gives_up=0, timeout_s=5) == 2
            await c.settled()
            assert await answer(a, put("op2", b"l")) == Answer(3, Applied())
            assert c.value(b"k") == b"former"
            assert database.claim(Identity("x")) == Identity("ours", a.machine.founded.history)
            b = await c.lead("y")
            assert await answer(b, put("op3", b"l")) == Answer(4, Applied())

    run(story)


def test_the_leadership_goes_round_once_when_no_member_finds_what_was_settled() -> None:
    async def story() -> None:
        async with cluster("abc") as c:
            a = await c.lead("a")
            await answer(a, put("op1", b"k", b"1"))
            await c.settled()
            c.database.lose_rows(1)
            term = c.shared.term
            a.submit([put("op2", b"k", b"2")])[0].add_done_callback(
                lambda future: future.exception()
            )
            await until(lambda: c.shared.leader == "a" and a.committer.refusal == "store_behind")
            assert c.shared.term == term + 3
            await asyncio.sleep(100 * c.settings.refused_check_s)
            assert c.shared.term == term + 3, "nobody hands on twice for the same settled place"

    run(story)


@pytest.mark.parametrize(
    ("own", "ring"),
    [
        ("a", ["b", "c", "d"]),
        ("b", ["c", "d", "a"]),
        ("d", ["a", "b", "c"]),
        ("x", ["a", "b", "c", "d"]),
    ],
)
def test_the_ring_of_voters(own: str, ring: list[str]) -> None:
    assert next_voters(own, ["d", "b", "a", "c"]) == ring


def test_refusal_ends_by_itself_when_the_store_is_put_right() -> None:
    async def story() -> None:
        async with cluster("a") as c:
            a = await c.lead("a")
            await answer(a, put("op1"))
            await c.settled()
            saved = list(c.database._rows)
            c.database._rows.clear()
            await c.shared.members["a"].transfer("a", timeout_s=1)
            await until(lambda: a.refusal == "store_behind")
            c.database._rows[:] = saved
            await until(lambda: a.refusal is None and a.committer.taken_over)
            assert await answer(a, put("op2")) == Answer(2, Applied())

    run(story)


def test_other_history_of_the_same_length_is_refused() -> None:
    async def story() -> None:
        async with cluster("a") as c:
            a = await c.lead("a")
            await answer(a, put("op1"))
            await c.settled()
            forged = [dataclasses_replace(row, b"x" * 32) for row in c.database._rows]
            c.database._rows[:] = forged
            c.shared.elect("a")
            await until(lambda: a.refusal == "store_other")
            with pytest.raises(NotApplied):
                await a.read_index(timeout_s=1)

    run(story)


def dataclasses_replace(row: LedgerRow, digest: bytes) -> LedgerRow:
    return LedgerRow(
        row.seq, row.term, row.committer, row.first, row.last, digest, row.log_time_ms, row.body
    )


def test_rows_pruned_past_what_is_settled_are_refused() -> None:
    async def story() -> None:
        async with cluster("ab") as c:
            a, b = await c.lead("a"), c["b"]
            await c.settled()
            before = len(c.shared.entries)
            for n in range(4):
                await answer(a, put(f"op{n}"))
            del c.database._rows[:3]
            c.shared.elect("b", lose=len(c.shared.entries) - before)
            await until(lambda: b.refusal == "store_pruned")
            assert await b.adopt(gives_up=b.machine.settled.revision, timeout_s=5) == 5
            assert await answer(b, put("new")) == Answer(6, Applied())

    run(story)


def test_what_adopting_cannot_look_up_is_dropped_and_what_it_can_is_not_done_twice() -> None:
    """Found by the simulation (seed 1502): rows that were pruned unread may hold what is still
    pending.
    """

    async def story() -> None:
        async with cluster("ab") as c:
            a, b = await c.lead("a"), c["b"]
            await c.settled()
            named, unnamed = a.submit([put("op1"), put("~a.1.1")])
            await asyncio.wait([named, unnamed])
            ordered = len(c.shared.entries) - 1  # the Settle behind them is lost
            for n in range(2, 5):
                await answer(a, put(f"op{n}"))
            del c.database._rows[:-1]
            c.shared.elect("b", lose=len(c.shared.entries) - ordered)
            await until(lambda: b.refusal == "store_pruned")
            assert [p.intent.op_id for p in b.machine.pending.values()] == ["op1", "~a.1.1"]
            last = await b.adopt(gives_up=b.machine.settled.revision, timeout_s=5)
            assert await answer(b, put("op1")) == Answer(last + 1, Again(1, Applied()))
            assert await answer(b, put("new")) == Answer(last + 2, Applied())
            assert b.machine.revision == last + 2

    run(story)


def test_adoption_outlives_the_leader_that_appended_it() -> None:
    """The adopting row is in the store, its Adopt never ordered: the next leader refuses, and is
    asked again.
    """

    async def story() -> None:
        async with cluster("ab") as c:
            c.broadcast.down = True
            a = await c.lead("a")
            await answer(a, put("op1"))
            await c.settled()
            c.database.lose_rows(1)
            c.shared.elect("a")
            await until(lambda: a.refusal is not None)
            c.shared.dropped.append(NotApplied("no_quorum"))
            with pytest.raises(OutcomeUnknown):
                await a.adopt(gives_up=1, timeout_s=5)
            b = c["b"]
            c.shared.elect("b")
            await until(lambda: b.refusal is not None)
            assert b.refusal == "store_pruned"  # the row that it knows to be settled is not there
            assert await b.adopt(gives_up=1, timeout_s=5) == 3
            assert await answer(b, put("op2")) == Answer(4, Applied())
            assert broken_promises(c) == set()

    run(story)


# ----------------------------------------------------------------------------------------- log time


def test_first_leader_stamps_the_log_before_anything_is_admitted() -> None:
    async def story() -> None:
        async with cluster("a") as c:
            with pytest.raises(NotApplied) as refused:
                await answer(c["a"], put("op1"))
            assert refused.value.reason == "starting"
            a = await c.lead("a")
            assert a.now_ms() >= c.clocks["a"].wall_ms() - 1000
            assert await answer(a, put("op1", deadline_ms=a.now_ms() + 100)) == Answer(1, Applied())

    run(story)


def test_new_leader_with_a_clock_ahead_expires_nothing_that_comes_after() -> None:
    async def story() -> None:
        async with cluster("ab") as c:
            await c.lead("a")
            c.clocks["b"].wall_off_ms = 3_600_000
            b = await c.lead("b")
            assert await answer(b, put("op1", deadline_ms=b.now_ms() + 100)) == Answer(1, Applied())
            c.clocks["a"].wall_off_ms = -3_600_000
            a = await c.lead("a")
            before = a.now_ms()
            assert await answer(a, put("op2", deadline_ms=before + 100)) == Answer(2, Applied())
            assert a.now_ms() >= before  # log time never goes back

    run(story)


def test_op_id_is_known_from_the_store_when_the_window_forgot_it() -> None:
    async def story() -> None:
        async with cluster(
            "a", settings=dataclasses.replace(QUIET, limits=Limits(window_max=2))
        ) as c:
            a = await c.lead("a")
            for n in range(4):
                await answer(a, put(f"op{n}"))
            await c.settled()
            assert a.recorded("op0") is None
            assert await answer(a, put("op0")) == Answer(5, Again(1, Applied()))
            assert await answer(a, put("op1", value=b"other")) == Answer(6, Mismatch())
            assert await answer(a, Cancel("op2")) == Answer(7, Again(3, Applied()))
            assert c.database.head() != GENESIS
            assert c.value(b"k") == b"v"

    run(story)


def test_a_follower_answers_by_a_settle_that_is_not_ordered_yet() -> None:
    """What it says is in the store, whatever becomes of the entry (INV-2)."""

    async def story() -> None:
        async with cluster("ab") as c:
            await c.lead("a")
            b = c["b"]
            await until(lambda: b.stamped)
            gate = c.scripts["a"].gates["append"] = asyncio.Event()
            told = b.submit([put("op1")])[0]
            await until(lambda: b.machine.revision == 1 and "append" in c.scripts["a"].waiting)
            c.shared.members["b"].lags = True
            assert not (await asyncio.wait([told], timeout=1))[0]
            gate.set()
            found = await told
            assert (found.revision, found.outcome) == (1, Applied("then"))
            assert c.value(b"k") == b"v"
            assert b.machine.settled.revision == 0
            c.shared.elect("b", lose=1)  # the Settle was never on a quorum's disks
            c.shared.members["b"].lags = False
            c.shared.pump()
            await c.settled()
            assert (await answer(b, put("op1"))).outcome == Again(1, Applied("then"))

    run(story)
