"""Members with a store of their own: from Submit to the same rows everywhere, and back from a
restart.
"""

from __future__ import annotations

import asyncio
import dataclasses

import msgspec
import pytest

from coordinator.machine.commands import Found, Submit, encode
from coordinator.machine.limits import Limits
from coordinator.machine.machine import Machine
from coordinator.machine.snapshot import MachineState, encode_state
from coordinator.replicated.marks import PREFIX_BYTES
from coordinator.replicated.mending import LOOK_S, WRITTEN_S
from coordinator.replicated.witnesses import Telling
from kv.errors import BackendUnavailable, BadRequest, InvariantViolated, NotApplied
from kv.model import Absent, Answer, Applied, Refused
from kv.ports import Settled, StateCopy
from tests.soundness import broken
from tests.unit.coordinator.cluster import QUIET, answer, put
from tests.unit.coordinator.own_cluster import own_cluster
from tests.virtual import run, until


def test_write_through_a_follower_is_the_same_row_on_every_member() -> None:
    async def story() -> None:
        async with own_cluster("abc") as c:
            await c.lead("a")
            await until(lambda: c["b"].stamped and c["c"].stamped)
            assert await answer(c["b"], put("op1", b"k", b"v")) == Answer(1, Applied())
            assert await answer(c["c"], put("op2", b"k", guards=(Absent(b"k"),))) == Answer(
                2, Refused(0, 1)
            )
            await c.level()
            assert c.rows("a") == c.rows("b") == c.rows("c")
            assert [row.seq for row in c.rows("a")] == [1, 2]
            assert c.rows("a")[0].index > 0
            assert c.rows("a")[0].committer == ""
            assert len({n.machine.book.content for n in c.nodes.values()}) == 1
            assert all(not n.machine.pending and not broken(n.machine) for n in c.nodes.values())
            status = c["b"].status()
            assert (status.store_kind, status.store_state) == ("replicated", "sound")
            assert status.content_seq == 2

    run(story)


def test_restarted_member_takes_its_outcomes_from_its_file() -> None:
    async def story() -> None:
        async with own_cluster("ab") as c:
            a = await c.lead("a")
            for n in range(5):
                await answer(a, put(f"op{n}", b"k%d" % n))
            await c.level()
            await c.stop("b")
            await answer(a, put("last"))
            b = await c.start("b")
            assert b.refusal == "own_store_catching_up"
            await c.level()
            assert b.refusal is None
            assert b.own is not None
            assert (b.own.settling.replayed, b.own.settling.rows) == (5, 1)
            assert c.rows("a") == c.rows("b")
            assert a.machine.settled == b.machine.settled
            assert a.machine.book == b.machine.book

    run(story)


def test_a_member_whose_log_is_gone_says_what_to_do() -> None:
    async def story() -> None:
        async with own_cluster("ab") as c:
            await c.lead("a")
            member = c.shared.members["b"]
            raft = msgspec.structs.replace(member.status(), unfit="disk_lost")
            member.status = lambda: raft  # type: ignore[method-assign]
            status = c["b"].status()
            assert (status.unfit, status.store_state) == ("disk_lost", "emptied")
            assert "python -m cluster replace" in status.store_detail

    run(story)


def test_what_took_the_place_of_a_lost_suffix_is_broadcast_in_its_term() -> None:
    async def story() -> None:
        async with own_cluster("ab") as c:
            a = await c.lead("a")
            await answer(a, put("op1"))
            before = len(c.shared.entries)
            await answer(a, put("lost"))
            await until(lambda: len(c.broadcast.changes) == 2)
            b = await c.lead("b", lose=len(c.shared.entries) - before)
            await answer(b, put("kept"))
            await until(lambda: c.broadcast.changes[-1].op_id == "kept")
            told = [(each.op_id, each.revision, each.term) for each in c.broadcast.changes]
            assert told[:2] == [("op1", 1, 1), ("lost", 2, 1)]
            assert told[-1] == ("kept", 2, 2)

    run(story)


def test_nothing_can_be_adopted() -> None:
    async def story() -> None:
        async with own_cluster("a") as c:
            a = await c.lead("a")
            with pytest.raises(BadRequest, match="its own store"):
                await a.adopt(timeout_s=1)

    run(story)


def test_state_that_cannot_be_used_is_refused_and_changes_nothing() -> None:
    async def story() -> None:
        async with own_cluster("ab") as c, own_cluster("z") as other:
            a, z = await c.lead("a"), await other.lead("z")
            await answer(a, put("op1"))
            await answer(z, put("op1"))
            await c.level()
            b, before = c["b"], c["b"].machine.capture()
            state = await a.attach()
            assert state is not None
            with pytest.raises(ValueError, match="needs a copy"):
                await b.install(a.snapshot()(), None)
            with pytest.raises(ValueError, match="snapshot"):
                await b.install(b"rubbish", state)
            with pytest.raises(ValueError, match="another history"):
                await b.install(z.snapshot()(), state)
            state.close()
            with pytest.raises(ValueError, match="no member's store"):
                await b.install(a.snapshot()(), state)
            assert b.machine.capture() == before
            assert b.refusal is None

    run(story)


def test_dump_of_a_shared_store_is_read_and_refused() -> None:
    async def story() -> None:
        async with own_cluster("a") as c:
            a = await c.lead("a")
            shared = Machine()
            shared.apply(Submit((put("op1"),)), 1)
            old = msgspec.msgpack.encode(msgspec.structs.astuple(shared.capture())[:-1])
            assert msgspec.msgpack.decode(old, type=MachineState).book is None
            with pytest.raises(ValueError, match="shared store"):
                a.restore(encode_state(shared.capture()))

    run(story)


def test_fetched_state_is_a_witness_once_the_others_agree() -> None:
    async def story() -> None:
        async with own_cluster("abc") as c:
            a = await c.lead("a")
            await answer(a, put("op1"))
            await c.level()
            b = c["b"]
            assert b.own is not None
            b.own.condition.spoil("set_aside", "a test says so")
            await c.dump("a")
            b.own.keeping.durable = a.own.keeping.durable if a.own else None
            c.shared.members["b"].pump()
            assert not b.takes_more
            await until(lambda: b.status().counts["store_installs"] == 1)
            assert not b.own.keeping.witness
            await answer(a, put("op2"))
            await until(lambda: b.own is not None and b.own.keeping.witness)
            await c.level()
            assert c.rows("a") == c.rows("b")

    run(story)


def test_log_that_puts_a_state_in_place_is_waited_for_before_the_empty_file_is_used() -> None:
    async def story() -> None:
        async with own_cluster("abc") as c:
            a = await c.lead("a")
            await answer(a, put("op1"))
            await c.level()
            b, log = c["b"], c.shared.members["b"]
            assert b.own is not None
            log.resting = True
            b.own.condition.spoil("set_aside", "a test says so")
            log.pump()
            assert not b.takes_more
            await asyncio.sleep(2)
            assert b.refusal == "own_store_set_aside", "its machine is ahead of the empty file"
            assert len(c.files["b"].aside) == 1
            log.resting = False
            await until(lambda: b.refusal is None)
            await answer(a, put("op2"))
            await c.level()
            assert c.rows("a") == c.rows("b")

    run(story)


@pytest.mark.parametrize("how", ["diverged", "set_aside"])
def test_what_a_member_told_while_it_differed_is_undone(how: str) -> None:
    async def story() -> None:
        async with own_cluster("abc") as c:
            a = await c.lead("a")
            await answer(a, put("op1"))
            await c.level()
            for name in "abc":
                await c.dump(name)
            for n in range(2, 5):
                await answer(a, put(f"op{n}"))
            await c.level()
            b, heard = c["b"], list[Settled]()
            b.listen(heard.append)
            assert b.own is not None
            b.own.condition.spoil(
                "diverged" if how == "diverged" else "set_aside", "a test says so"
            )
            install, dump = b.install, c.dumps["a"]

            async def older(snapshot: bytes, state: StateCopy | None) -> None:
                await install(dump.snapshot, state)
                assert b.own is not None
                assert not b.own.condition.caught_up

            b.install = older  # type: ignore[method-assign]
            c.shared.members["b"].pump()
            await until(lambda: b.status().counts["store_installs"] == 1)
            undone = [(event.last, event.undone_after) for event in heard]
            assert undone == ([(1, 1)] if how == "diverged" else [])

    run(story)


def test_a_store_that_is_being_replaced_is_not_taken_for_a_damaged_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        async with own_cluster("ab") as c:
            a = await c.lead("a")
            await answer(a, put("op1"))
            await c.level()
            await c.dump("a")
            b = c["b"]
            assert b.own is not None
            spoils, looks = b.own.condition.spoils, 0

            async def slow(state: StateCopy) -> None:
                nonlocal looks
                c.files["b"].spoil()
                await asyncio.sleep(2)  # the file is closed, and counts as damaged until it is open
                looks += 1
                c.files["b"].damage = ""
                await install(state)

            install = c.stores["b"].install
            monkeypatch.setattr(c.stores["b"], "install", slow)
            c.shared.members["b"].fetch_snapshot()
            await until(lambda: b.own is not None and b.own.keeping.installs == 1)
            assert (b.own.condition.spoils, looks) == (spoils, 1)

    run(story)


def test_an_empty_file_is_not_put_aside() -> None:
    async def story() -> None:
        async with own_cluster("abc") as c:
            a = await c.lead("a")
            await answer(a, put("op1"))
            await c.level()
            for name in "ab":
                await c.dump(name)
            c.files["b"].spoil()
            c.shared.depose()
            b = c["b"]
            await asyncio.sleep(1)
            c.shared.pump()
            await until(lambda: len(c.files["b"].aside) == 1)
            for _ in range(3):
                await c.stop("b")
                b = await c.start("b")
                await asyncio.sleep(1)
                c.shared.pump()
                await asyncio.sleep(1)
            assert b.own is not None
            assert b.own.condition.fetching
            assert len(c.files["b"].aside) == 1
            await c.lead("a")
            await until(lambda: b.status().counts["store_installs"] == 1)
            await c.level()
            assert c.rows("a") == c.rows("b")

    run(story)


def test_an_empty_store_that_is_unusable_again_at_once_is_not_tried_without_a_pause() -> None:
    async def story() -> None:
        async with own_cluster("ab") as c:
            a = await c.lead("a")
            await answer(a, put("op1"))
            await c.level()
            await c.stop("b")
            c.files["b"].wipe()
            c.shared.members.pop("b", None)
            b, tries = await c.start("b"), 0
            assert b.own is not None
            condition = b.own.condition

            def again() -> bool:
                nonlocal tries
                tries += 1
                condition.spoil("set_aside", "a test says so")
                return True

            c.shared.members["b"].replay = again  # type: ignore[method-assign]
            c.stores["b"].file.wipe()  # it replayed the log meanwhile
            again()
            c.shared.members["b"].lags = False
            assert not b.takes_more
            await asyncio.sleep(1)
            assert 2 <= tries <= 1 / LOOK_S + 2

    run(story)


def test_only_voter_keeps_a_file_that_cannot_be_used() -> None:
    async def story() -> None:
        async with own_cluster("a") as c:
            a = await c.lead("a")
            await answer(a, put("op1"))
            await c.dump("a")
            c.files["a"].spoil()
            await asyncio.sleep(20)
            assert a.refusal == "own_store_set_aside"
            assert not c.files["a"].aside
            assert "damaged" in a.status().store_detail
            with pytest.raises(BackendUnavailable):
                await a.attach()
            with pytest.raises(NotApplied):
                await answer(a, put("op2"))

    run(story)


def test_leader_whose_file_takes_nothing_lets_another_lead() -> None:
    async def story() -> None:
        async with own_cluster(
            "abc", settings=dataclasses.replace(QUIET, unwritten_bytes_max=500)
        ) as c:
            a = await c.lead("a")
            c.files["a"].refuse_writes("disk full")
            for n in range(20):
                a.submit([put(f"op{n}", value=b"v" * 100)])
            await asyncio.sleep(3 * WRITTEN_S)
            assert c.shared.leader in {"b", "c"}
            assert a.status().store_state == "full"
            with pytest.raises(NotApplied, match="disk full"):
                await answer(a, put("late"))
            c.files["a"].refuse_writes("")
            await c.level()
            assert c.rows("a") == c.rows("b")

    run(story)


def test_members_that_cannot_lead_do_not_hand_the_leadership_to_each_other_for_ever() -> None:
    async def story() -> None:
        async with own_cluster("abc") as c:
            a = await c.lead("a")
            await answer(a, put("op1"))
            await c.level()
            for name in "abc":
                await c.dump(name)
            for member in c.shared.members.values():
                member.prefers = "c" if member.name != "c" else "b"
            for name in "bc":
                c.files[name].spoil()
            c.shared.elect("c")
            await until(lambda: c.shared.leader == "a")
            fetched = [c["b"], c["c"]]
            await until(lambda: all(m.status().counts["store_installs"] == 1 for m in fetched))
            await answer(await c.lead("b"), put("op2"))
            await c.level()
            assert c.rows("a") == c.rows("b") == c.rows("c")

    run(story)


def test_what_was_undecided_ends_when_all_voters_agree_although_one_fetched_its_state() -> None:
    async def story() -> None:
        async with own_cluster("ab") as c:
            a = await c.lead("a")
            await answer(a, put("op1"))
            await c.level()
            assert a.own is not None
            assert c["b"].own is not None
            c.files["b"].fetched = True  # an operator replaced the member that differed
            a.own.condition.undecided = "the members' contents differ"
            await until(lambda: a.refusal is None)
            await answer(a, put("op2"))

    run(story)


def test_what_is_undecided_is_not_decided_by_rows_before_the_difference() -> None:
    async def story() -> None:
        async with own_cluster("ab") as c:
            a = await c.lead("a")
            for n in range(3):
                await answer(a, put(f"op{n}"))
            assert a.own is not None
            raft, contents, marks = c.shared.members["a"].status(), a.own.contents, a.own.marks
            contents.look(raft, [Telling("b", 3, b"another!", voter=True, witness=True)])
            assert a.refusal == "own_store_undecided"
            a.machine.book.term += 1  # in a new term everything is told anew
            older = marks.at(2)
            assert older is not None
            contents.look(raft, [Telling("b", 2, older[:PREFIX_BYTES], voter=True, witness=True)])
            assert a.refusal == "own_store_undecided"
            newer = marks.at(3)
            assert newer is not None
            contents.look(raft, [Telling("b", 3, newer[:PREFIX_BYTES], voter=True, witness=True)])
            assert a.refusal is None

    run(story)


def test_log_of_a_shared_store_ends_a_member_with_its_own() -> None:
    async def story() -> None:
        async with own_cluster("a") as c:
            c.shared.elect("a")
            found = Found(b"h" * 16, 1 << 40, b"k" * 32, Limits())
            c.shared.members["a"].propose(encode(found))
            await asyncio.sleep(1)

    with pytest.raises(BaseExceptionGroup) as ended:
        run(story)
    assert ended.group_contains(InvariantViolated)
