"""The Consensus port of one member: waits, refusals, snapshots, watchers, status."""

from __future__ import annotations

import asyncio
import dataclasses

import msgspec
import pytest

from coordinator.clients.feed import Feed
from coordinator.clients.waits import SWEEP_MIN
from coordinator.consensus import Coordinator
from coordinator.log import Position
from coordinator.machine.commands import Submit
from coordinator.machine.limits import Limits
from coordinator.machine.machine import Machine
from coordinator.machine.snapshot import decode_state, encode_state
from coordinator.peers.notes import (
    NOTE_URL_MAX,
    NOTE_VERSION,
    Note,
    VoterProgress,
    encode_note,
    read_note,
    unneeded,
)
from coordinator.replicated.marks import PREFIX_BYTES
from kv.errors import (
    OWN_STORE_WAITS,
    BadRequest,
    InvariantViolated,
    NewerCommand,
    NotApplied,
    OutcomeUnknown,
)
from kv.model import GENESIS_DIGEST, Again, Answer, Applied, Cancel, Version
from kv.ports import Consensus, Settled
from tests.soundness import fingerprint
from tests.unit.coordinator.audit import Feeds, broken_promises
from tests.unit.coordinator.cluster import QUIET, answer, cluster, put
from tests.virtual import run, until


def test_coordinator_is_a_consensus() -> None:
    async def story() -> None:
        async with cluster("a") as c:
            port: Consensus = c["a"]
            assert port.ordered == 0

    run(story)


# -------------------------------------------------------------------------------------------- waits


def test_all_who_wait_for_an_attempt_hear_the_same_and_a_second_attempt_is_no_second_intent() -> (
    None
):
    async def story() -> None:
        async with cluster("ab") as c:
            a, b = await c.lead("a"), c["b"]
            c.scripts["a"].gates["append"] = gate = asyncio.Event()
            waits = [
                *a.submit([put("op1")]),
                *a.submit([put("op1")]),
                *b.submit([put("op1"), put("op1")]),
            ]
            await until(lambda: "append" in c.scripts["a"].waiting and b.machine.revision == 1)
            assert (a.recorded("op1"), a.recorded("op2")) == ("pending", None)
            gate.set()
            assert await asyncio.gather(*waits) == [Answer(1, Applied())] * 4
            await c.settled()
            assert a.machine.revision == 1
            assert a.recorded("op1") == Answer(1, Applied())

    run(story)


def test_one_call_is_one_command() -> None:
    async def story() -> None:
        async with cluster("a") as c:
            a = await c.lead("a")
            before = len(c.shared.members["a"].proposed)
            await asyncio.gather(*a.submit([put(f"op{n}") for n in range(50)]))
            assert len(c.shared.members["a"].proposed) == before + 2  # one Submit, one Settle
            assert a.submit([]) == []

    run(story)


@pytest.mark.parametrize(
    "fate", [NotApplied("no_quorum"), OutcomeUnknown("lost")], ids=lambda f: type(f).__name__
)
def test_what_the_log_says_of_an_attempt_is_what_its_client_hears(
    fate: NotApplied | OutcomeUnknown,
) -> None:
    async def story() -> None:
        async with cluster("a") as c:
            a = await c.lead("a")
            c.shared.unknown_lands = False
            c.shared.dropped.append(fate)
            first = a.submit([put("op1"), put("op2")])
            for wait, op_id in zip(first, ("op1", "op2"), strict=True):
                with pytest.raises(type(fate)) as told:
                    await wait
                if isinstance(told.value, OutcomeUnknown):
                    assert told.value.op_id == op_id
            assert len(a._waits) == 0
            assert await answer(a, put("op1")) == Answer(1, Applied())

    run(story)


def test_a_failed_attempt_does_not_fail_another_of_the_same_op_id() -> None:
    async def story() -> None:
        async with cluster("a") as c:
            a = await c.lead("a")
            c.scripts["a"].gates["append"] = gate = asyncio.Event()
            first = a.submit([put("op1")])[0]
            await until(lambda: "append" in c.scripts["a"].waiting)
            c.shared.dropped.append(NotApplied("no_quorum"))
            with pytest.raises(NotApplied):
                await a.submit([put("op1")])[0]
            gate.set()
            assert await first == Answer(1, Applied())

    run(story)


@pytest.mark.parametrize("where", ["a", "b"])
def test_a_repetition_that_overtakes_the_settling_is_told_again(where: str) -> None:
    """The first is answered at its COMMIT; whoever repeats it before its Settle came must not be
    told it is new.
    """

    async def story() -> None:
        async with cluster("ab") as c:
            a = await c.lead("a")
            settled = len(c.shared.entries)
            first = a.submit([put("op1")])[0]
            seconds: list[asyncio.Future[Answer]] = []
            first.add_done_callback(lambda _: seconds.extend(c[where].submit([put("op1")])))
            assert await first == Answer(1, Applied())
            await until(lambda: bool(seconds))
            assert await seconds[0] == Answer(1, Again(1, Applied()))
            # and by what is settled
            assert await answer(c[where], put("op1")) == Answer(1, Again(1, Applied()))
            assert len(c.shared.entries) > settled
            assert [len(node._waits) for node in (a, c["b"])] == [0, 0]

    run(story)


def test_unknown_attempt_that_was_ordered_takes_effect_once() -> None:
    async def story() -> None:
        async with cluster("a") as c:
            a = await c.lead("a")
            c.shared.dropped.append(OutcomeUnknown("lost"))
            with pytest.raises(OutcomeUnknown):
                await answer(a, put("op1"))
            assert (await answer(a, Cancel("op1"))).outcome == Again(1, Applied())

    run(story)


def test_op_ids_of_nodes_cannot_be_cancelled() -> None:
    async def story() -> None:
        async with cluster("a") as c:
            a = await c.lead("a")
            with pytest.raises(BadRequest, match="cannot be cancelled"):
                a.submit([Cancel("~n1-1")])

    run(story)


def test_admission_is_bounded_and_refuses_before_the_log() -> None:
    async def story() -> None:
        settings = dataclasses.replace(
            QUIET, pending_intents_max=3, pending_bytes_max=5000, stall_s=1e6
        )
        async with cluster("a", settings=settings) as c:
            a = await c.lead("a")
            c.scripts["a"].down = True
            waits = a.submit([put("op1"), put("op2", value=b"v" * 3000)])
            await until(lambda: a.machine.revision == 2)
            before = len(c.shared.entries)
            for intents in ([put("op3"), put("op4")], [put("op5", value=b"v" * 3000)]):
                for wait in a.submit(intents):
                    with pytest.raises(NotApplied) as refused:
                        await wait
                    assert refused.value.reason == "overloaded"
            assert len(c.shared.entries) == before
            c.scripts["a"].down = False
            await asyncio.gather(*waits)
            await c.settled()
            assert a.machine.pending_bytes == 0

    run(story)


def test_waits_given_up_are_forgotten() -> None:
    async def story() -> None:
        async with cluster("a", settings=dataclasses.replace(QUIET, stall_s=1e6)) as c:
            a = await c.lead("a")
            c.scripts["a"].down = True
            for n in range(1200):
                a.submit([put(f"op{n}")])[0].cancel()
            assert len(a._waits) <= 1025
            c.scripts["a"].down = False
            await c.settled()

    run(story)


def test_a_node_that_stops_leaves_its_waiting_clients_unknown() -> None:
    async def story() -> None:
        async with cluster("a") as c:
            a = await c.lead("a")
            c.scripts["a"].down = True
            wait = a.submit([put("op1")])[0]
            await until(lambda: a.machine.revision == 1)
        with pytest.raises(OutcomeUnknown):
            await wait
        with pytest.raises(NotApplied) as refused:
            await a.submit([put("op2")])[0]
        assert refused.value.reason == "draining"

    run(story)


# ------------------------------------------------------------------------------------------ reading


def test_read_index_waits_for_the_very_entry() -> None:
    async def story() -> None:
        async with cluster("ab") as c:
            b = c["b"]
            with pytest.raises(NotApplied):
                await b.read_index(timeout_s=1)
            a = await c.lead("a")
            c.shared.members["b"].lags = True
            await answer(a, put("op1"))
            with pytest.raises(NotApplied):
                await b.read_index(timeout_s=1)
            reading = asyncio.create_task(b.read_index(timeout_s=30))
            await asyncio.sleep(1)
            assert not reading.done()
            c.shared.members["b"].lags = False
            c.shared.pump()
            await reading
            assert b.ordered == 1
            assert b.touched(b"k") == 1
            assert b.touched(b"other") == 0

    run(story)


def test_wait_settled() -> None:
    async def story() -> None:
        async with cluster("ab") as c:
            a, b = await c.lead("a"), c["b"]
            waits = [asyncio.create_task(b.wait_settled(n, timeout_s=30)) for n in (2, 1, 3)]
            with pytest.raises(TimeoutError):
                await b.wait_settled(1, timeout_s=1)
            await asyncio.gather(*a.submit([put("op1"), put("op2")]))
            await asyncio.gather(*waits[:2])
            assert not waits[2].done()
            await b.wait_settled(2, timeout_s=0)
            waits[2].cancel()
            await answer(a, put("op3"))
            await c.settled()
            assert len(b._feed.waits) == 0

    run(story)


def test_log_time_goes_on_between_stamps_and_never_back() -> None:
    async def story() -> None:
        async with cluster("ab") as c:
            await c.lead("a")
            await until(lambda: c["b"].machine.log_time_ms > 0)
            before = [node.now_ms() for node in c.nodes.values()]
            await asyncio.sleep(10)
            assert [
                node.now_ms() - then for node, then in zip(c.nodes.values(), before, strict=True)
            ] == [10_000] * 2
            for off_ms in (-60_000, 60_000):
                c.clocks["a"].wall_off_ms = off_ms
                assert c["a"].stamp_ms() == c["a"].now_ms()  # whatever its wall clock says

    run(story)


# ----------------------------------------------------------------------------------------- watchers


def test_listeners_get_every_settled_group_with_its_versions() -> None:
    async def story() -> None:
        async with cluster("ab") as c:
            a, b = await c.lead("a"), c["b"]
            heard: list[Settled] = []
            end = b.listen(heard.append)
            await answer(a, put("op1", ttl_ms=1000))
            await c.settled()
            ordered_ms = heard[0].versions[0].expires_ms - 1000  # type: ignore[index, operator]
            assert heard[0].versions == (Version(b"k", 1, b"v", ordered_ms + 1000, 1, 1),)
            assert (heard[0].previous, heard[0].last, heard[0].digest) == (0, 1, b.settled.digest)
            stored = c.database.versions([(b"k", 1)])
            assert heard[0].versions == stored
            end()
            end()
            await answer(a, put("op2"))
            await c.settled()
            assert len(heard) == 1

    run(story)


def test_a_log_that_was_reset_repeats_nothing_to_listeners() -> None:
    async def story() -> None:
        async with cluster("ab") as c:
            feeds = Feeds(c)
            a = await c.lead("a")
            for n in range(3):
                await answer(a, put(f"op{n}"))
            await c.settled()
            b = c.shared.members["b"]
            b.position, b.history = Position(0, 0), []
            b.replica.reset()
            assert c["b"].settled.last == 0
            c.shared.pump()
            await answer(a, put("op3"))
            await c.settled()
            assert broken_promises(c, (), feeds) == set()

    run(story)


def test_snapshot_answers_waiting_clients_from_the_ledger_and_lets_listeners_jump() -> None:
    async def story() -> None:
        settings = dataclasses.replace(QUIET, limits=Limits(window_max=4))
        async with cluster("ab", settings=settings) as c:
            feeds = Feeds(c)
            a, b = await c.lead("a"), c["b"]
            await c.settled()
            c.shared.members["b"].lags = True
            waits = b.submit([put("op0"), put("op1")])
            await until(lambda: a.machine.settled.revision == 2)
            for n in range(2, 12):
                await answer(a, put(f"op{n}"))  # the window forgets op0 and op1
            pending = b.submit([put("op11"), put("op2", b"other")])
            await until(lambda: a.machine.revision == 13 and not a.machine.pending)
            assert not any(wait.done() for wait in waits)
            c.shared.members["b"].install(a.snapshot()(), c.shared.members["a"])
            assert [await wait for wait in waits] == [Answer(1, Applied()), Answer(2, Applied())]
            assert await pending[0] == Answer(12, Applied())
            c.shared.members["b"].lags = False
            await answer(a, put("op13"))
            await c.settled()
            jump = feeds.told["b"][0]
            assert (jump.previous, jump.last, jump.records, jump.versions) == (0, 13, (), None)
            assert broken_promises(c, (), feeds) == set()
            assert b.touched(b"never") >= 13  # the snapshot left `last` out

    run(story)


def test_broken_snapshot_is_refused_and_changes_nothing() -> None:
    async def story() -> None:
        async with cluster("a") as c:
            a = await c.lead("a")
            await answer(a, put("op1"))
            before = encode_state(a.machine.capture())
            for snapshot in (b"", b"\x07abc", a.snapshot()()[:-1]):
                with pytest.raises(ValueError, match="snapshot"):
                    a.restore(snapshot)
            assert encode_state(a.machine.capture()) == before

    run(story)


def test_what_a_later_version_has_ordered_is_not_passed_over() -> None:
    async def story() -> None:
        async with cluster("a") as c:
            a = await c.lead("a")
            before = encode_state(a.machine.capture())
            with pytest.raises(NewerCommand, match=r"version 99") as refused:
                a.apply(Position(99, 1), 1, b"\x63from the future")
            assert refused.value.code == "log_newer"
            assert encode_state(a.machine.capture()) == before

    run(story)


def test_commands_that_are_none_do_nothing_and_are_counted() -> None:
    async def story() -> None:
        async with cluster("ab") as c:
            a = await c.lead("a")
            await c.shared.members["a"].propose(b"\x01 nothing")
            await c.shared.members["a"].propose(b"")
            assert await answer(a, put("op1")) == Answer(1, Applied())
            await c.settled()
            assert [node.status().counts["commands_undecoded"] for node in c.nodes.values()] == [
                2,
                2,
            ]

    run(story)


def test_a_listener_that_raises_ends_the_process_not_the_log() -> None:
    async def story() -> None:
        died: list[BaseException] = []
        try:
            async with cluster("a") as c:
                a = await c.lead("a")

                def breaks(settled: Settled) -> None:
                    raise KeyError("a bug")

                a.listen(breaks)
                await answer(a, put("op1"))
                await asyncio.sleep(1)
        except* InvariantViolated as group:
            died.extend(group.exceptions)
        assert isinstance(died[0].__cause__, KeyError)

    run(story)


def test_an_exception_of_the_caller_comes_out_as_it_went_in() -> None:
    async def story() -> None:
        with pytest.raises(ZeroDivisionError):
            await divide()

    async def divide() -> None:
        async with cluster("a") as c:
            await c.lead("a")
            raise ZeroDivisionError

    run(story)


# ------------------------------------------------------------------------------------------- status


def test_status_knows_the_members_by_their_notes() -> None:
    async def story() -> None:
        async with cluster("abc") as c:
            await c.lead("a")
            c.shared.members["c"].lags = True
            await answer(c["b"], put("op1"))
            await until(lambda: c["b"].machine.settled.revision == 1)
            await asyncio.sleep(1)
            status = c["b"].status()
            assert (status.node, status.role, status.leader, status.leader_url) == (
                "b",
                "follower",
                "a",
                "http://a",
            )
            assert (
                status.leader_since_ms
                == c["a"].status().leader_since_ms
                == c["c"].status().leader_since_ms
            )
            assert not status.taken_over
            assert c["a"].status().taken_over
            assert [(each.leader, each.former) for each in status.leaderships] == [("a", None)]
            members = {member.id: member for member in status.members}
            assert [members[n].settled for n in "abc"] == [1, 1, 0]
            assert (
                members["a"].digest
                == members["b"].digest
                == status.digest
                == c["a"].settled.digest.hex()
            )
            assert members["c"].digest != status.digest
            assert members["c"].url == "http://c"
            assert (status.ordered, status.settled, status.pending) == (1, 1, 0)
            assert c["a"].unneeded_below() == 0  # the slowest: these disks are not synced
            leading = c["a"].status()
            assert (leading.broadcast_lag, status.broadcast_lag) == (0, None)
            assert (leading.counts["groups_committed"], leading.counts["intents_committed"]) == (
                1,
                1,
            )
            await c.lead("b")
            changes = c["b"].status().leaderships
            assert [(each.leader, each.former) for each in changes] == [("a", None), ("b", "a")]
            assert changes[1].term > changes[0].term
            assert changes[1].silent_ms is not None

    run(story)


@pytest.mark.parametrize(
    ("voters", "below"),
    [
        # dead, and never heard: it can lead only with what two have on disk
        ([(50, True), (40, True), None], 40),
        ([(50, True), (40, True), (0, True)], 40),
        ([(50, True), (40, False), None], 0),
        ([(50, False), (40, False), (30, False)], 30),
        ([(50, True), (40, False), (30, True)], 30),
        ([(50, True), None, None], 0),
        ([(50, True)], 50),
        ([(9, True), (8, True), (7, True), None, None], 7),
        ([(9, True), (8, True), None, (6, False), None], 0),
    ],
)
def test_rows_are_unneeded_below_what_whoever_leads_has(
    voters: list[tuple[int, bool] | None], below: int
) -> None:
    assert unneeded([None if voter is None else VoterProgress(*voter) for voter in voters]) == below


def test_waits_for_ever_lower_revisions_that_were_given_up_are_forgotten() -> None:
    async def story() -> None:
        async with cluster("a") as c:
            a = await c.lead("a")

            async def one(revision: int) -> None:
                with pytest.raises(TimeoutError):
                    await a.wait_settled(revision, timeout_s=0.5)

            far = asyncio.ensure_future(a.wait_settled(1, timeout_s=100.0))
            for batch in range(40):
                await asyncio.gather(*(one(10**9 - 200 * batch - n) for n in range(200)))
            assert len(a._feed.waits) <= SWEEP_MIN + 2
            await answer(a, put("op1"))
            await far

    run(story)


def test_the_longest_note_that_there_can_be_is_not_cut() -> None:
    digest, url, refusal = GENESIS_DIGEST, "x" * NOTE_URL_MAX, "store_diverged"
    revision, time_ms = 2**53, 2**42
    note = Note(
        NOTE_VERSION, revision, revision, digest, url, refusal, time_ms, 0, time_ms, time_ms
    )
    note = msgspec.structs.replace(note, found_in=time_ms, synced=True, level=1)
    shared = msgspec.structs.replace(note, gives_up=revision, gives_up_after=revision)
    assert len(encode_note(shared)) <= 256
    own = msgspec.structs.replace(
        note,
        ordered=0,
        refusal=max(OWN_STORE_WAITS, key=len),
        content_seq=revision,
        content=GENESIS_DIGEST[:PREFIX_BYTES],
        content_term=127,
    )
    assert len(encode_note(own)) <= 256


def test_note_is_small_and_survives_nonsense() -> None:
    async def story() -> None:
        async with cluster("a") as c:
            node = c["a"]
            node.url = "http://" + "x" * 500
            await c.lead("a")
            assert len(node.note()) <= 256
            note = read_note(node.note())
            assert note is not None
            assert note.settled == 0
            assert read_note(b"") is None
            assert read_note(b"\xff\xff") is None
            assert read_note(b"\x93\x01\x02\x03") is None

    run(story)


def test_transfer_goes_to_the_log() -> None:
    async def story() -> None:
        async with cluster("ab") as c:
            a: Coordinator = await c.lead("a")
            assert await a.transfer("b", timeout_s=1) == "b"
            await until(lambda: c["b"].committer.taken_over)
            assert not a.committer.taken_over

    run(story)


def test_a_machine_that_went_another_way_is_noticed_refuses_and_is_built_anew() -> None:
    """It applied the whole log, and everything that settles stays foreign to it: whatever made it
    so.
    """

    async def story() -> None:
        async with cluster("ab") as c:
            a, b = await c.lead("a"), c["b"]
            await answer(a, put("op1"))
            await c.settled()
            b.machine.apply(Submit((put("ghost", b"g"),)), 1)
            await answer(a, put("op2", b"k", b"new"))
            await until(lambda: b.likeness.apart)
            with pytest.raises(NotApplied) as refused:
                await b.read_index(timeout_s=1)
            assert refused.value.reason == "diverged"
            assert b.status().diverged
            await until(lambda: not b.likeness.apart)
            assert fingerprint(b.machine) == fingerprint(a.machine)
            await b.read_index(timeout_s=1)
            assert b.likeness.rebuilt == 1

    run(story)


def test_a_machine_whose_own_snapshot_went_another_way_too_is_built_by_the_leaders() -> None:
    async def story() -> None:
        async with cluster("ab") as c:
            a, b = await c.lead("a"), c["b"]
            await answer(a, put("op1"))
            await c.settled()
            log = c.shared.members["b"]
            fetched = 0

            def fetch() -> None:
                nonlocal fetched
                fetched += 1
                type(log).replay(log)

            log.replay = lambda: True  # type: ignore[method-assign]  # as from a snapshot that is no better
            log.fetch_snapshot = fetch  # type: ignore[method-assign]
            b.machine.apply(Submit((put("ghost", b"g"),)), 1)
            await answer(a, put("op2", b"k", b"new"))
            await until(lambda: b.likeness.apart)
            await until(lambda: not b.likeness.apart)
            assert (fetched, b.likeness.rebuilt) == (1, 2)
            assert fingerprint(b.machine) == fingerprint(a.machine)

    run(story)


def test_a_member_that_only_lags_is_not_taken_for_another() -> None:
    async def story() -> None:
        async with cluster("ab") as c:
            a, b = await c.lead("a"), c["b"]
            await answer(a, put("op1"))
            c.shared.members["b"].lags = True
            for n in range(2, 6):
                await answer(a, put(f"op{n}"))
            await asyncio.sleep(60)
            assert (b.likeness.apart, b.likeness.rebuilt, b.machine.settled.revision) == (
                False,
                0,
                1,
            )
            c.shared.members["b"].lags = False
            c.shared.pump()
            await c.settled()

    run(story)


def test_limits_of_the_log_count_and_change_by_order_alone() -> None:
    """One member was started with a retention of a minute: it says so, obeys, and can be made the
    rule.
    """

    async def story() -> None:
        async with cluster("abc") as c:
            short = dataclasses.replace(
                QUIET, limits=Limits(window_ms=60_000, retention_revisions=7)
            )
            b = c["b"]
            b._operating._limits = short.limits
            a = await c.lead("a")
            await c.settled()
            assert [node.machine.limits for node in c.nodes.values()] == [QUIET.limits] * 3
            assert b.status().limits_differ == ("window_ms", "retention_revisions")
            assert a.status().limits_differ == ()
            await c.lead("b")
            await answer(b, put("op1"))
            assert {node.machine.limits for node in c.nodes.values()} == {QUIET.limits}, (
                "leading changes nothing"
            )
            assert await b.amend(timeout_s=5) == ("window_ms", "retention_revisions")
            await c.settled()
            await until(
                lambda: {node.machine.limits for node in c.nodes.values()} == {short.limits}
            )
            assert (a.status().limits_differ, b.status().limits_differ) == (
                ("window_ms", "retention_revisions"),
                (),
            )
            restored = Machine()
            restored.restore(decode_state(a.snapshot()()))
            assert restored.limits == short.limits

    run(story)


def test_what_an_adoption_undid_is_told_although_newer_revisions_were_heard_of() -> None:
    """A log that was reset repeats itself: the adoption may begin below what listeners heard."""
    feed, heard = Feed(), list[Settled]()
    feed.listen(heard.append)
    feed.feed(Settled(0, 10, b"a", (), None, 1))
    feed.feed(Settled(8, 12, b"b", (), None, 2, undone_after=5))
    assert heard[1] == Settled(10, 12, b"b", (), None, 2, undone_after=5)
    feed.feed(Settled(8, 12, b"b", (), None, 2, undone_after=5))
    assert len(heard) == 2
