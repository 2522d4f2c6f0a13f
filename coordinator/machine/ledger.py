"""Build and check the ledger's chain, and decide what taking over finds there.

Pure. It never trusts a row that does not continue the one before it, exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from coordinator.machine.commands import Command, Rebase, Settle
from coordinator.machine.evaluate import Evaluation
from coordinator.machine.pending import Mark, Pending
from kv.model import GENESIS_DIGEST, Group, Head, LedgerRow, Recorded, roll
from kv.ports import Identity

# ---------------------------------------------------------------------------------------- the chain


def mark_of(head: Head | LedgerRow) -> Mark:
    """Return the place that a row ends at."""
    return Mark(head.last, head.digest)


def roll_all(digest: bytes, records: Iterable[Recorded]) -> bytes:
    """Return the digest after these records."""
    for record in records:
        digest = roll(digest, record.op_id, record.body_hash)
    return digest


def group_on(
    base: Head,
    *,
    term: int,
    committer: str,
    log_time_ms: int,
    batch: Sequence[Pending],
    evaluation: Evaluation,
) -> Group:
    """Build the group of a batch, directly behind `base`. The digest is the machine's own, rolled
    over every intent.
    """
    row = LedgerRow(
        seq=base.seq + 1,
        term=term,
        committer=committer,
        first=batch[0].revision,
        last=batch[-1].revision,
        digest=batch[-1].digest,
        log_time_ms=log_time_ms,
        body=evaluation.records,
    )
    return Group(base, row, evaluation.versions, evaluation.operations)


def settle_of(row: LedgerRow, *, resolved: bool = False) -> Settle:
    """Return the command that tells all members of a row with intents."""
    return Settle(row.first, row.last, row.digest, row.log_time_ms, row.body, resolved)


class RowStep(NamedTuple):
    """A ledger row, and what of it is new after a given mark."""

    first: int
    row: LedgerRow
    records: tuple[Recorded, ...]
    """Those at and after `first`."""


def continuation(
    base: Mark, rows: Sequence[LedgerRow], settled: Mark
) -> tuple[RowStep, ...] | None:
    """Return what `rows`, which continue `base`, add after `settled`; None unless they continue
    both, exactly.

    `settled` may lie inside the rows (some of them are settled already): then the digest there must
    be the same.
    """
    at = base.revision
    digest = base.digest
    passed = base == settled
    steps: list[RowStep] = []
    for row in rows:
        if row.first != at + 1 or row.last != at + len(row.body):
            return None
        first = row.first
        for record in row.body:
            digest = roll(digest, record.op_id, record.body_hash)
            at += 1
            if at == settled.revision and not passed:
                if digest != settled.digest:
                    return None
                passed = True
                first = at + 1
        if digest != row.digest:
            return None
        if passed and first <= row.last:
            steps.append(RowStep(first, row, row.body[first - row.first :]))
    return tuple(steps) if passed else None


class BrokenChain(NamedTuple):
    """The first row of a ledger that does not fit the one before it, and why."""

    seq: int
    why: str


def recompute(rows: Sequence[LedgerRow], base: Head | None = None) -> BrokenChain | None:
    """Roll the digest over all rows, empty ones included, and return the first row that does not
    fit, if any.

    Without `base` the first row is taken at its word (older ones may be pruned).
    """
    if not rows:
        return None
    if base is not None:
        head, rest = base, rows
    elif rows[0].seq == 1:
        head, rest = Head(0, 0, "", 0, GENESIS_DIGEST), rows
    else:
        head, rest = rows[0].head, rows[1:]
    for row in rest:
        why = _misfit(head, row)
        if why is not None:
            return BrokenChain(row.seq, why)
        head = row.head
    return None


def _misfit(head: Head, row: LedgerRow) -> str | None:
    """Say why a row does not continue the one at `head`."""
    if row.seq != head.seq + 1:
        return f"follows seq {head.seq}"
    if row.first != head.last + 1:
        return f"begins at {row.first}, the row before ends at {head.last}"
    if row.term < head.term:
        return f"is of term {row.term}, the row before of {head.term}"
    if row.body and row.last != head.last + len(row.body):
        return f"ends at {row.last} with {len(row.body)} intents from {row.first}"
    if not row.body and row.last < head.last:
        return f"is empty and ends at {row.last}, below {head.last}"
    if roll_all(head.digest, row.body) != row.digest:
        return "carries another digest than its intents roll up to"
    return None


# -------------------------------------------------------------------------------------- taking over


class Level(NamedTuple):
    """A head that is exactly what is settled: go on."""


class Ahead(NamedTuple):
    """A head past what is settled: the rows between are to be adopted, if they continue it."""


class Refuse(NamedTuple):
    """A head that is not what was settled: refuse writes and reads of the store until an operator
    adopts it.
    """

    why: Literal[
        "store_behind",
        "store_other",
        "store_pruned",
        "store_diverged",
        "store_history",
        "store_foreign",
    ]


HeadStanding: TypeAlias = Level | Ahead | Refuse


def standing(settled: Mark, head: Head) -> HeadStanding:
    """Compare the store's head with what the machine knows to be settled."""
    if head.last < settled.revision:
        return Refuse("store_behind")
    if head.last > settled.revision:
        return Ahead()
    if not mark_of(head).agrees(settled):
        return Refuse("store_other")
    return Level()


def belongs(ours: Identity, found: Identity) -> Refuse | None:
    """Refuse a store that is another cluster's, or that of another history of this one."""
    if found.cluster_id != ours.cluster_id:
        return Refuse("store_foreign")
    return None if found.history == ours.history else Refuse("store_history")


class GivenUp(NamedTuple):
    """What adopting a head gives up: so many revisions after `after` that were settled here, and
    that clients and watchers have heard of.
    """

    after: int
    revisions: int


def given_up(settled: Mark, head: Head) -> GivenUp:
    """Say what adopting this head gives up.

    A head below the settled revision lacks what comes after it. Any other that is refused has
    another digest there, or none that can be compared: then nothing that was settled is certain.
    """
    after = head.last if head.last < settled.revision else 0
    return GivenUp(after, settled.revision - after)


def anchored(settled: Mark, ending: LedgerRow | None) -> Refuse | None:
    """Refuse unless the newest row that ends at the settled revision carries the settled digest."""
    if settled.revision == 0:
        return None if settled.digest == GENESIS_DIGEST else Refuse("store_other")
    if ending is None:
        return Refuse("store_pruned")
    return None if mark_of(ending).agrees(settled) else Refuse("store_other")


def catch_up(
    settled: Mark, rows: Sequence[LedgerRow], *, known: bool, rows_bytes_max: int
) -> tuple[Command, ...] | Refuse:
    """Return the commands that bring the machines from `settled` to the end of `rows` by the
    ledger's own records.

    `known`: the log holds that very order (its digest at that end is the same), so each row
    settles; else they are stepped over by Rebase, cut at row ends where they get large.
    """
    if not continuation(settled, rows, settled):
        return Refuse("store_diverged")
    if known:
        return tuple(settle_of(row, resolved=True) for row in rows)
    commands: list[Command] = []
    at, part, part_bytes = settled, list[LedgerRow](), 0
    for row in rows:
        size = _size(row)
        if part and part_bytes + size > rows_bytes_max:
            commands.append(Rebase(at, tuple(part)))
            at, part, part_bytes = mark_of(part[-1]), [], 0
        part.append(row)
        part_bytes += size
    commands.append(Rebase(at, tuple(part)))
    return tuple(commands)


_encode = msgspec.msgpack.Encoder().encode


def _size(row: LedgerRow) -> int:
    return len(_encode(row))
