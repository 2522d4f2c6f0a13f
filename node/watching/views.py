"""Track which watched prefixes a settled event touches. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from kv.ports import Settled

T = TypeVar("T")


class View(Generic[T]):
    """The watchers of one prefix."""

    __slots__ = ("members", "prefix", "touched")

    def __init__(self, prefix: bytes, touched: int) -> None:
        self.prefix = prefix
        self.members: set[T] = set()
        self.touched = touched
        """No settled revision above this one changed a key under the prefix."""


class Views(Generic[T]):
    """The views of all watched prefixes. A settled event is matched by its keys, so that only the
    watchers it concerns are woken.
    """

    def __init__(self) -> None:
        self._by_prefix: dict[bytes, View[T]] = {}
        self._lengths: dict[int, int] = {}
        """Prefix length → number of prefixes of that length."""

    def join(self, member: T, prefix: bytes, end: int) -> View[T]:
        """Add a member. `end`: the newest settled revision, from which on a new view tracks
        changes; what happened up to it counts as touched.
        """
        view = self._by_prefix.get(prefix)
        if view is None:
            view = self._by_prefix[prefix] = View(prefix, end)
            self._lengths[len(prefix)] = self._lengths.get(len(prefix), 0) + 1
        view.members.add(member)
        return view

    def leave(self, member: T, prefix: bytes) -> None:
        """Remove a member. Does nothing if it is not one."""
        view = self._by_prefix.get(prefix)
        if view is None:
            return
        view.members.discard(member)
        if not view.members:
            del self._by_prefix[prefix]
            self._lengths[len(prefix)] -= 1
            if not self._lengths[len(prefix)]:
                del self._lengths[len(prefix)]

    def touch(self, event: Settled, *, continues: bool) -> list[View[T]]:
        """Record a settled event; return the views that it touches: all views when the changed keys
        are not known.
        """
        if not self._by_prefix:
            return []
        if not continues or event.versions is None:
            for view in self._by_prefix.values():
                view.touched = max(view.touched, event.last)
            return list(self._by_prefix.values())
        found: dict[bytes, View[T]] = {}
        for version in event.versions:
            for view in self._above(version.key):
                view.touched = max(view.touched, version.revision)
                found[view.prefix] = view
        return list(found.values())

    def _above(self, key: bytes) -> Iterator[View[T]]:
        for length in self._lengths:
            if length <= len(key):
                view = self._by_prefix.get(key[:length])
                if view is not None:
                    yield view
