"""Log time goes by monotonic clocks, whatever wall clocks do; and what only wall clocks can tell,
most of them must.
"""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.logtime import (
    PATIENCE_S,
    READING_AGE_S_MAX,
    SLEW,
    ClockReading,
    LogTime,
    clocks_say,
    kept_by_most,
    median,
    newest_kept,
    slew,
)
from coordinator.settings import CoordinatorSettings
from kv.model import Again, Answer, Applied, Expired
from tests.unit.coordinator.cluster import FAR_MS, Cluster, answer, cluster, put
from tests.virtual import EPOCH_MS, run, until

SWEEPING = CoordinatorSettings(prune_interval_s=1e6)
HOUR_MS = 3_600_000
YEAR_MS = 365 * 24 * HOUR_MS
offsets = st.sampled_from([0, 40, -40, 1_000, -1_000, HOUR_MS, -HOUR_MS, YEAR_MS, -YEAR_MS])
ages = st.sampled_from([0.0, 0.2, 1.0, READING_AGE_S_MAX, READING_AGE_S_MAX + 0.1, 60.0])


def reading(
    member: str = "n1",
    *,
    wall_ms: int = EPOCH_MS,
    kept_ms: int = 0,
    age_s: float = 0.0,
    voter: bool = True,
    found_in: int = 1,
) -> ClockReading:
    return ClockReading(member, voter, wall_ms, kept_ms, age_s, found_in)


@st.composite
def readings(draw: st.DrawFn) -> list[ClockReading]:
    made = []
    for n in range(draw(st.integers(0, 5))):
        kept_ms = draw(st.sampled_from([0, 0, EPOCH_MS, EPOCH_MS - 1_000]))
        made.append(
            reading(
                f"n{n}",
                wall_ms=EPOCH_MS + draw(offsets),
                kept_ms=kept_ms,
                age_s=draw(ages),
                voter=draw(st.booleans()),
            )
        )
    return made


# ---------------------------------------------------------------------------------------- decisions


def test_median_is_the_lower_of_two() -> None:
    assert [median([5]), median([9, 1]), median([7, 1, 3]), median([4, 3, 2, 1])] == [5, 1, 3, 2]


@given(readings(), st.integers(1, 5), st.sampled_from([0.0, PATIENCE_S]))
def test_clocks_say_what_a_quorum_of_voters_says_now(
    heard: list[ClockReading], voters: int, waited_s: float
) -> None:
    time_ms = clocks_say(heard, voters, waited_s)
    walls = sorted(r.wall_now_ms for r in heard if r.voter and r.age_s <= READING_AGE_S_MAX)
    if time_ms is not None:
        assert len(walls) > voters // 2
        # most say that it is no earlier
        assert sum(wall >= time_ms for wall in walls) * 2 > len(walls)
        assert len(walls) >= voters or waited_s >= PATIENCE_S
    else:
        assert len(walls) < voters


@given(readings(), st.booleans(), st.sampled_from([0.0, PATIENCE_S]))
def test_what_somebody_kept_comes_before_all_clocks(
    heard: list[ClockReading], kept: bool, waited_s: float
) -> None:
    time = LogTime(0.0)
    time.kept, time.found_in = kept, 1 if kept else 0
    time.lead(heard, 3, waited_s, 0.0, 7)
    newest = newest_kept(heard, time.found_in if kept else 0)
    if newest is not None:
        assert time.now_ms(0.0) == newest.kept_now_ms
        assert time.found_in == newest.found_in


@given(readings(), st.integers(1, 5))
def test_a_leader_is_set_forward_only_by_what_most_voters_kept(
    heard: list[ClockReading], voters: int
) -> None:
    now_ms = EPOCH_MS - 2_000
    time_ms = kept_by_most(heard, voters, now_ms)
    assert time_ms >= now_ms
    if time_ms > now_ms:
        agreed = [r for r in heard if r.voter and r.kept_ms and r.age_s <= READING_AGE_S_MAX]
        assert len(agreed) > voters // 2
        assert sum(r.kept_now_ms >= time_ms for r in agreed) * 2 > len(agreed)


@pytest.mark.parametrize("off_ms", [HOUR_MS, -HOUR_MS, YEAR_MS])
def test_one_clock_of_three_slews_nothing_and_two_do(off_ms: int) -> None:
    right, wrong = (
        reading("n1"),
        [reading("n2", wall_ms=EPOCH_MS + off_ms), reading("n3", wall_ms=EPOCH_MS + off_ms)],
    )
    assert slew([right, reading("n2"), wrong[1]], 3, EPOCH_MS) == 0.0
    assert slew([right, *wrong], 3, EPOCH_MS) == (SLEW if off_ms > 0 else -SLEW)
    assert slew(wrong[:1], 3, EPOCH_MS) == 0.0  # no quorum
    assert slew(wrong[:1], 1, EPOCH_MS) != 0.0  # a single voter is one


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["lead", "follow", "stamp"]),
            readings(),
            st.floats(0.001, 30.0),
            st.integers(-5_000, 50),
        ),
        max_size=30,
    )
)
def test_log_time_never_goes_back_and_never_runs(
    steps: list[tuple[str, list[ClockReading], float, int]],
) -> None:
    """Once it is kept, an hour of monotonic time is an hour of log time, give or take the slew,
    whatever clocks say.

    (What others kept, and stamps, are of one log time here: it may be a little behind, or as much
    ahead as the slew.)
    """
    time, at_s = LogTime(0.0), 0.0
    time.stamp(EPOCH_MS, 0.0)
    time.kept, time.found_in = True, 1
    before_ms = time.now_ms(0.0)
    for step, heard, passed_s, off_ms in steps:
        at_s += passed_s
        true_ms = EPOCH_MS + int(at_s * 1000)
        told = [
            reading(
                r.member,
                wall_ms=r.wall_ms,
                kept_ms=r.kept_ms and true_ms - int(r.age_s * 1000) - 100,
                age_s=r.age_s,
            )
            for r in heard
        ]
        match step:
            case "lead":
                time.lead(told, 3, 9.0, at_s, 2)
            case "follow" if told:
                time.follow(told[0], at_s)
            case "stamp":
                time.stamp(true_ms + min(0, off_ms), at_s)
        now_ms = time.now_ms(at_s)
        assert now_ms >= before_ms
        assert abs(now_ms - true_ms) <= at_s * 1000 * SLEW + 1
        before_ms = now_ms


def test_who_has_just_started_takes_the_leaders_word_and_not_what_it_went_on_from() -> None:
    """Else it is ahead once it leads, and ends keys early."""
    time = LogTime(0.0)
    time.stamp(EPOCH_MS, 0.0)  # replayed
    # nobody had kept it, and the leader began later
    time.follow(reading(kept_ms=EPOCH_MS + 10), 5.0)
    assert time.now_ms(5.0) == EPOCH_MS + 10
    time.stamp(EPOCH_MS + 3_000, 6.0)
    time.follow(reading(kept_ms=EPOCH_MS + 1_000, found_in=3), 6.5)
    assert time.now_ms(6.5) == EPOCH_MS + 3_000  # never behind a stamp


def test_who_kept_a_time_that_was_found_anew_meanwhile_goes_back_to_its_leaders() -> None:
    time = LogTime(0.0)
    time.follow(reading(kept_ms=EPOCH_MS), 0.0)
    # a word of the same time that was long on its way
    time.follow(reading(kept_ms=EPOCH_MS + 1_000), 9.0)
    assert time.now_ms(9.0) == EPOCH_MS + 9_000
    time.follow(reading(kept_ms=EPOCH_MS + 8_000, found_in=5), 9.0)
    assert (time.now_ms(9.0), time.found_in) == (EPOCH_MS + 8_000, 5)


def test_a_leader_goes_by_the_time_that_was_found_last() -> None:
    """It was cut off with its own meanwhile: what others date by now counts, also when they are
    behind.
    """
    time = LogTime(0.0)
    time.follow(reading(kept_ms=EPOCH_MS, found_in=2), 0.0)
    time.lead(
        [reading("n2", kept_ms=EPOCH_MS - 700, found_in=4), reading("n3", kept_ms=EPOCH_MS)],
        3,
        0.0,
        1.0,
        6,
    )
    assert (time.now_ms(1.0), time.found_in) == (EPOCH_MS - 700, 4)


# ------------------------------------------------------------------------------------------ stories


def jump(c: Cluster, names: str, ms: int) -> None:
    for name in names:
        c.clocks[name].wall_off_ms += ms


@pytest.mark.parametrize("names", ["a", "b", "ab", "abc"])
@pytest.mark.parametrize("ms", [25 * HOUR_MS, -25 * HOUR_MS, YEAR_MS])
def test_a_step_of_clocks_ends_no_key_and_no_retention(names: str, ms: int) -> None:
    """Also when most clocks step at once, there and back, and leaders change meanwhile: time was
    kept.
    """

    async def story() -> None:
        async with cluster("abc", settings=SWEEPING) as c:
            a = await c.lead("a")
            first = put("client-1", b"n", b"1")
            assert await answer(a, first) == Answer(1, Applied())
            await answer(a, put("op2", b"session", b"alive", ttl_ms=60_000))
            began_ms, began_s = a.now_ms(), asyncio.get_running_loop().time()
            jump(c, names, ms)
            await asyncio.sleep(5)
            for name in "bca":
                await c.lead(name)
                await asyncio.sleep(3)
            jump(c, names, -ms)
            await asyncio.sleep(10)
            passed_ms = int((asyncio.get_running_loop().time() - began_s) * 1000)
            assert abs(a.now_ms() - began_ms - passed_ms) <= passed_ms * SLEW + 20
            assert c.value(b"session") == b"alive"
            assert await answer(a, first) == Answer(1, Again(1, Applied()))
            await asyncio.sleep(60 + SWEEPING.sweep_interval_s + 0.5 - passed_ms / 1000)
            assert c.value(b"session") is None

    run(story)


@pytest.mark.parametrize("ms", [HOUR_MS, -HOUR_MS])
def test_one_voter_slews_a_step_and_takes_the_wall_clock_after_a_restart(ms: int) -> None:
    async def story() -> None:
        async with cluster("a", settings=SWEEPING) as c:
            a = await c.lead("a")
            before_ms = a.now_ms()
            jump(c, "a", ms)
            await asyncio.sleep(100)
            moved_ms = a.now_ms() - before_ms - 100_000
            assert 30 <= abs(moved_ms) <= 60  # 0.5 ms a second
            assert (moved_ms > 0) == (ms > 0)
            database, entries = c.database, list(c.shared.entries)
        async with cluster("a", settings=SWEEPING, database=database) as again:
            again.shared.entries, again.shared.term = list(entries), 1
            jump(again, "a", ms)
            a = await again.lead("a")
            wall_ms = again.clocks["a"].wall_ms()
            if ms > 0:
                assert abs(a.now_ms() - wall_ms) < 1_000
            else:
                assert 0 <= a.now_ms() - entries[-1].stamp_ms < 1_000  # it never goes back

    run(story)


@pytest.mark.parametrize("wrong", ["", "a", "b", "c"])
def test_after_a_stop_of_all_the_median_is_taken(wrong: str) -> None:
    async def story() -> None:
        async with cluster("abc", settings=SWEEPING) as c:
            a = await c.lead("a")
            await answer(a, put("op1", ttl_ms=HOUR_MS))
            database, entries = c.database, list(c.shared.entries)
        async with cluster("abc", settings=SWEEPING, database=database) as again:
            again.shared.entries, again.shared.term = list(entries), 1
            jump(again, "abc", 10 * 60_000)  # they were away for ten minutes
            jump(again, wrong, YEAR_MS)
            a = await again.lead("a")
            assert abs(a.now_ms() - a.machine.log_time_ms) < 1_000
            assert abs(a.now_ms() - entries[-1].stamp_ms - 10 * 60_000) < 5_000
            await asyncio.sleep(5)
            assert again.value(b"k") == b"v"

    run(story)


def test_one_that_kept_the_time_outweighs_all_clocks() -> None:
    """A leader that has just started, and most of whose clocks are wrong, asks who kept it."""

    async def story() -> None:
        async with cluster("abc", settings=SWEEPING) as c:
            a = await c.lead("a")
            await answer(a, put("op1", ttl_ms=60_000))
            jump(c, "abc", YEAR_MS)
            now_ms, now_s = a.now_ms(), asyncio.get_running_loop().time()
            b = c["b"]
            b.timekeeping.time = LogTime(now_s)  # as a process that begins
            b.time.stamp(EPOCH_MS, now_s)
            b = await c.lead("b")
            assert (
                abs(b.now_ms() - now_ms - (asyncio.get_running_loop().time() - now_s) * 1000) < 50
            )
            await asyncio.sleep(5)
            assert c.value(b"k") == b"v"

    run(story)


def test_what_a_leader_orders_before_it_knows_the_time_is_expired() -> None:
    """Its deadline and its ttl would be judged by a clock that nobody vouches for."""

    async def story() -> None:
        async with cluster("abc", settings=SWEEPING) as c:
            a = await c.lead("a")
            await answer(a, put("op1"))
            b = c["b"]
            await until(lambda: c["c"].time.kept and c["c"].status().stamped)
            b.timekeeping.time = LogTime(asyncio.get_running_loop().time())
            c.shared.elect("b")
            assert b.stamp_ms() == 0
            assert (await answer(c["c"], put("op2", deadline_ms=FAR_MS))).outcome == Expired()
            await until(lambda: b.committer.taken_over)
            assert (
                await answer(c["c"], put("op3", deadline_ms=b.now_ms() + 500))
            ).outcome == Applied()

    run(story)


def test_a_node_takes_no_write_before_it_knows_the_time() -> None:
    async def story() -> None:
        async with cluster("ab") as c:
            b = c["b"]
            assert not b.status().stamped
            c.shared.members["b"].lags = True
            await c.lead("a")
            await asyncio.sleep(1)
            assert not b.status().stamped  # told the time, and no stamp of this term is applied
            c.shared.members["b"].lags = False
            c.shared.pump()
            await until(lambda: b.status().stamped)
            assert (await answer(b, put("op1", deadline_ms=b.now_ms() + 50))).outcome == Applied()

    run(story)
