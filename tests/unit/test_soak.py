"""What a soak calls growth."""

from __future__ import annotations

import random

from bench.soak import fitted

HOUR_S = 3600


def test_what_grows_is_told_and_noise_is_not() -> None:
    rng = random.Random(1)
    noise = [(at, 100 + rng.gauss(0, 3)) for at in range(0, HOUR_S // 2, 5)]
    assert not fitted("noise", noise).is_too_much
    leak = [(at, value + at / HOUR_S * 20) for at, value in noise]
    grown = fitted("leak", leak)
    assert grown.is_too_much
    assert abs(grown.an_hour - 0.19) < 0.06
    shrinks = fitted("shrinks", [(at, value - at / HOUR_S * 20) for at, value in noise])
    assert not shrinks.is_too_much


def test_a_step_in_the_noise_of_a_saw_is_no_growth() -> None:
    saw = [(at, 50 + at % 120 / 10) for at in range(0, HOUR_S // 2, 5)]
    assert not fitted("saw", saw).is_too_much
