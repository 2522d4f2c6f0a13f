"""Say how a history was judged, in three values. It never turns "not decided" into "fine"."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from chaos.records.history import ClientOperation


class Verdict(IntEnum):
    """A verdict in three values, ordered by gravity: merging is taking the greatest."""

    OK = 0
    UNKNOWN = 1
    ILLEGAL = 2

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Finding:
    """One anomaly, or one thing that could not be decided."""

    anomaly: str
    """Stable snake_case name."""
    message: str
    """For people: what was seen, and why it cannot be."""
    verdict: Verdict = Verdict.ILLEGAL
    key: str | None = None
    operations: tuple[ClientOperation, ...] = ()
    """The operations that show it, in the order of the story."""


@dataclass(frozen=True)
class Judgement:
    """What one checker says of one history."""

    checker: str
    findings: tuple[Finding, ...] = ()
    operations: int = 0
    """How many operations it judged. A checker that judged none has proved nothing."""
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """Return the worst verdict of its findings; OK when there are none."""
        return merge(f.verdict for f in self.findings)

    @property
    def anomalies(self) -> tuple[str, ...]:
        """Return the names of the anomalies found, each once, in order."""
        return tuple(
            dict.fromkeys(f.anomaly for f in self.findings if f.verdict is Verdict.ILLEGAL)
        )


def merge(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst one; OK when there is none."""
    return max(verdicts, default=Verdict.OK)
