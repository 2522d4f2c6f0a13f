"""Two processes that use one id are told from a restart."""

from __future__ import annotations

from coordinator.raft.net.duplicate_ids import ALIVE_AFTER_S, SEEN_S, IdUse


def test_a_restart_is_no_second_process() -> None:
    seen = IdUse()
    assert seen.came(b"one", None, 0.0) == "in"
    assert seen.came(b"two", b"one", 1.0) == "wait", "the old connection may be half-dead"
    assert not seen.heard(1.0 + ALIVE_AFTER_S), "what was on its way still arrives"
    seen.lost()
    assert seen.came(b"two", None, 2.5) == "in"
    assert not seen.heard(10.0)


def test_who_stood_still_reads_what_waited_and_does_not_take_it_for_life() -> None:
    seen = IdUse()
    seen.came(b"one", None, 0.0)
    assert seen.came(b"two", b"one", 1.0) == "wait"
    seen.postpone(50.0)
    assert not seen.heard(50.0)


def test_two_that_are_both_alive_are_both_refused_until_one_is_gone() -> None:
    seen = IdUse()
    seen.came(b"one", None, 0.0)
    assert seen.came(b"two", b"one", 1.0) == "wait"
    assert seen.heard(1.1 + ALIVE_AFTER_S)
    assert seen.came(b"one", None, 2.0) == "refused"
    assert seen.came(b"two", None, 2.1) == "refused"
    assert seen.came(b"two", None, 2.0 + SEEN_S) == "in", "the other one has not come for so long"
    assert not seen.duplicated
