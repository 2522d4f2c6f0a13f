"""Keep in memory what the commands of a log made of one member's store.

No method awaits, so each is one transaction; all follow from the calls alone.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence

import msgspec

from backends.fence import hash_of
from backends.memory.database import MemoryDatabase
from kv.content import content_digest
from kv.errors import InvariantViolated
from kv.model import GENESIS_DIGEST, LedgerRow, RecordedOperation, Version
from kv.ports import Facts, LeaseAsk, LocalRetention, Note, Pruning, Span, Step

SCRUBBED_ROWS_MAX = 256
"""The number of ledger rows whose content is recomputed in one step."""


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """What is kept of a command without a ledger row: the floor that it ordered (0: none), or that
    it began a term.
    """

    index: int
    term: int
    floor: int


class Image(msgspec.Struct, frozen=True, array_like=True):
    """Everything that a store keeps, as it is copied to another member."""

    note: Note
    rows: tuple[LedgerRow, ...]
    versions: tuple[Version, ...]
    """In the order in which they were made."""
    operations: tuple[RecordedOperation, ...]
    marks: tuple[Mark, ...]
    walked: int
    """The newest revision whose predecessors pruning has deleted."""


class MemberTables(MemoryDatabase):
    """The tables of one member's store. Rows are only ever added to them, but for pruning and for
    what is cut back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.note = Note()
        self._recordings: list[RecordedOperation] = []
        """All that is recorded of op_ids, oldest first; an op_id may have several (R2)."""
        self._marks: list[Mark] = []

    @property
    def newest(self) -> LedgerRow | None:
        """The newest ledger row."""
        return self._rows[-1] if self._rows else None

    def row_at(self, index: int) -> LedgerRow | None:
        """Return the ledger row that the command at this log index made."""
        row = self._at_or_below(index)
        return row if row is not None and row.index == index else None

    def facts_since(
        self,
        op_ids: Sequence[str],
        keys: Sequence[bytes],
        hashed: Sequence[bytes],
        *,
        spans: Sequence[Span],
        leases: Sequence[LeaseAsk],
        recorded_since_ms: int,
    ) -> Facts:
        """Return what `evaluate` needs; operations recorded before that log time are not known."""
        facts = self.facts(op_ids, keys, hashed, (), spans=spans, leases=leases)
        known = {
            op_id: operation
            for op_id, operation in facts.operations.items()
            if operation.log_time_ms >= recorded_since_ms
        }
        return msgspec.structs.replace(facts, operations=known)

    def numbers(self, keys: Sequence[bytes]) -> dict[bytes, tuple[int, int]]:
        """Return the create_revision and the version of the present ones of the keys."""
        found = ((key, self._versions.newest(key, None)) for key in keys)
        return {
            key: (newest.create_revision, newest.version)
            for key, newest in found
            if newest is not None and newest.present
        }

    def apply(self, step: Step) -> None:
        """Take the effects of one command. Raises InvariantViolated when it does not continue what
        is here.
        """
        group, index, term = step.group, step.note.index, step.note.term
        check_step(self.note, self.head().seq, step)
        begins = term != self._term_at(index)
        if group is not None:
            self._rows.append(group.row)
            for version in sorted(group.versions, key=lambda version: version.revision):
                self._versions.insert(version)
            self._record(group.operations)
        if step.floor or (group is None and begins):
            self._marks.append(Mark(index, term, step.floor))
        self.note = step.note

    def cut_back(self, index: int) -> None:
        """Remove what the commands above this log index made."""
        if index >= self.note.index:
            return
        self._rows = [row for row in self._rows if row.index <= index]
        self._marks = [mark for mark in self._marks if mark.index <= index]
        last = self.head().last
        self._versions.forget_above(last)
        self._floor = min(self._floor, last)
        kept = [each for each in self._recordings if each.revision <= last]
        self._recordings, self._operations = [], {}
        self._record(kept)
        digest = self._rows[-1].digest if self._rows else GENESIS_DIGEST
        self.note = Note(self.note.history, index, self._term_at(index), digest)

    def floor(self) -> int:
        """Return the ordered floor."""
        return max((mark.floor for mark in self._marks), default=0)

    def prune_below(self, retention: LocalRetention) -> Pruning:
        """Do one small step of pruning (R8)."""
        limit, below = retention.rows_max, min(retention.floor, self.floor(), self.head().last)
        versions, more = 0, False
        if below > self._floor:
            self._floor, versions, more = self._versions.prune(below, limit)
        held = self._at_or_below(retention.index)
        old = [row for row in self._rows if held and row.last < below and row.seq < held.seq]
        del self._rows[: len(old[:limit])]
        operations = [
            each
            for each in self._recordings[:limit]
            if each.log_time_ms < retention.operations_before_ms
        ]
        del self._recordings[: len(operations)]
        for each in operations:
            if self._operations[each.op_id] is each:
                del self._operations[each.op_id]
        more = more or len(old) > limit or len(operations) == limit
        self._marks = marks_needed(self._marks, retention.index)
        return Pruning(self.floor(), versions, len(old[:limit]), len(operations), 0, more)

    def damaged_rows(self, after: int) -> tuple[int, tuple[int, ...]]:
        """Recompute the content digests of the next rows."""
        start = bisect.bisect_right(self._rows, after, key=lambda row: row.seq)
        end = start + SCRUBBED_ROWS_MAX
        # the oldest row has no predecessor to compute its digest from
        pairs = itertools.pairwise(self._rows[max(start - 1, 0) : end])
        damaged = tuple(row.seq for before, row in pairs if self._is_damaged(before, row))
        return (0 if end >= len(self._rows) else self._rows[end - 1].seq), damaged

    def damage_row(self, seq: int) -> None:
        """Change a ledger row, if it is here, as a flipped bit on a disk does."""
        self._rows = [
            msgspec.structs.replace(row, log_time_ms=row.log_time_ms ^ 1) if row.seq == seq else row
            for row in self._rows
        ]

    def image(self) -> Image:
        """Return everything that is kept."""
        versions = sorted(self._versions.every(), key=lambda each: (each.revision, each.key))
        return Image(
            self.note,
            tuple(self._rows),
            tuple(versions),
            tuple(self._recordings),
            tuple(self._marks),
            self._floor,
        )

    @classmethod
    def of(cls, image: Image) -> MemberTables:
        """Return tables that hold what another's image says."""
        made = cls()
        made.note, made._rows, made._floor = image.note, list(image.rows), image.walked
        for version in image.versions:
            made._versions.insert(version)
        made._versions.made = [each for each in made._versions.made if each[0] > image.walked]
        made._record(image.operations)
        made._marks = list(image.marks)
        return made

    def clone(self) -> MemberTables:
        """Return tables of the same content, damage included."""
        made = self.of(self.image())
        made._damaged = set(self._damaged)
        return made

    # ------------------------------------------------------------------------------------ internals

    def recorded_after(self, revision: int, limit: int) -> tuple[RecordedOperation, ...]:
        """Return what is recorded by the intents behind a revision, in their order."""
        return tuple([each for each in self._recordings if each.revision > revision][:limit])

    def _record(self, operations: Sequence[RecordedOperation]) -> None:
        self._recordings += operations
        self._operations.update((operation.op_id, operation) for operation in operations)

    def _at_or_below(self, index: int) -> LedgerRow | None:
        place = bisect.bisect_right(self._rows, index, key=lambda row: row.index)
        return self._rows[place - 1] if place else None

    def _term_at(self, index: int) -> int:
        """Return the term of the newest command kept at or below an index. Terms only rise with the
        index, so it is the term there.
        """
        row = self._at_or_below(index)
        place = bisect.bisect_right(self._marks, index, key=lambda mark: mark.index)
        mark = self._marks[place - 1].term if place else 0
        return max(mark, row.term if row is not None else 0)

    def _is_damaged(self, before: LedgerRow, row: LedgerRow) -> bool:
        made = []
        for revision, recorded in enumerate(row.body, row.first):
            for key in recorded.keys:
                version = self._versions.newest(key, revision)
                if version is None or version.revision != revision:
                    return revision > self._floor  # at or below it, it may have been pruned
                made.append(version)
        hashes = [
            b"?" if (each.key, each.revision) in self._damaged else hash_of(each) for each in made
        ]
        return content_digest(before.content, row, made, hashes) != row.content


def check_step(note: Note, seq: int, step: Step) -> None:
    """Check that a step continues a store whose newest command and row are these. Raises
    InvariantViolated.
    """
    if step.note.index <= note.index or step.note.term < note.term:
        raise InvariantViolated(f"{step.note} does not come after {note}")
    row = None if step.group is None else step.group.row
    if row is not None and (
        (row.index, row.term) != (step.note.index, step.note.term) or row.seq != seq + 1
    ):
        raise InvariantViolated(f"ledger row {row.seq} is not what {step.note} makes behind {seq}")


def marks_needed(marks: Sequence[Mark], index: int) -> list[Mark]:
    """Return the marks that a store needs that is never cut back below this log index."""
    below = [mark for mark in marks if mark.index <= index]
    term, floor = below[-1:], [mark for mark in below if mark.floor][-1:]
    kept = [mark for mark in floor if mark not in term] + term
    return kept + [mark for mark in marks if mark.index > index]
