"""What a shared cache holds is an entry only if this history signed it, for that very key and
namespace.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backends.seal import seal, unseal
from kv.model import Entry, Version
from kv.ports import Space

MINE = Space(1 << 40, b"m" * 32)
ENTRY = Entry(b"k", Version(b"k", 5, b"value"), 7)


def test_round_trip() -> None:
    assert unseal(MINE, b"k", seal(MINE, ENTRY)) == ENTRY
    assert seal(MINE, ENTRY)[:16] == b"%016x" % 7  # what the script in the cache compares


@given(st.integers(0, len(seal(MINE, ENTRY)) - 1), st.integers(1, 255))
def test_no_changed_byte_goes_unseen(at: int, change: int) -> None:
    raw = bytearray(seal(MINE, ENTRY))
    raw[at] ^= change
    assert unseal(MINE, b"k", bytes(raw)) is None


def test_neither_another_place_nor_another_history() -> None:
    raw = seal(MINE, ENTRY)
    assert unseal(MINE, b"kk", raw) is None
    assert unseal(Space(MINE.namespace + 1, MINE.key), b"k", raw) is None
    assert unseal(Space(MINE.namespace, b"o" * 32), b"k", raw) is None
    moved = seal(MINE, Entry(b"k", Version(b"l", 5, b"value"), 7))
    assert unseal(MINE, b"k", moved) is None


@given(st.one_of(st.none(), st.integers(), st.binary(max_size=80)))
def test_garbage_is_no_entry(raw: object) -> None:
    assert unseal(MINE, b"k", raw) is None


def test_the_key_is_not_shown() -> None:
    assert "m" * 8 not in repr(MINE)
