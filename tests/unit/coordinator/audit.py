"""Say which promises a run has broken, from what clients heard, watchers were told, and the ledger
holds.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from coordinator.consensus import Coordinator
from coordinator.machine.chain import recompute
from kv.errors import NotApplied
from kv.model import GENESIS, Again, Answer, Applied, Entry, Expired, Mismatch, Recorded, Refused
from kv.ports import Settled
from tests.unit.coordinator.cluster import Cluster


class Feeds:
    """What the watchers of each member are told."""

    def __init__(self, c: Cluster) -> None:
        self.told: dict[str, list[Settled]] = {name: [] for name in c.nodes}
        for name, node in c.nodes.items():
            node.listen(self.told[name].append)


def records(c: Cluster) -> dict[int, Recorded]:
    """Return the ledger's records by revision."""
    rows = c.database.ledger(0, 1 << 30)
    return {row.first + n: record for row in rows for n, record in enumerate(row.body)}


def broken_promises(
    c: Cluster, answers: Iterable[tuple[str, Answer]] = (), feeds: Feeds | None = None
) -> set[str]:
    """Return the names of broken promises; empty when all hold."""
    found: set[str] = set()
    rows = c.database.ledger(0, 1 << 30)
    if recompute(rows, GENESIS if rows and rows[0].seq == 1 else None) is not None:
        found.add("INV-6")  # the ledger is no chain: what follows from it cannot be in order
    by_revision = records(c)
    firsts: dict[str, int] = {}
    for revision, record in by_revision.items():
        if isinstance(record.outcome, Applied | Refused | Expired) and firsts.setdefault(
            record.op_id, revision
        ) != (revision):
            found.add("INV-3")
    for op_id, told in answers:
        if isinstance(told.outcome, Mismatch):
            continue
        revision, outcome = told.revision, told.outcome
        if isinstance(outcome, Again):
            revision, outcome = outcome.revision, outcome.outcome
        there = by_revision.get(revision)
        if there is None or there.op_id != op_id or there.outcome != outcome:
            found.add("INV-2")
    if feeds is not None:
        for told_there in feeds.told.values():
            if not _feed_is_the_ledger(told_there, by_revision):
                found.add("INV-6")
    if not _broadcast_is_the_ledger(c, by_revision):
        found.add("INV-6")
    return found


def _feed_is_the_ledger(told: list[Settled], by_revision: dict[int, Recorded]) -> bool:
    at = 0
    for settled in told:
        if settled.previous != at or (
            settled.records and len(settled.records) != settled.last - settled.previous
        ):
            return False
        for n, record in enumerate(settled.records, settled.previous + 1):
            if by_revision.get(n) != msgspec.structs.replace(record, numbers=()):
                return False
        at = settled.last
    return True


def _broadcast_is_the_ledger(c: Cluster, by_revision: dict[int, Recorded]) -> bool:
    """Say whether the broadcast is what the ledger changed, in order, from the first, repeats
    allowed; what it told and the ledger has not is undone by name.
    """
    changed = [revision for revision, record in sorted(by_revision.items()) if record.keys]
    seen: list[int] = []
    told: dict[int, str] = {}
    for change in c.broadcast.changes:
        if change.undone_after is not None:
            seen = [revision for revision in seen if revision <= change.undone_after]
        elif change.revision not in seen:
            seen.append(change.revision)
            told[change.revision] = change.op_id
    if any(
        revision not in by_revision or by_revision[revision].op_id != told[revision]
        for revision in seen
    ):
        return False
    return seen == changed[: len(seen)]


async def reads_stale(c: Cluster, node: Coordinator, entry: Entry, known: int) -> bool:
    """Say whether a linearizable read on `node` would serve `entry` although a client knows of
    revision `known`.
    """
    try:
        await node.read_index(timeout_s=0.5)
    except NotApplied:
        return False
    if node.touched(entry.key) > entry.as_of:
        return False
    newest = c.database.read([entry.key], known, 0).versions[0]
    return newest is not None and (
        entry.version is None or entry.version.revision < newest.revision
    )


def cached(c: Cluster, key: bytes) -> Entry:
    """Return what a cache fill at this moment keeps of a key."""
    read = c.database.read([key], None, 0)
    return Entry(key, read.versions[0], read.head.last)
