"""Know which watched prefixes what settles has touched. Pure."""

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
        """No revision above this one, of those that settled here, changed a key under the
        prefix.
        """


class Views(Generic[T]):
    """All views by prefix: what settles is looked up by its keys, and nobody else is woken."""

    def __init__(self) -> None:
        self._by_prefix: dict[bytes, View[T]] = {}
        self._lengths: dict[int, int] = {}
        """How many prefixes have a length."""

    def join(self, member: T, prefix: bytes, end: int) -> View[T]:
        """Add a member; `end`: newest revision that settled here, of which nothing is known for a
        new prefix.
        """
        view = self._by_prefix.get(prefix)
        if view is None:
            view = self._by_prefix[prefix] = View(prefix, end)
            self._lengths[len(prefix)] = self._lengths.get(len(prefix), 0) + 1
        view.members.add(member)
        return view

    def leave(self, member: T, prefix: bytes) -> None:
        """Remove a member, if it is one."""
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
        """Note what settled; return the views that it concerns: all when it is not known which keys
        it changed.
        """
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
