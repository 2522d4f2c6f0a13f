"""Hold the result of one run, and derive its exit code."""

from __future__ import annotations

from dataclasses import dataclass, field

from chaos.checkers.judge import overall_verdict
from chaos.checkers.verdict import Judgement, Verdict
from chaos.nemeses.base import Inflicted
from chaos.records.saved import SavedRun
from chaos.runs.plan import Plan
from chaos.runs.schedule import Step


@dataclass
class RunResult:
    """The result of one run."""

    plan: Plan
    schedule: list[Step]
    inflicted: list[Inflicted] = field(default_factory=list)
    judgements: list[Judgement] = field(default_factory=list)
    resolved: list[Judgement] = field(default_factory=list)
    """Judgements with unknown outcomes settled by look-ups."""
    weak: list[str] = field(default_factory=list)
    """Reasons why the run proves less than it should."""
    versions: dict[str, str] = field(default_factory=dict)
    run: SavedRun | None = None
    interrupted: bool = False

    @property
    def verdict(self) -> Verdict:
        """Return the worst verdict of both ways of judging."""
        return overall_verdict([*self.judgements, *self.resolved])

    @property
    def code(self) -> int:
        """Return the exit code: 1 anomaly, 2 weak, 0 neither."""
        if self.verdict is Verdict.ILLEGAL:
            return 1
        return 2 if self.weak else 0
