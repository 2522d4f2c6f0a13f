"""Remember how op_ids ended, for a bounded number of them and a bounded time (INV-3).

Pure. It never replaces an entry: the first outcome of an op_id stays until it is forgotten, oldest first.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from kv.model import Again, Answer, Applied, Expired, Mismatch, Recorded, Refused


class Known(NamedTuple):
    """How an op_id ended first."""

    body_hash: bytes
    """Empty: it was cancelled, which any body meets."""
    revision: int
    outcome: Applied | Refused | Expired
    log_time_ms: int


def meets(known: bytes, body_hash: bytes) -> bool:
    """Say whether two attempts with these body hashes are the same operation (a Cancel matches any body)."""
    return known == body_hash or not known or not body_hash


class Window:
    """op_id -> Known, oldest first."""

    __slots__ = ("_known", "_max")

    def __init__(self, entries_max: int) -> None:
        self._known: dict[str, Known] = {}
        self._max = entries_max

    def __len__(self) -> int:
        return len(self._known)

    def get(self, op_id: str) -> Known | None:
        return self._known.get(op_id)

    def meet(self, known: Known, body_hash: bytes) -> Answer:
        """Return what a further attempt on a known op_id is told."""
        if meets(known.body_hash, body_hash):
            return Answer(known.revision, Again(known.revision, known.outcome))
        return Answer(known.revision, Mismatch())

    def record(self, record: Recorded, revision: int, log_time_ms: int) -> None:
        """Enter a first outcome. What the ledger calls again or mismatch replaces nothing and enters nothing."""
        outcome = record.outcome
        if not isinstance(outcome, Applied | Refused | Expired) or record.op_id in self._known:
            return
        self._known[record.op_id] = Known(record.body_hash, revision, outcome, log_time_ms)
        if len(self._known) > self._max:
            self._forget(len(self._known) - self._max + self._max // 16)

    def forget_before(self, log_time_ms: int) -> None:
        """Forget what was recorded before this log time."""
        old = 0
        for known in self._known.values():
            if known.log_time_ms >= log_time_ms:
                break
            old += 1
        self._forget(old)

    def entries(self) -> dict[str, Known]:
        """Return a copy, oldest first."""
        return self._known.copy()

    def restore(self, entries: Iterable[tuple[str, Known]]) -> None:
        self._known = dict(entries)
        if len(self._known) > self._max:
            self._forget(len(self._known) - self._max)

    def clear(self) -> None:
        self._known = {}

    def _forget(self, count: int) -> None:
        for op_id in list(islice(self._known, count)):
            del self._known[op_id]
