"""The kinds of store by which API tests are run, and the one list of tests that a kind excuses.

The shared one is a store in memory in the unit ring, and a PostgreSQL database in the e2e ring.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pytest

KINDS: Final = ("shared", "replicated")

EXCUSED: Final[dict[str, tuple[str, str]]] = {
    "test_large_values_are_staged": ("replicated", "R11: values travel in the log, none is staged"),
    "test_large_transactions_stay_small_in_the_log": ("replicated", "R11"),
    "test_reads_alone_are_one_snapshot_and_no_intent": (
        "replicated",
        "R7: without a quorum nothing is read linearizably",
    ),
    "test_a_store_of_another_is_not_served": (
        "replicated",
        "R5: what a file holds is held against the log, and nobody else's file is read",
    ),
    "test_an_operation_of_another_history_is_not_told_as_ours": ("replicated", "R5"),
    "test_nothing_is_served_before_the_history_is_founded": (
        "replicated",
        "R7: a round fails before; what is read without one is this member's own, and empty",
    ),
    "test_the_own_store_is_served_without_a_quorum": ("replicated", "R7"),
    "test_without_a_quorum_writes_are_refused_and_reads_go_on": (
        "replicated",
        "R7: session and stale reads go on, which tests/e2e/test_own_stores.py shows",
    ),
}
"""(kind, rule that excuses it) by the test's name."""


def excuse(items: Sequence[pytest.Item]) -> None:
    """Skip what the list excuses."""
    for item in items:
        kind, rule = EXCUSED.get(getattr(item, "originalname", item.name), ("", ""))
        callspec = getattr(item, "callspec", None)
        if kind and callspec is not None and kind in callspec.params.values():
            item.add_marker(pytest.mark.skip(reason=f"{kind} store: {rule}"))
