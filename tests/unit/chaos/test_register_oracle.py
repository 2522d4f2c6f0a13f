"""The register checker agrees with a brute-force oracle on random histories (many more: `make
oracle`).
"""

from __future__ import annotations

from tests.unit.chaos import oracle


def test_checker_and_oracle_agree_on_random_histories() -> None:
    legals, wrong = oracle.differences(oracle.checked, seed=7, count=3_000)
    assert wrong == []
    assert 900 < legals < 2_700, "the histories must be neither all legal nor all illegal"
