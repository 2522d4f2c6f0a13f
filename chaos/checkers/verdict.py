"""Define verdicts with three values. "Not decided" is never treated as "fine"."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from chaos.records.history import ClientOperation


class Verdict(IntEnum):
    """A verdict, ordered by gravity, so that merging verdicts means taking the greatest."""

    OK = 0
    UNKNOWN = 1
    ILLEGAL = 2

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Finding:
    """One anomaly, or one thing that could not be decided."""

    anomaly: str
    """Name in snake_case, which stays the same across versions."""
    message: str
    """Explanation for people: what was seen, and why it cannot be right."""
    verdict: Verdict = Verdict.ILLEGAL
    key: str | None = None
    operations: tuple[ClientOperation, ...] = ()
    """The operations that show it, in the order in which they explain it."""


@dataclass(frozen=True)
class Judgement:
    """The result of one checker for one history."""

    checker: str
    findings: tuple[Finding, ...] = ()
    operations: int = 0
    """Number of operations that were checked. A checker that checked none has proved nothing."""
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """Return the worst verdict of the findings; OK if there are none."""
        return merge(f.verdict for f in self.findings)

    @property
    def anomalies(self) -> tuple[str, ...]:
        """Return the names of the anomalies found, each once, in order."""
        return tuple(
            dict.fromkeys(f.anomaly for f in self.findings if f.verdict is Verdict.ILLEGAL)
        )


def merge(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst verdict; OK if there is none."""
    return max(verdicts, default=Verdict.OK)
