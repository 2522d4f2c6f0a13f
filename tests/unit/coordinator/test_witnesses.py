"""Whose contents are right: counted in witnesses, and never guessed."""

from __future__ import annotations

import pytest

from coordinator.replicated.marks import KEPT, PREFIX_BYTES, ContentMarks
from coordinator.replicated.witnesses import ContentVerdict, Telling, confirmed, differing, judge

A, B, C = b"a" * 8, b"b" * 8, b"c" * 8
OWN = {7: A, 9: A}


def telling(
    member: str, digest: bytes, *, seq: int = 7, voter: bool = True, witness: bool = True
) -> Telling:
    return Telling(member, seq, digest, voter, witness)


@pytest.mark.parametrize(
    ("own_counts", "tellings", "voters", "verdict"),
    [
        (True, [], 1, "alike"),
        (True, [], 3, "alike"),
        (True, [telling("b", A)], 3, "alike"),
        # one of three differs: two agree
        (True, [telling("b", A), telling("c", B)], 3, "alike"),
        (True, [telling("b", B), telling("c", B)], 3, "diverged"),
        # the third has not told of that row, but agrees later on: then it agreed there
        (True, [telling("b", A, seq=9), telling("c", B)], 3, "alike"),
        # the third has told nothing, or of a row before: nobody knows
        (True, [telling("c", B)], 3, "undecided"),
        (True, [telling("b", A, seq=7), telling("c", B, seq=9)], 3, "undecided"),
        # three contents among three
        (True, [telling("b", B), telling("c", C)], 3, "undecided"),
        # two voters cannot outvote each other
        (True, [telling("b", B)], 2, "undecided"),
        # a fetched state is no witness beside its source: not for it, not for this member
        (True, [telling("b", B), telling("c", B, witness=False)], 3, "undecided"),
        (False, [telling("b", A), telling("c", B)], 3, "undecided"),
        (False, [telling("b", B), telling("c", B)], 3, "diverged"),
        # observers are told who is right, and count for nobody
        (False, [telling("b", B), telling("c", B), telling("o", A, voter=False)], 3, "diverged"),
        (True, [telling("b", A), telling("o", B, voter=False)], 3, "alike"),
        # four and five voters
        (True, [telling("b", A), telling("c", B), telling("d", B)], 4, "undecided"),
        (True, [telling("b", A), telling("c", A), telling("d", B)], 4, "alike"),
        (True, [telling(m, B) for m in "bcd"] + [telling("e", A)], 5, "diverged"),
        # rows that this member does not remember, or has not reached, say nothing
        (True, [telling("b", B, seq=8), telling("c", B, seq=100)], 3, "alike"),
    ],
)
def test_verdict(
    own_counts: bool, tellings: list[Telling], voters: int, verdict: ContentVerdict
) -> None:
    assert judge(OWN, own_counts, tellings, voters) == verdict


def test_first_row_that_differs() -> None:
    assert differing(OWN, [telling("b", B, seq=9), telling("c", B, seq=7)]) == 7
    assert differing(OWN, [telling("b", B, seq=8)]) is None


@pytest.mark.parametrize(
    ("tellings", "others", "holds"),
    [
        ([], 2, False),
        ([telling("b", A)], 2, False),
        ([telling("b", A), telling("c", A, witness=False)], 2, False),
        ([telling("b", A), telling("c", A)], 2, True),
        ([telling("b", A), telling("c", A)], 4, True),
        ([telling("b", A)], 1, False),
    ],
)
def test_fetched_state_is_a_witness_once_somebody_beside_its_source_agrees(
    tellings: list[Telling], others: int, holds: bool
) -> None:
    assert confirmed(OWN, tellings, others) is holds


def test_marks_remember_the_newest_rows_and_report_in_turns() -> None:
    marks = ContentMarks()
    assert marks.report(0).seq == 0
    for seq in range(1, KEPT + 201):
        marks.add(seq, seq.to_bytes(32))
    newest = KEPT + 200
    assert marks.at(newest) == newest.to_bytes(32)
    assert marks.at(newest - KEPT + 1) is not None
    assert marks.at(newest - KEPT) is None
    assert marks.at(newest + 1) is None
    assert [marks.report(turn).seq for turn in range(3)] == [newest, newest - newest % 64, 8192]
    assert len(marks.report(0).digest) == PREFIX_BYTES
    marks.clear(5000, b"x" * 32)
    assert marks.at(4999) is None
    assert [marks.report(turn).seq for turn in range(3)] == [5000] * 3
