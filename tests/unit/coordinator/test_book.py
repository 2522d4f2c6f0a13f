"""Which term gave a revision, and whether a position that is kept is of this ledger (R12)."""

from __future__ import annotations

import pytest

from coordinator.machine.book import TERMS_MAX, Book
from kv.model import GENESIS_DIGEST, LedgerRow


def book(*rows: tuple[int, int, int]) -> Book:
    """Return a book with rows (first, last, term)."""
    made = Book()
    for seq, (first, last, term) in enumerate(rows, 1):
        made.enter(LedgerRow(seq, term, "", first, last, GENESIS_DIGEST, 0, (), seq))
    return made


LEDGER = book((1, 2, 3), (3, 3, 3), (4, 9, 5), (10, 10, 8))


def test_terms_are_remembered_by_their_first_revision() -> None:
    assert LEDGER.terms == ((1, 3), (4, 5), (10, 8))
    assert [LEDGER.term_of(revision) for revision in (0, 1, 3, 4, 9, 10)] == [0, 3, 3, 5, 5, 8]


@pytest.mark.parametrize(
    ("revision", "term", "upto"),
    [
        (3, 3, 3),
        (9, 5, 9),
        (10, 8, 10),
        (0, 0, 0),
        (7, 0, 7),  # bare: nothing is known against it
        (7, 3, 3),  # term 3's leader gave more, and a quorum lost it
        (10, 5, 9),
        (10, 3, 3),
        (7, 4, 3),  # nothing of term 4 is left
        (5, 7, 4),  # an older leader's row is there instead
        (11, 8, 11),  # it may still come
        (11, 9, 11),
        (11, 5, 9),  # it never will: the terms of a log only rise
        (2, 1, 0),
    ],
)
def test_a_kept_position_is_in_force_up_to(revision: int, term: int, upto: int) -> None:
    assert LEDGER.holds_to(revision, term, 10) == upto


def test_what_is_older_than_the_remembered_terms_is_taken_as_it_is() -> None:
    many = book(*((n, n, n) for n in range(1, TERMS_MAX + 11)))
    assert len(many.terms) == TERMS_MAX
    assert many.holds_to(5, 4, TERMS_MAX + 10) == 5
    assert many.holds_to(20, 4, TERMS_MAX + 10) == 10
    assert Book().holds_to(5, 4, 0) == 5


@pytest.mark.parametrize(
    ("told", "upto", "shared"),
    [
        (((1, 3), (4, 5), (10, 8)), 10, 10),
        (((1, 3), (4, 5)), 9, 9),
        (((1, 3), (4, 5)), 12, 9),  # a quorum lost what term 5's leader gave from 10 on
        (((1, 3),), 9, 3),
        (((1, 3), (4, 5), (7, 6)), 8, 6),  # and here what term 6's leader gave
        (((1, 3), (4, 5), (10, 8), (13, 9)), 20, 20),  # the log may still hold it
        (((1, 3), (4, 4), (5, 5)), 9, 3),  # twice, one after the other
        (((2, 3), (4, 5), (10, 8)), 10, 10),  # less is remembered there
        (((6, 6),), 9, 5),
        ((), 9, 9),
    ],
)
def test_what_was_told_is_shared_up_to(
    told: tuple[tuple[int, int], ...], upto: int, shared: int
) -> None:
    assert LEDGER.shared_with(told, upto, 10) == shared
    assert Book().shared_with(told, upto, 0) == upto
