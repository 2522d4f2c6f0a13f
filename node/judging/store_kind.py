"""Choose the store that a node reads: the one that all members share, or this member's own."""

from __future__ import annotations

from kv.ports import MemberStore, Store, StoreReader


def reader_of(shared: Store | None, own: MemberStore | None) -> StoreReader:
    """Return the one store that is given."""
    if own is not None:
        assert shared is None, "a node has one store"
        return own
    assert shared is not None, "a node has a store"
    return shared
