"""The judgement alone: what holds may be served, and nothing else (INV-5)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kv.model import Entry, Head, Version
from kv.ports import Settled
from node.judging.freshness import age_s, entry_holds, snapshot_serves
from node.reads.memory import MemoryTier

KEYS = (b"a", b"b", b"c")


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(KEYS), max_size=30),
    st.integers(0, 30),
    st.integers(0, 30),
    st.integers(0, 5),
)
def test_an_entry_that_holds_is_the_newest(
    writes: list[bytes], as_of: int, read_at: int, remembered: int
) -> None:
    """Against a dumb twin: a history of writes, an entry read at `as_of`, judged at `read_at` with
    a small memory.
    """
    as_of, read_at = min(as_of, len(writes)), min(read_at, len(writes))
    last: dict[bytes, int] = {}
    floor = 0
    for revision, key in enumerate(writes[:read_at], 1):
        last.pop(key, None)
        last[key] = revision
        while len(last) > remembered:
            floor = max(floor, last.pop(next(iter(last))))

    def newest(key: bytes, at: int) -> int:
        return max((n for n, k in enumerate(writes[:at], 1) if k == key), default=0)

    for key in KEYS:
        found = newest(key, as_of)
        entry = Entry(key, Version(key, found, b"v") if found else None, as_of)
        if entry_holds(entry, max(last.get(key, 0), floor)):
            assert found >= newest(key, read_at)
        elif floor == 0:
            assert found < newest(key, read_at)


def test_a_snapshot_serves_only_what_was_settled() -> None:
    settled = Head(last=5, digest=b"d5")
    assert snapshot_serves(settled, Head(last=5, digest=b"d5"), b"d5")
    assert snapshot_serves(settled, Head(last=9, digest=b"d9"), b"d5")
    # restored, or a stale copy
    assert not snapshot_serves(settled, Head(last=4, digest=b"d4"), None)
    assert not snapshot_serves(settled, Head(last=9, digest=b"x9"), b"x5")  # another history
    assert not snapshot_serves(settled, Head(last=9, digest=b"d9"), None)  # nothing to compare with
    assert snapshot_serves(Head(), Head(), None)
    assert snapshot_serves(Head(), Head(last=9, digest=b"d9"), None)


def test_ages_are_bounds() -> None:
    assert age_s(10.0, True, 8.0, None) == 2.0
    assert age_s(10.0, True, 8.0, 9.0) == 1.0
    # it did not hold: that round proves nothing about it
    assert age_s(10.0, False, 9.5, 7.0) == 3.0
    assert age_s(10.0, False, 9.5, None) is None
    assert age_s(10.0, True, None, None) is None
    assert age_s(10.0, True, 11.0, None) == 0.0


def test_nothing_told_before_is_kept_once_some_of_it_is_undone() -> None:
    memory = MemoryTier(10_000, 1)
    memory.keep(Entry(b"a", Version(b"a", 3, b"wrong"), 9), None)
    assert memory.settled(Settled(9, 9, b"", (), None, 0), None) == []
    assert memory.get(b"a") is not None
    assert memory.settled(Settled(5, 5, b"", (), None, 0, 5), None) == []
    assert memory.get(b"a") is None
