"""The pure rules against dumb twins and by their properties."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.log import PeerAddress, Position
from coordinator.raft.core.rules.membership import (
    LAG_MAX,
    Add,
    Already,
    Change,
    Configuration,
    ConfigurationHistory,
    Join,
    Promote,
    Refusal,
    Remove,
    Situation,
    bootstrap,
    decide,
    decode_change,
    decode_configuration,
    encode,
)
from coordinator.raft.core.rules.readindex import WAITING_MAX, Round, Rounds
from coordinator.raft.core.rules.replication import (
    LogEnds,
    LogEntry,
    LogMismatch,
    Take,
    Wipe,
    judge_append,
    majority,
    quorum_index,
)
from coordinator.raft.core.rules.votes import Voter, VoteRequest, judge_vote

# ---------------------------------------------------------------------------------------- appending


def log_of(terms: list[int], first: int = 1) -> list[LogEntry]:
    return [
        LogEntry(b"%d/%d" % (index, term), index, term) for index, term in enumerate(terms, first)
    ]


@st.composite
def two_logs(draw: st.DrawFn) -> tuple[list[LogEntry], list[LogEntry], int]:
    """A follower's and a leader's log that Raft could have made: equal up to `shared`, then of
    rising, other terms.
    """
    shared = draw(st.integers(1, 8))
    common = sorted(draw(st.lists(st.integers(1, 3), min_size=shared, max_size=shared)))
    low = common[-1]
    mine = sorted(draw(st.lists(st.sampled_from([low + 1, low + 3]), max_size=6)))
    theirs = sorted(draw(st.lists(st.sampled_from([low + 2, low + 4]), max_size=6)))
    return log_of([0, *common, *mine]), log_of([0, *common, *theirs]), shared + 1


@given(two_logs(), st.data())
@settings(max_examples=200, deadline=None)
def test_appending_keeps_what_agrees_and_takes_over_the_rest(
    logs: tuple[list[LogEntry], list[LogEntry], int], data: st.DataObject
) -> None:
    mine, theirs, shared = logs
    commit = data.draw(st.integers(1, shared), label="commit")
    prev = data.draw(st.integers(1, len(theirs)), label="prev")
    count = data.draw(st.integers(0, len(theirs) - prev), label="count")
    entries = theirs[prev : prev + count]
    ends = LogEnds(1, len(mine), commit)
    verdict = judge_append(
        ends, lambda index: mine[index - 1].term, prev, theirs[prev - 1].term, entries
    )
    if prev > shared:
        # Committed entries cannot differ, so everything above is asked for at once.
        assert verdict == LogMismatch(commit + 1)
        return
    assert isinstance(verdict, Take)
    kept = mine if verdict.truncate_from is None else mine[: verdict.truncate_from - 1]
    after = kept + list(verdict.new)
    assert verdict.verified == prev + count
    assert after[: verdict.verified] == theirs[: verdict.verified]
    if verdict.truncate_from is None:
        assert after[: len(mine)] == mine
    else:
        assert verdict.truncate_from > shared >= commit
    if prev + count <= shared:
        assert after == mine


def test_an_overwritten_commit_goes_back_to_the_base_and_then_wipes() -> None:
    mine = log_of([0, 1, 1, 1])
    ends = LogEnds(1, 4, 4)

    def term_at(index: int) -> int:
        return mine[index - 1].term

    assert judge_append(ends, term_at, 3, 7, []) == LogMismatch(2)
    assert judge_append(ends, term_at, 1, 0, log_of([7], 2)) == Take(2, log_of([7], 2), 2)
    assert judge_append(LogEnds(3, 5, 5), lambda index: 1, 3, 7, []) == Wipe()


def test_what_lies_below_the_base_is_skipped() -> None:
    ends = LogEnds(5, 6, 5)
    entries = log_of([1, 1, 1, 1, 1, 1], 2)
    assert judge_append(ends, lambda index: 1, 1, 0, entries) == Take(None, entries[5:], 7)
    assert judge_append(ends, lambda index: 1, 1, 0, entries[:2]) == Take(None, (), 3)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=7))
@settings(deadline=None)
def test_quorum_index_is_what_a_majority_holds(durable: list[int]) -> None:
    index = quorum_index(durable)
    assert sum(held >= index for held in durable) >= majority(len(durable))
    assert sum(held > index for held in durable) < majority(len(durable))


# -------------------------------------------------------------------------------------------- votes


def asked(**changes: Any) -> VoteRequest:
    return VoteRequest("B", 5, 4, 10, pre=False, forced=False)._replace(**changes)


def voter(**changes: Any) -> Voter:
    return Voter(5, None, 4, 10, leader_heard=False, votes=True)._replace(**changes)


@pytest.mark.parametrize(
    ("request_", "voter_", "ballot"),
    [
        (asked(), voter(), "granted"),
        (asked(), voter(voted_for="B"), "granted"),
        (asked(), voter(voted_for="C"), "voted"),
        (asked(), voter(term=6), "old_term"),
        (asked(), voter(last_term=5), "behind"),
        (asked(), voter(last_index=11), "behind"),
        (asked(last_term=5), voter(last_index=99), "granted"),
        (asked(), voter(leader_heard=True), "leader_heard"),
        (asked(forced=True), voter(leader_heard=True), "granted"),
        (asked(), voter(votes=False), "not_a_voter"),
        (asked(pre=True, term=6), voter(voted_for="C"), "granted"),
        (asked(pre=True), voter(), "old_term"),
        (asked(pre=True, term=6), voter(leader_heard=True), "leader_heard"),
        (asked(pre=True, term=6), voter(id="C", asking=6), "standing"),
        (asked(pre=True, term=6), voter(id="A", asking=6), "granted"),
        (asked(pre=True, term=6, last_index=11), voter(id="C", asking=6), "granted"),
    ],
)
def test_ballots(request_: VoteRequest, voter_: Voter, ballot: str) -> None:
    assert judge_vote(request_, voter_) == ballot


# --------------------------------------------------------------------------------------- membership

ABC = bootstrap([PeerAddress(name, f"{name}:1") for name in "CBA"])


def calm(configuration: Configuration = ABC, **changes: Any) -> Situation:
    ids = [seat.id for seat in configuration.seats]
    quiet = Situation("A", False, True, frozenset(ids), dict.fromkeys(ids[1:], 0))
    return quiet._replace(**changes)


def changed(verdict: Configuration | Already | Refusal) -> Configuration:
    assert isinstance(verdict, Configuration), verdict
    return verdict


def test_add_promote_remove_and_codec() -> None:
    with_d = changed(decide(ABC, Add("D", "D:1"), calm()))
    assert with_d.voters == ("A", "B", "C")
    four = changed(decide(with_d, Promote("D"), calm(with_d)))
    assert four.voters == ("A", "B", "C", "D")
    three = changed(decide(four, Remove("B"), calm(four)))
    assert three.voters == ("A", "C", "D")
    assert three.retired == ("B",)
    assert decode_configuration(encode(three)) == three
    for change in (Add("D", "D:1"), Promote("D"), Remove("D"), Join(("A",))):
        assert decode_change(encode(change)) == change
    joined = changed(decide(three, Join(("A", "D", "X")), calm(three)))
    assert [seat.joined for seat in joined.seats] == [True, False, True]
    assert isinstance(decide(joined, Join(("A",)), calm(joined)), Already)


@pytest.mark.parametrize(
    ("change", "situation", "reason"),
    [
        (Add("D", "D:1"), calm(own_term_committed=False), "own term"),
        (Add("D", "D:1"), calm(pending=True), "not committed yet"),
        (Add("B", "B:2"), calm(), "member already, at B:1"),
        (Add("D", "B:1"), calm(), "address of B"),
        (Promote("X"), calm(), "not a member"),
        (Remove("X"), calm(), "not a member"),
        (Remove("A"), calm(), "transfer the leadership"),
        (Remove("B"), calm(live=frozenset("AB")), "only 1 of the then 2"),
    ],
)
def test_refusals_say_why(change: Change, situation: Situation, reason: str) -> None:
    verdict = decide(ABC, change, situation)
    assert isinstance(verdict, Refusal)
    assert reason in verdict.reason


def test_a_lagging_or_silent_observer_is_not_promoted_and_a_retired_id_not_added() -> None:
    with_d = changed(decide(ABC, Add("D", "D:1"), calm()))
    assert isinstance(decide(with_d, Promote("D"), calm(with_d, lag={"D": LAG_MAX + 1})), Refusal)
    assert isinstance(decide(with_d, Promote("D"), calm(with_d, lag={})), Refusal)
    assert isinstance(decide(with_d, Promote("D"), calm(with_d, live=frozenset("ABC"))), Refusal)
    gone = changed(decide(with_d, Remove("D"), calm(with_d)))
    assert isinstance(decide(gone, Add("D", "D:9"), calm(gone)), Refusal)
    assert isinstance(decide(gone, Remove("D"), calm(gone)), Already)


names = st.sampled_from("ABCDEF")
changes = st.one_of(
    st.builds(lambda name: Add(name, f"{name}:1"), names),
    st.builds(Promote, names),
    st.builds(Remove, names),
)


@given(st.lists(st.tuples(changes, st.sets(names), names), max_size=12))
@settings(max_examples=100, deadline=None)
def test_majorities_of_neighbours_intersect_and_a_majority_lives(
    steps: list[tuple[Change, set[str], str]],
) -> None:
    now = ABC
    for change, live, leader in steps:
        if not now.votes(leader):
            continue
        live |= {leader}
        situation = Situation(leader, False, True, frozenset(live), dict.fromkeys("ABCDEF", 0))
        verdict = decide(now, change, situation)
        if not isinstance(verdict, Configuration):
            continue
        before, after = set(now.voters), set(verdict.voters)
        assert len(before ^ after) <= 1
        for old in itertools.combinations(sorted(before), majority(len(before))):
            for new in itertools.combinations(sorted(after), majority(len(after))):
                assert set(old) & set(new)
        if before != after:
            assert len(after & live) >= majority(len(after))
        now = verdict


def test_a_truncated_configuration_is_out_of_force() -> None:
    d = changed(decide(ABC, Add("D", "D:1"), calm()))
    history = ConfigurationHistory(ABC)
    history.append(10, d)
    assert history.newest == d
    assert history.at(9) == ABC
    assert history.truncate(11) is False
    assert history.truncate(10) is True
    assert history.newest == ABC
    history.append(12, d)
    history.compact(11)
    assert history.at(11) == ABC
    history.compact(12)
    assert history.at(1) == d


# --------------------------------------------------------------------------------------- read index

VOTERS = ("A", "B", "C")


def test_a_late_read_waits_for_the_next_round() -> None:
    rounds: Rounds[str] = Rounds(first_id=7)
    rounds.arrive("early")
    begun = rounds.maybe_begin(3, Position(10, 3), "A")
    assert begun == Round(7, 3)
    rounds.arrive("late")
    assert rounds.maybe_begin(3, Position(11, 3), "A") is None
    rounds.answer("B", Round(7, 3))
    confirmed = rounds.maybe_finish(VOTERS)
    assert confirmed is not None
    assert confirmed == (("early",), Position(10, 3))
    assert rounds.maybe_begin(3, Position(12, 3), "A") == Round(8, 3)
    rounds.answer("B", Round(7, 3))  # an answer to the round before
    assert rounds.maybe_finish(VOTERS) is None
    rounds.answer("C", Round(8, 3))
    assert rounds.maybe_finish(VOTERS) == (("late",), Position(12, 3))


def test_only_distinct_voters_of_the_term_count() -> None:
    rounds: Rounds[str] = Rounds()
    rounds.arrive("r")
    begun = rounds.maybe_begin(3, Position(1, 3), "A")
    assert begun is not None
    five = ("A", "B", "C", "D", "E")
    rounds.answer("B", begun)
    rounds.answer("B", begun)
    rounds.answer("X", begun)
    rounds.answer("C", Round(begun.id, 4))
    assert rounds.maybe_finish(five) is None
    assert rounds.missing(five) == ("C", "D", "E")
    rounds.answer("D", begun)
    assert rounds.maybe_finish(five) is not None


def test_one_voter_alone_needs_no_answer_and_a_leader_that_is_no_voter_does_not_count() -> None:
    rounds: Rounds[str] = Rounds()
    rounds.arrive("r")
    rounds.maybe_begin(1, Position(1, 1), "A")
    assert rounds.maybe_finish(("B", "C")) is None
    assert rounds.maybe_finish(("A",)) is not None


def test_abandoned_reads_come_back_and_too_many_are_refused() -> None:
    rounds: Rounds[int] = Rounds()
    rounds.arrive(1)
    rounds.maybe_begin(1, Position(1, 1), "A")
    rounds.arrive(2)
    assert rounds.abandon() == (1, 2)
    assert rounds.idle
    assert all(rounds.arrive(i) for i in range(WAITING_MAX))
    assert not rounds.arrive(0)
