"""Remember how op_ids ended, for a bounded number of them and a bounded time (INV-3).

Pure. It never replaces an entry: the first outcome of an op_id stays until it is forgotten, oldest
first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from kv.model import Again, Answer, Applied, Expired, Mismatch, Recorded, Refused

_FREEZE_MIN: Final = 1024
"""A part with fewer entries is copied by a snapshot rather than frozen, so that parts stay few."""


class Known(NamedTuple):
    """The first end of an op_id."""

    body_hash: bytes
    """Empty: it was cancelled, which any body meets."""
    revision: int
    outcome: Applied | Refused | Expired
    log_time_ms: int


def meets(known: bytes, body_hash: bytes) -> bool:
    """Say whether two attempts with these body hashes are the same operation (a Cancel matches any
    body).
    """
    return known == body_hash or not known or not body_hash


class Window:
    """How op_ids ended, in two generations: when the younger is full, the older is forgotten.

    A generation is a row of parts, all but the newest of them frozen, so that a snapshot shares
    them instead of copying. Where the parts are cut changes nothing that can be seen: generations
    are counted by entries.
    """

    __slots__ = ("_generation_max", "_known_ms", "_old", "_parts", "_young", "_young_count")

    def __init__(self, entries_max: int, known_ms: int) -> None:
        self._generation_max = max(1, entries_max // 2)
        self._known_ms = known_ms
        self.clear()

    def bound(self, entries_max: int, known_ms: int) -> None:
        """Keep to other bounds from here on; what is held over them is forgotten, oldest first."""
        self._generation_max = max(1, entries_max // 2)
        self._known_ms = known_ms
        if len(self) > entries_max:
            kept = list(self.entries().items())[-self._generation_max :]
            self.restore(kept, ())
        elif self._young_count >= self._generation_max:
            self._age()

    def clear(self) -> None:
        """Forget all op_ids: the machine begins again, or an operator adopted another ledger."""
        self._young: dict[str, Known] = {}
        """The newest part, the only one that changes."""
        self._young_count = 0
        """Entries in the younger generation, frozen parts included."""
        self._parts: list[dict[str, Known]] = [self._young]
        """All parts, newest first."""
        self._old = 0
        """How many of the parts, from the end, are the older generation."""

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def get(self, op_id: str, now_ms: int) -> Known | None:
        """Return how an op_id ended, unless that is forgotten or its retention is over."""
        known = self._find(op_id)
        return known if known is None or now_ms - known.log_time_ms <= self._known_ms else None

    def _find(self, op_id: str) -> Known | None:
        for part in self._parts:
            known = part.get(op_id)
            if known is not None:
                return known
        return None

    def meet(self, known: Known, body_hash: bytes) -> Answer:
        """Return the answer to a further attempt on a known op_id."""
        if meets(known.body_hash, body_hash):
            return Answer(known.revision, Again(known.revision, known.outcome))
        return Answer(known.revision, Mismatch())

    def record(self, record: Recorded, revision: int, log_time_ms: int) -> None:
        """Enter a first outcome. What the ledger calls again or mismatch replaces nothing and
        enters nothing.
        """
        outcome = record.outcome
        if not isinstance(outcome, Applied | Refused | Expired):
            return
        op_id = record.op_id
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
        """Return the parts of the older and the younger generation, oldest first; none of them
        changes any more.
        """
        if len(self._young) > _FREEZE_MIN:
            self._young = {}
            self._parts.insert(0, self._young)
        young = len(self._parts) - self._old
        parts = [self._young.copy(), *self._parts[1:]]
        return tuple(parts[: young - 1 : -1] if self._old else ()), tuple(parts[young - 1 :: -1])

    def restore(self, old: Iterable[tuple[str, Known]], young: Iterable[tuple[str, Known]]) -> None:
        """Take the place of all entries, oldest first."""
        self.clear()
        kept = dict(old)
        self._young.update(young)
        self._young_count = len(self._young)
        if kept:
            self._parts.append(kept)
            self._old = 1

    def entries(self) -> dict[str, Known]:
        """Return a copy, oldest first."""
        return {op_id: known for part in reversed(self._parts) for op_id, known in part.items()}
