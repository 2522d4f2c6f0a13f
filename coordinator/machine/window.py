"""Remember how op_ids ended, for a bounded number of them and a bounded time (INV-3).

Pure. An entry is never replaced: the first outcome of an op_id stays until it is forgotten, oldest
first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from kv.model import Again, Answer, Applied, Expired, Mismatch, Recorded, Refused

_FREEZE_MIN: Final = 1024
"""A snapshot copies a part with fewer entries instead of freezing it, so that there are few
parts.
"""
_FIRST: Final = (Applied, Refused, Expired)
"""The outcomes of a first attempt."""


class Known(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The first outcome of an op_id."""

    body_hash: bytes
    """Empty: the op_id was cancelled, which matches any body."""
    revision: int
    outcome: Applied | Refused | Expired
    log_time_ms: int


def meets(known: bytes, body_hash: bytes) -> bool:
    """Return whether two attempts with these body hashes are the same operation (a Cancel matches
    any body).
    """
    return known == body_hash or not known or not body_hash


class Window:
    """The outcomes of op_ids, in two generations: when the younger is full, the older is forgotten.

    A generation is a sequence of parts. All parts but the newest are frozen, so that a snapshot can
    share them instead of copying. Where the parts are cut has no visible effect: the generations
    are bounded by their number of entries.
    """

    __slots__ = ("_generation_max", "_known_ms", "_old", "_parts", "_young", "_young_count")

    def __init__(self, entries_max: int, known_ms: int) -> None:
        self._generation_max = max(1, entries_max // 2)
        self._known_ms = known_ms
        self.clear()

    def bound(self, entries_max: int, known_ms: int) -> None:
        """Change the bounds; entries that exceed them are forgotten, oldest first."""
        self._generation_max = max(1, entries_max // 2)
        self._known_ms = known_ms
        # counted as a snapshot holds them: an op_id once in each generation, wherever it was cut
        old = len(set().union(*self._parts[len(self._parts) - self._old :]))
        if old + self._young_count > entries_max:
            kept = list(self.entries().items())[-self._generation_max :]
            self.restore(kept, ())
        elif self._young_count >= self._generation_max:
            self._age()

    def clear(self) -> None:
        """Forget all op_ids: the machine starts from scratch, or an operator adopted another
        ledger.
        """
        self._young: dict[str, Known] = {}
        """The newest part, the only one that changes."""
        self._young_count = 0
        """The number of entries in the younger generation, frozen parts included."""
        self._parts: list[dict[str, Known]] = [self._young]
        """All parts, newest first."""
        self._old = 0
        """How many of the parts, counted from the end, are the older generation."""

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def get(self, op_id: str, now_ms: int) -> Known | None:
        """Return how an op_id ended; None if that is forgotten or past its retention."""
        known = self._young.get(op_id)
        if known is None and len(self._parts) > 1:
            known = self._find(op_id)
        return known if known is None or now_ms - known.log_time_ms <= self._known_ms else None

    def _find(self, op_id: str) -> Known | None:
        for part in self._parts:
            known = part.get(op_id)
            if known is not None:
                return known
        return None

    def meet(self, known: Known, body_hash: bytes) -> Answer:
        """Return the answer to another attempt on a known op_id."""
        if meets(known.body_hash, body_hash):
            return Answer(known.revision, Again(known.revision, known.outcome))
        return Answer(known.revision, Mismatch())

    def record(self, record: Recorded, revision: int, log_time_ms: int) -> None:
        """Record a first outcome. An *again* or *mismatch* in the ledger is not entered and
        replaces nothing.
        """
        op_id, outcome = record.op_id, record.outcome
        if type(outcome) is not Applied and not isinstance(outcome, _FIRST):
            return
        known = self._young.get(op_id)
        if known is None and len(self._parts) > 1:
            known = self._find(op_id)
        if known is None:
            self._young_count += 1
        elif log_time_ms - known.log_time_ms <= self._known_ms:
            return
        elif not any(op_id in part for part in self._parts[: len(self._parts) - self._old]):
            self._young_count += 1
        self._young[op_id] = Known(record.body_hash, revision, outcome, log_time_ms)
        if self._young_count >= self._generation_max:
            self._age()

    def _age(self) -> None:
        """Forget the older generation; the younger takes its place."""
        del self._parts[len(self._parts) - self._old :]
        self._old, self._young_count = len(self._parts), 0
        self._young = {}
        self._parts.insert(0, self._young)

    def capture(self) -> tuple[tuple[dict[str, Known], ...], tuple[dict[str, Known], ...]]:
        """Return the parts of the older and of the younger generation, oldest first. None of them
        changes afterwards.
        """
        if len(self._young) > _FREEZE_MIN:
            self._young = {}
            self._parts.insert(0, self._young)
        young = len(self._parts) - self._old
        parts = [self._young.copy(), *self._parts[1:]]
        return tuple(parts[: young - 1 : -1] if self._old else ()), tuple(parts[young - 1 :: -1])

    def restore(self, old: Iterable[tuple[str, Known]], young: Iterable[tuple[str, Known]]) -> None:
        """Replace all entries, given oldest first."""
        self.clear()
        kept = dict(old)
        self._young.update(young)
        self._young_count = len(self._young)
        if kept:
            self._parts.append(kept)
            self._old = 1

    def entries(self) -> dict[str, Known]:
        """Return a copy of all entries, oldest first."""
        return {op_id: known for part in reversed(self._parts) for op_id, known in part.items()}
