"""Who is missing, why, and what to do about it."""

from __future__ import annotations

from cluster.local.readiness import (
    JOINING,
    REMOVED,
    Readiness,
    advice,
    judge_readiness,
    news,
    one_line,
)
from cluster.local.status import as_text

THREE = {
    "node": "n1",
    "leader": "n1",
    "members": [{"id": f"n{i}", "voter": True} for i in (1, 2, 3)],
}


def test_a_majority_of_the_voters_is_ready() -> None:
    assert judge_readiness({"n1": "", "n2": "", "n3": ""}, THREE) == Readiness(True, "n1", {})
    assert judge_readiness({"n1": "", "n2": "", "n3": "broken"}, THREE) == Readiness(
        True, "n1", {"n3": "broken"}
    )
    assert not judge_readiness({"n1": "", "n2": "slow", "n3": "broken"}, THREE).serving
    assert not judge_readiness({"n1": "", "n2": "", "n3": ""}, THREE | {"leader": None}).serving
    assert not judge_readiness({}, {}).serving


def test_an_observer_counts_for_nothing_and_a_removed_member_is_named() -> None:
    seen = THREE | {"members": [{"id": "n1", "voter": True}, {"id": "n2", "voter": False}]}
    found = judge_readiness({"n1": "", "n2": "x", "n3": "no leader is known"}, seen)
    assert found.serving
    assert found.missing == {"n2": "x", "n3": f"{REMOVED} (no leader is known)"}
    assert judge_readiness({"n1": "", "n4": ""}, THREE, {"n4"}).missing == {"n4": JOINING}
    before = Readiness(True, "n1", {"n2": "x", "n3": "no leader is known"})
    assert list(news(before, found)) == [f"n3 is not ready: {REMOVED} (no leader is known)"]
    assert any("python -m cluster remove n3 --data d" in line for line in advice(found, "d"))
    assert any("python -m cluster replace n2" in line for line in advice(found, "d"))


def test_a_store_that_waits_for_a_person_names_adopt() -> None:
    found = judge_readiness(
        {"n1": "r", "n2": "r", "n3": "r"}, THREE | {"refusal": "the store is behind"}
    )
    said = "\n".join(advice(found, "data"))
    assert "acordo adopt" in said
    assert "replace" not in said
    assert any("acordo adopt" in line for line in news(Readiness(True, "n1", {}), found))


def test_a_member_that_mends_its_own_store_waits_for_nobody() -> None:
    """R3, R5: only where the members differ without a majority somebody has to decide."""
    seen = {
        "leader": "n1",
        "node": "n1",
        "members": [{"id": "n1"}],
        "refusal": "own_store_diverged",
    }
    found = judge_readiness({"n1": "[-]ledger failed: diverged"}, seen)
    assert found.refusal == ""
    assert not any("decides" in line for line in advice(found, "data"))
    found = judge_readiness({"n1": ""}, seen | {"refusal": "own_store_undecided"})
    assert any("decide which member is right" in line for line in advice(found, "data"))
    assert not any("adopt" in line for line in advice(found, "data"))
    view = seen | {
        "quorum": True,
        "store_kind": "replicated",
        "store_state": "diverged",
        "store_detail": "row 7 differs",
    }
    text = as_text(view)
    assert "this one's is diverged: row 7 differs" in text
    assert "REFUSING WRITES: own_store_diverged\n  it mends its own store" in text


def test_changes_are_told_once() -> None:
    before = Readiness(True, "n1", {"n2": "down"})
    assert list(news(before, before)) == []
    assert list(news(before, Readiness(True, "n3", {"n1": "gone"}))) == [
        "n1 is not ready: gone", "n2 is ready, or left out", "n3 leads",
    ]  # fmt: skip
    assert list(news(before, Readiness(False, None, {"n2": "down"}))) == [
        "no quorum is ready: writes wait"
    ]


def test_only_failed_checks_are_told() -> None:
    said = (
        "[+]drain ok\n[-]leader failed: no leader is known\n"
        "[-]cache degraded (does not count): x\nreadyz check failed"
    )
    assert one_line(said) == "leader failed: no leader is known"
    assert one_line("a\n b") == "a; b"
