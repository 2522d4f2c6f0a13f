"""last[key] and floor: forgetting errs towards "refresh" only (INV-5). op_id window: bounded, first
entry stays.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.machine.recent import RANGES_MAX, Recent
from coordinator.machine.window import Known, Window, meets
from kv.model import Again, Applied, Expired, Mismatch, Recorded, Refused

touches = st.lists(st.sampled_from([b"a", b"b", b"c", b"d", b"e"]), max_size=60)


@given(touches, st.integers(1, 40))
def test_touched_is_never_below_the_truth(keys: list[bytes], entries_max: int) -> None:
    recent, truth = Recent(entries_max), dict[bytes, int]()
    for revision, key in enumerate(keys, 1):
        recent.touch(key, revision)
        truth[key] = revision
        assert len(recent) <= entries_max
        for other in b"a", b"b", b"c", b"d", b"e":
            assert recent.touched(other) >= truth.get(other, 0)
            if recent.last(other) is None and other in truth:
                assert recent.floor >= truth[other]
        assert recent.touched(key) == revision


RANGES = [(b"a", b""), (b"a", b"c"), (b"b", b"\0"), (b"d", b"e"), (b"c", b"a")]
mixed = st.lists(
    st.one_of(st.sampled_from([b"a", b"b", b"c", b"d", b"e"]), st.sampled_from(RANGES)), max_size=90
)


@given(mixed, st.integers(1, 4), st.integers(0, 90))
def test_ranges_touch_every_key_in_them(
    seen: list[bytes | tuple[bytes, bytes]], entries_max: int, cut: int
) -> None:
    recent, truth = Recent(entries_max), dict[bytes, int]()
    for revision, each in enumerate(seen, 1):
        if isinstance(each, bytes):
            recent.touch(each, revision)
            truth[each] = revision
        else:
            recent.touch_range(*each, revision)
            begin, end = each
            for key in b"a", b"b", b"c", b"d", b"e":
                if key == begin if not end else begin <= key and (end == b"\0" or key < end):
                    truth[key] = revision
        if revision == cut:
            restored = Recent(entries_max)
            restored.restore(recent.entries().items(), recent.floor, recent.ranges)
            recent = restored
        for key, last in truth.items():
            assert recent.touched(key) >= last


def test_more_ranges_than_are_kept_raise_the_floor() -> None:
    recent = Recent(10)
    for n in range(1, RANGES_MAX + 1):
        recent.touch_range(b"%03d" % n, b"%03d" % (n + 1), n)
    recent.touch_range(b"001", b"002", RANGES_MAX + 1)  # the same one again is no other
    assert (len(recent.ranges), recent.floor) == (RANGES_MAX, 0)
    recent.touch_range(b"x", b"", RANGES_MAX + 2)
    assert (len(recent.ranges), recent.floor) == (RANGES_MAX, 2)
    assert recent.touched(b"other") == 2
    assert recent.touched(b"001") == RANGES_MAX + 1
    recent.raise_floor(1000)
    recent.touch_range(b"y", b"z", 1001)
    assert recent.ranges == ((b"y", b"z", 1001),)
    recent.clear()
    assert not recent.ranges
    assert recent.touched(b"y") == 0


@given(touches, st.integers(1, 20))
def test_restored_recent_goes_on_the_same(keys: list[bytes], cut: int) -> None:
    straight, restored = Recent(3), Recent(3)
    for revision, key in enumerate(keys, 1):
        straight.touch(key, revision)
        if revision == cut:
            restored.restore(straight.entries().items(), straight.floor)
        elif revision > cut:
            restored.touch(key, revision)
    if len(keys) >= cut:
        assert list(restored.entries().items()) == list(straight.entries().items())
        assert restored.floor == straight.floor


def test_forgets_the_oldest_touch_first() -> None:
    recent = Recent(2)
    for revision, key in enumerate([b"a", b"b", b"a", b"c"], 1):
        recent.touch(key, revision)
    assert recent.entries() == {b"a": 3, b"c": 4}
    assert recent.floor == 2


def first(op_id: str, body: bytes = b"h") -> Recorded:
    return Recorded(op_id, body, Applied())


def test_window_keeps_between_half_and_all_of_its_bound() -> None:
    window = Window(10, 1000)
    for n in range(1, 100):
        window.record(first(f"op{n}"), n, 0)
        assert min(n, 5) <= len(window) <= 10
        assert all(window.get(f"op{m}", 0) is not None for m in range(max(1, n - 4), n + 1))
    assert window.get("op1", 0) is None


def test_window_never_replaces_and_enters_first_outcomes_only() -> None:
    window = Window(10, 1000)
    window.record(Recorded("op", b"h", Refused(0, 1)), 1, 0)
    for outcome in (Applied(), Again(1, Applied()), Mismatch(), Expired()):
        window.record(Recorded("op", b"i", outcome), 2, 0)
    assert window.get("op", 0) == Known(b"h", 1, Refused(0, 1), 0)
    for outcome in (Again(1, Applied()), Mismatch()):
        window.record(Recorded("new", b"i", outcome), 3, 0)
    assert window.get("new", 0) is None


def test_op_id_is_free_again_after_its_retention() -> None:
    window = Window(10, 1000)
    window.record(first("op"), 1, 500)
    assert window.get("op", 1500) is not None
    assert window.get("op", 1501) is None
    window.record(first("op", b"other"), 9, 1501)
    assert window.get("op", 1501) == Known(b"other", 9, Applied(), 1501)


@pytest.mark.parametrize(
    ("known", "body", "same"),
    [(b"h", b"h", True), (b"h", b"i", False), (b"", b"i", True), (b"h", b"", True)],
)
def test_a_cancel_meets_any_body(known: bytes, body: bytes, same: bool) -> None:
    assert meets(known, body) is same
    window = Window(4, 9)
    told = window.meet(Known(known, 3, Expired(), 0), body)
    assert told.outcome == (Again(3, Expired()) if same else Mismatch())


@given(st.lists(st.sampled_from("abcdefgh"), max_size=40), st.integers(1, 12), st.integers(1, 39))
def test_window_captured_in_parts_goes_on_the_same(
    op_ids: list[str], entries_max: int, cut: int
) -> None:
    straight, restored = Window(entries_max, 7), Window(entries_max, 7)
    for n, op_id in enumerate(op_ids):
        if n == cut:
            old, young = straight.capture()
            restored.restore(
                [item for part in old for item in part.items()],
                [item for part in young for item in part.items()],
            )
        straight.record(first(op_id), n, n)
        if n >= cut:
            restored.record(first(op_id), n, n)
            assert list(restored.entries().items()) == list(straight.entries().items())


def test_captured_parts_never_change() -> None:
    window = Window(100_000, 1000)
    for n in range(3000):
        window.record(first(f"op{n}"), n, 0)
    old, young = window.capture()
    count = sum(len(part) for part in (*old, *young))
    for n in range(3000, 4500):
        window.record(first(f"op{n}"), n, 0)
    assert count == 3000 == sum(len(part) for part in (*old, *young))
    old, young = window.capture()
    assert sum(len(part) for part in (*old, *young)) == 4500 == len(window)


@pytest.mark.parametrize("entries_max", [1499, 1500, 1501])
def test_a_lower_bound_forgets_the_same_whenever_snapshots_were_taken(entries_max: int) -> None:
    plain, captured = Window(8000, 1000), Window(8000, 1000)
    for window in plain, captured:
        for n in range(1500):
            window.record(Recorded(f"op{n}", b"h", Applied()), n, 0)
        if window is captured:
            window.capture()
        window.record(Recorded("op0", b"h", Applied()), 1500, 2000)
    restored = Window(8000, 1000)
    old, young = captured.capture()
    restored.restore(
        (each for part in old for each in part.items()),
        (each for part in young for each in part.items()),
    )
    for window in plain, captured, restored:
        window.bound(entries_max, 1000)
    assert plain.entries() == captured.entries() == restored.entries()
