"""Set up every test ring. Never lets a test be skipped without a reason, or unseen (STYLE rule 24)."""

from __future__ import annotations

from collections import Counter

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many tests were skipped for which reason."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reasons[report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)] += 1
    if not reasons:
        return
    terminalreporter.section(f"skipped tests: {sum(reasons.values())}")
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"{count:5d}  {reason}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """Turn a skip that gives no reason into a failure."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple) and report.longrepr[2].strip() in {"Skipped", "Skipped:"}:
        report.outcome, report.longrepr = "failed", f"{item.nodeid} was skipped without a reason"
    return report
