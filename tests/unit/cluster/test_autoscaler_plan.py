"""Whether there is to be one observer more or less, decided from figures and time."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cluster.autoscaler.plan import (
    REASONS,
    REPAIR_REST,
    Band,
    Bounds,
    Decision,
    Figures,
    Memory,
    plan,
)

BOUNDS = Bounds(
    0, 3, Band(8, 32), Band(0.1, 0.5), Band(0.3, 0.8), rounds_high=2, rounds_low=3, cool_down_s=60
)


BUSY = Figures(50, 0.2, 0.5)


IDLE = Figures(0.1, None, 0.01)


FAIR = Figures(20, 0.2, 0.5)


NOTHING = Figures(None, None, None)


number = st.one_of(st.none(), st.floats(0, 100))


all_figures = st.builds(
    Figures, number, st.one_of(st.none(), st.floats(0, 2)), st.one_of(st.none(), st.floats(0, 2))
)


def decisions_of(
    story: list[Figures], observers: int = 0, step_s: float = 30.0, bounds: Bounds = BOUNDS
) -> list[Decision]:
    """Return the decisions of a story in which each is carried out at once."""
    memory, decisions = Memory(), []
    for n, figures in enumerate(story):
        decision = plan(figures, observers, bounds, memory, n * step_s)
        memory, observers = decision.memory, observers + decision.change
        decisions.append(decision)
    return decisions


def test_one_busy_round_is_not_enough_two_are() -> None:
    assert [d.change for d in decisions_of([BUSY, FAIR, BUSY, BUSY])] == [0, 0, 0, 1]


def test_it_rests_after_a_change() -> None:
    decisions = decisions_of([BUSY] * 6)
    assert [(d.change, d.reason) for d in decisions] == [
        (0, "waiting"), (1, "busy"), (0, "waiting"), (1, "busy"), (0, "waiting"), (1, "busy"),
    ]  # fmt: skip
    assert [d.reason for d in decisions_of([BUSY] * 4, step_s=10)] == [
        "waiting",
        "busy",
        "waiting",
        "cooling_down",
    ]


def test_it_goes_back_when_all_is_low_and_not_when_one_figure_is_fair() -> None:
    assert [d.change for d in decisions_of([IDLE] * 3, observers=1)] == [0, 0, -1]
    assert all(d.change == 0 for d in decisions_of([Figures(0.1, None, 0.5)] * 9, observers=1))


def test_missing_figures_change_nothing_and_begin_the_count_anew() -> None:
    assert [d.reason for d in decisions_of([BUSY, NOTHING, BUSY], step_s=100)] == [
        "waiting",
        "no_figures",
        "waiting",
    ]
    assert all(d.change == 0 for d in decisions_of([NOTHING] * 9, observers=2))


def test_the_bounds_come_before_everything() -> None:
    assert plan(NOTHING, 4, BOUNDS, Memory(), 0).change == -1
    assert plan(BUSY, 3, BOUNDS, Memory(high=9), 1e9).reason == "at_maximum"
    assert plan(IDLE, 0, BOUNDS, Memory(low=9), 1e9).reason == "at_minimum"


def test_an_observer_that_always_dies_is_replaced_only_so_often() -> None:
    memory, changes = Memory(), []
    bounds = replace(BOUNDS, observers_min=1)
    for now in range(0, 61, 5):  # it is gone again at each round
        decision = plan(FAIR, 0, bounds, memory, now)
        memory = decision.memory
        changes.append(decision.change)
        assert decision.reason == ("below_minimum" if decision.change else "cooling_down")
    assert changes == [1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1]


@given(
    st.lists(st.tuples(all_figures, st.booleans()), max_size=60),
    st.integers(0, 6),
    st.floats(1, 120),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_whatever_is_measured_the_rules_hold(
    story: list[tuple[Figures, bool]], observers: int, step_s: float, low: int, more: int
) -> None:
    bounds = Bounds(low, low + more, BOUNDS.in_flight, BOUNDS.p99_s, BOUNDS.cpu, 2, 3, 60)
    memory, changed_at = Memory(), -math.inf
    for n, (figures, dies) in enumerate(story):
        now = n * step_s
        decision = plan(figures, observers, bounds, memory, now)
        assert decision.reason in REASONS and decision.because
        within = bounds.observers_min <= observers <= bounds.observers_max
        observers += decision.change
        if within:
            assert bounds.observers_min <= observers <= bounds.observers_max
            if decision.change:
                assert now - changed_at >= bounds.cool_down_s
                assert figures.in_flight is not None or figures.cpu is not None
            if decision.change < 0:
                assert figures.in_flight is not None and figures.in_flight < bounds.in_flight.low
                assert figures.p99_s is None or figures.p99_s < bounds.p99_s.low
                assert figures.cpu is not None and figures.cpu < bounds.cpu.low
        elif now - changed_at >= bounds.cool_down_s * REPAIR_REST:
            assert decision.change == (
                1 if observers - decision.change < bounds.observers_min else -1
            )
        else:
            assert (decision.change, decision.reason) == (0, "cooling_down")
        if decision.change:
            assert now - changed_at >= bounds.cool_down_s * REPAIR_REST
            changed_at = now
        if dies:
            observers = max(observers - 1, 0)
        memory = decision.memory


@given(all_figures, st.integers(0, 3))
def test_the_same_figures_for_ever_come_to_rest(figures: Figures, observers: int) -> None:
    changes = [d.change for d in decisions_of([figures] * 100, observers)]
    assert len({c for c in changes if c}) <= 1, "never up and down again"
    assert not any(changes[50:])
