"""The ledger's chain: what continues it, what does not, and what taking over makes of it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.machine.chain import continuation, mark_of, recompute, roll_all
from coordinator.machine.commands import Rebase, Settle
from coordinator.machine.pending import Mark
from coordinator.machine.standing import Ahead, Level, Refuse, anchored, catch_up, standing
from kv.model import GENESIS, GENESIS_DIGEST, Applied, Head, LedgerRow, Recorded


def chain(*sizes: int, base: Head = GENESIS) -> list[LedgerRow]:
    """Return rows with so many intents each, directly behind `base`."""
    rows, head = [], base
    for size in sizes:
        body = tuple(Recorded(f"op{head.last + n + 1}", b"h", Applied()) for n in range(size))
        digest = roll_all(head.digest, body)
        row = LedgerRow(head.seq + 1, 1, "a", head.last + 1, head.last + size, digest, 5, body)
        rows.append(row)
        head = row.head
    return rows


ROWS = chain(2, 1, 3)


def mark_at(revision: int) -> Mark:
    records = [record for row in ROWS for record in row.body]
    return Mark(revision, roll_all(GENESIS_DIGEST, records[:revision]))


@pytest.mark.parametrize("settled", range(7))
def test_continuation_gives_what_lies_behind_the_settled_revision(settled: int) -> None:
    steps = continuation(Mark(), ROWS, mark_at(settled))
    assert steps is not None
    records = [record.op_id for step in steps for record in step.records]
    assert records == [f"op{n}" for n in range(settled + 1, 7)]
    assert all(step.first + len(step.records) - 1 == step.row.last for step in steps)


def test_continuation_refuses_another_history() -> None:
    assert continuation(Mark(), ROWS, Mark(3, b"x" * 32)) is None
    assert continuation(Mark(0, b"x" * 32), ROWS, mark_at(0)) is None
    assert continuation(mark_at(3), ROWS[2:], mark_at(2)) is None
    assert continuation(Mark(), [ROWS[0], ROWS[2]], mark_at(0)) is None
    assert continuation(Mark(), ROWS, Mark(9, b"x" * 32)) is None


@given(st.integers(0, 2), st.data())
def test_a_changed_row_breaks_the_chain(at: int, data: st.DataObject) -> None:
    row = ROWS[at]
    changed = data.draw(
        st.sampled_from(
            [
                msgspec.structs.replace(row, digest=b"z" * 32),
                msgspec.structs.replace(row, first=row.first + 1),
                msgspec.structs.replace(row, last=row.last + 1),
                msgspec.structs.replace(
                    row, body=(Recorded("other", b"h", Applied()), *row.body[1:])
                ),
                msgspec.structs.replace(row, seq=row.seq + 1),
                msgspec.structs.replace(row, term=0),
            ]
        )
    )
    rows = [*ROWS[:at], changed, *ROWS[at + 1 :]]
    if changed.term == 0 and at == 0:
        rows[0] = msgspec.structs.replace(changed, term=-1)
    assert recompute(ROWS) is None
    assert recompute(rows, GENESIS) is not None
    if changed.seq == row.seq and changed.term == row.term:
        assert continuation(Mark(), rows, mark_at(0)) is None


def test_recompute_takes_empty_and_adopted_rows() -> None:
    empty = LedgerRow(4, 2, "b", 7, 6, ROWS[-1].digest, 5)
    adopted = LedgerRow(5, 3, "b", 7, 20, ROWS[-1].digest, 5)
    more = chain(1, base=adopted.head)
    more = [msgspec.structs.replace(more[0], term=3)]
    assert recompute([*ROWS, empty, adopted, *more]) is None
    assert recompute([empty, adopted, *more]) is None
    lower = msgspec.structs.replace(empty, last=5)
    assert recompute([*ROWS, lower]) is not None
    assert recompute([]) is None


@pytest.mark.parametrize(
    ("settled", "head", "stands"),
    [
        (mark_at(0), GENESIS, Level()),
        (mark_at(6), ROWS[-1].head, Level()),
        (mark_at(3), ROWS[-1].head, Ahead()),
        (mark_at(6), ROWS[1].head, Refuse("store_behind")),
        (Mark(6, b"x" * 32), ROWS[-1].head, Refuse("store_other")),
    ],
)
def test_standing(settled: Mark, head: Head, stands: object) -> None:
    assert standing(settled, head) == stands


def test_anchored() -> None:
    assert anchored(mark_at(3), ROWS[1]) is None
    assert anchored(mark_at(0), None) is None
    assert anchored(mark_at(3), None) == Refuse("store_pruned")
    assert anchored(Mark(3, b"x" * 32), ROWS[1]) == Refuse("store_other")
    assert anchored(Mark(0, b"x" * 32), None) == Refuse("store_other")


def test_adoption_settles_what_the_log_holds_row_by_row() -> None:
    commands = catch_up(mark_at(2), ROWS[1:], known=True, rows_bytes_max=1)
    assert isinstance(commands, tuple)
    assert [(c.first, c.last, c.resolved) for c in commands if isinstance(c, Settle)] == [
        (3, 3, True),
        (4, 6, True),
    ]


def test_adoption_rebases_on_what_the_log_lost_cut_at_row_ends() -> None:
    whole = catch_up(mark_at(0), ROWS, known=False, rows_bytes_max=1 << 20)
    assert whole == (Rebase(mark_at(0), tuple(ROWS)),)
    cut = catch_up(mark_at(0), ROWS, known=False, rows_bytes_max=1)
    assert cut == tuple(
        Rebase(mark_at(at), (row,)) for at, row in zip((0, 2, 3), ROWS, strict=True)
    )


def test_adoption_refuses_rows_that_do_not_continue_what_is_settled() -> None:
    for known in (True, False):
        for rows in ([], ROWS[1:], [ROWS[0], ROWS[2]]):
            found = catch_up(mark_at(0), rows, known=known, rows_bytes_max=1)
            assert found == Refuse("store_diverged")
    assert mark_of(ROWS[1]) == mark_at(3)
