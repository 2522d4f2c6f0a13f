"""What the in-process cache does beyond its port: its bounds."""

from __future__ import annotations

from backends.local.cache import ENTRY_OVERHEAD_BYTES, MemoryCache
from kv.model import Entry, Reference, Version
from kv.ports import Space


def entry(key: bytes, size: int, as_of: int = 1) -> Entry:
    return Entry(key, Version(key, 1, b"x" * size), as_of)


def test_the_least_recently_used_entry_goes_first() -> None:
    cache = MemoryCache(entries_max=3)
    for key in (b"a", b"b", b"c"):
        cache.keep(Space(0), entry(key, 1))
    assert cache.peek(Space(0), b"a") is not None
    cache.keep(Space(0), entry(b"b", 1, as_of=2))
    cache.keep(Space(0), entry(b"d", 1))
    assert [cache.peek(Space(0), key) is not None for key in (b"a", b"b", b"c", b"d")] == [
        True,
        True,
        False,
        True,
    ]
    cache.keep(Space(1), entry(b"a", 1))
    assert len(cache) == 3


def test_bytes_are_bounded_and_counted_exactly() -> None:
    cache = MemoryCache(bytes_max=10_000)
    for n in range(200):
        cache.keep(Space(n % 2), entry(b"key%d" % (n % 50), (n * 37) % 900, as_of=n))
        held = [cache.peek(Space(n), b"key%d" % key) for n in (0, 1) for key in range(50)]
        sizes = [
            ENTRY_OVERHEAD_BYTES + len(e.key) + len(e.version.value)
            for e in held
            if e and e.version and isinstance(e.version.value, bytes)
        ]
        assert sum(sizes) == cache.bytes_held <= 10_000
    assert len(cache) > 5


def test_an_entry_larger_than_the_cache_is_not_kept_and_drives_nothing_out() -> None:
    cache = MemoryCache(bytes_max=5_000)
    cache.keep(Space(0), entry(b"small", 10))
    cache.keep(Space(0), entry(b"huge", 6_000))
    assert cache.peek(Space(0), b"huge") is None
    assert cache.peek(Space(0), b"small") is not None


def test_references_and_missing_keys_cost_little() -> None:
    cache = MemoryCache(bytes_max=2 * (ENTRY_OVERHEAD_BYTES + 1))
    cache.keep(Space(0), Entry(b"a", Version(b"a", 1, Reference("op", b"\0" * 32, 10**6)), 1))
    cache.keep(Space(0), Entry(b"b", None, 1))
    assert len(cache) == 2
