"""What a write asks about its key is known from memory, and forgotten within bounds."""

from __future__ import annotations

import pytest

from backends.replicated import facts
from backends.replicated.facts import Newest
from kv.content import hash_of
from kv.model import Version


def settle(newest: Newest, *versions: Version) -> None:
    newest.settle(versions, [hash_of(version) for version in versions])


def test_the_newest_version_of_a_key_is_known_without_its_value() -> None:
    newest = Newest()
    settle(
        newest, Version(b"k", 1, b"old"), Version(b"k", 2, b"new", 77), Version(b"gone", 3, None)
    )
    assert newest.get(b"k") == (Version(b"k", 2, b"", 77), hash_of(Version(b"k", 2, b"new")))
    assert newest.get(b"gone") == (Version(b"gone", 3, None), b"")
    assert newest.get(b"never") is None


def test_a_key_that_was_written_again_is_not_known_by_its_older_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(facts, "KEPT_MAX", 2)
    newest = Newest()
    settle(newest, *[Version(f"k{n}".encode(), n, b"") for n in range(1, 4)])
    settle(newest, Version(b"k1", 9, b"again"))
    found = newest.get(b"k1")
    assert found is not None and found[0].revision == 9


def test_keys_are_forgotten_two_generations_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "KEPT_MAX", 2)
    newest = Newest()
    for n in range(1, 10):
        settle(newest, Version(f"k{n}".encode(), n, b""))
    assert newest.get(b"k1") is None
    assert newest.get(b"k9") is not None


def test_nothing_is_known_once_the_file_was_cut_back() -> None:
    newest = Newest()
    settle(newest, Version(b"k", 1, b"v"))
    newest.clear()
    assert newest.get(b"k") is None
