"""Compare the store's head with what is settled, and decide how taking over deals with it.

Pure. A store that is not what was settled is refused; rows are never taken for settled unread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from coordinator.machine.chain import continuation, mark_of, settle_of
from coordinator.machine.commands import Command, Rebase
from coordinator.machine.pending import Mark
from kv.model import GENESIS_DIGEST, Head, LedgerRow
from kv.ports import Identity


class Level(NamedTuple):
    """A head that is exactly what is settled: continue."""


class Ahead(NamedTuple):
    """A head past what is settled: adopt the rows between, if they continue it."""


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
    """Refuse a store that belongs to another cluster, or to another history of this one."""
    if found.cluster_id != ours.cluster_id:
        return Refuse("store_foreign")
    return None if found.history == ours.history else Refuse("store_history")


class GivenUp(NamedTuple):
    """What adopting a head gives up: `revisions` revisions after `after` that were settled here,
    and that clients and watchers have seen.
    """

    after: int
    revisions: int


def given_up(settled: Mark, head: Head) -> GivenUp:
    """Return what adopting this head gives up.

    A head below the settled revision lacks everything after it. Any other refused head has another
    digest there, or none that can be compared: then nothing that was settled is certain.
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
    """Return the commands that bring the machines from `settled` to the end of `rows` with the
    outcomes that the ledger recorded.

    `known` means that the log holds that very order (its digest at the end is the same), so each
    row is settled. Otherwise Rebase adopts the rows, cut at row ends where they get large.
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
