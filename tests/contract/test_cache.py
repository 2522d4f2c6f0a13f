"""Hold every Cache to its port: it may forget at any time, but never mixes keys, namespaces or ages
up.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kv.model import Entry, Reference, Version
from kv.ports import Cache, Space

ENTRIES = (
    Entry(b"plain", Version(b"plain", 3, b"value"), 7),
    Entry(b"missing", None, 7),
    Entry(b"tombstone", Version(b"tombstone", 5, None), 7),
    Entry(b"empty", Version(b"empty", 6, b""), 7),
    Entry(b"expiring", Version(b"expiring", 6, b"x", 123_456_789_012), 7),
    Entry(b"large", Version(b"large", 7, Reference("op/ü", b"\1" * 32, 900_000)), 7),
    Entry(b"\x00\xff:{}\r\n", Version(b"\x00\xff:{}\r\n", 2, b"\x00\xff:{}\r\n"), 7),
    Entry(b"\xff" * 1024, Version(b"\xff" * 1024, 1, b"y" * 65_536), 2**53 - 1),
)
NAMESPACES = itertools.count(100, 2)


def space(namespace: int, key: bytes = b"k" * 32) -> Space:
    return Space(namespace, key)


async def test_an_empty_cache_holds_nothing(cache: Cache) -> None:
    assert await cache.get(space(0), [b"a", b"b"]) == (None, None)
    assert await cache.get(space(0), []) == ()
    assert cache.healthy()


async def test_entries_come_back_as_they_were_put_in_the_order_asked(cache: Cache) -> None:
    await cache.put(space(0), ENTRIES)
    asked = [entry.key for entry in ENTRIES]
    assert await cache.get(space(0), asked) == ENTRIES
    assert await cache.get(space(0), [*reversed(asked), b"never", asked[0]]) == (
        *reversed(ENTRIES),
        None,
        ENTRIES[0],
    )
    await cache.put(space(0), [])
    assert await cache.get(space(0), asked) == ENTRIES


@pytest.mark.parametrize("as_of", [6, 7])
async def test_an_entry_is_replaced_by_a_newer_one_only(cache: Cache, as_of: int) -> None:
    """INV-5 does not need it, but a slow filler must not undo what a settle has brought."""
    held = Entry(b"k", Version(b"k", 5, b"new"), 7)
    await cache.put(space(0), [held])
    await cache.put(space(0), [Entry(b"k", Version(b"k", 4, b"old"), as_of)])
    assert await cache.get(space(0), [b"k"]) == (held,)
    newer = Entry(b"k", None, 8)
    await cache.put(space(0), [newer])
    assert await cache.get(space(0), [b"k"]) == (newer,)


async def test_the_newest_of_one_call_stays(cache: Cache) -> None:
    made = [Entry(b"k", Version(b"k", n, b"%d" % n), n) for n in (3, 9, 5)]
    await cache.put(space(0), made)
    assert await cache.get(space(0), [b"k"]) == (made[1],)


async def test_as_of_is_compared_as_a_number(cache: Cache) -> None:
    for as_of in (9, 10, 2**53 - 2, 2**53 - 1):
        entry = Entry(b"k", None, as_of)
        await cache.put(space(0), [entry])
        assert await cache.get(space(0), [b"k"]) == (entry,)


async def test_namespaces_are_apart(cache: Cache) -> None:
    first, second = Entry(b"k", Version(b"k", 9, b"1"), 9), Entry(b"k", Version(b"k", 2, b"2"), 2)
    await cache.put(space(0), [first])
    assert await cache.get(space(1), [b"k"]) == (None,)
    await cache.put(space(1), [second])
    assert await cache.get(space(1), [b"k"]) == (second,), (
        "an older as_of in a new namespace is not held back by the old one"
    )
    assert await cache.get(space(0), [b"k"]) == (first,)
    assert await cache.get(space(10), [b"k"]) == (None,)


async def test_many_entries_at_once(cache: Cache) -> None:
    made = [
        Entry(b"key%d" % n, Version(b"key%d" % n, n + 1, b"v" * (n % 300)), n + 1)
        for n in range(1000)
    ]
    await cache.put(space(3), made)
    assert await cache.get(space(3), [entry.key for entry in made]) == tuple(made)


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    puts=st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from([b"a", b"b", b"c"]), st.integers(0, 5)),
        max_size=30,
    )
)
async def test_any_order_of_puts_leaves_the_newest(
    cache: Cache, puts: list[tuple[int, bytes, int]]
) -> None:
    base = next(NAMESPACES)  # one cache serves all examples
    newest: dict[tuple[int, bytes], int] = {}
    for namespace, key, as_of in puts:
        await cache.put(space(base + namespace), [Entry(key, None, as_of)])
        newest[base + namespace, key] = max(as_of, newest.get((base + namespace, key), 0))
    for (namespace, key), as_of in newest.items():
        assert await cache.get(space(namespace), [key]) == (Entry(key, None, as_of),)


async def test_what_another_history_signed_is_no_entry(cache: Cache) -> None:
    """Two clusters that drew one namespace: whoever has the cache has not the key."""
    mine, other = space(50, b"m" * 32), space(50, b"o" * 32)
    entry = Entry(b"k", Version(b"k", 9, b"theirs"), 9)
    await cache.put(other, [entry])
    assert await cache.get(mine, [b"k"]) == (None,)
    assert await cache.get(other, [b"k"]) == (entry,)
