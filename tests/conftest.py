"""Set up every test ring. Never lets a test be skipped without a reason, or unseen (STYLE
rule 24).
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests.unit.acordo.installing import build_wheel

UMASK = os.umask(0o022)
os.umask(UMASK)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of this source tree, once."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """Undo what a test does to logging, for the whole process: the next one may look for a line."""
    configured, settings = structlog.is_configured(), structlog.get_config()
    processors, root, disabled = (
        settings["processors"][:],
        logging.getLogger(),
        logging.root.manager.disable,
    )
    handlers, level = root.handlers[:], root.level
    yield
    settings["processors"][:] = processors
    if configured:
        structlog.configure(**settings)
    else:
        structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.disable(disabled)


@pytest.fixture(autouse=True)
def umask_as_before() -> Iterator[None]:
    """Undo what a program that ran in this process did to it: its files are nobody else's, those of
    tests may be.
    """
    os.umask(UMASK)  # a fixture of the whole session may have run one
    yield
    os.umask(UMASK)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many tests were skipped for which reason."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reasons[
            report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        ] += 1
    if not reasons:
        return
    terminalreporter.section(f"skipped tests: {sum(reasons.values())}")
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"{count:5d}  {reason}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """Turn a skip that gives no reason into a failure."""
    report = yield
    if (
        report.skipped
        and isinstance(report.longrepr, tuple)
        and report.longrepr[2].strip() in {"Skipped", "Skipped:"}
    ):
        report.outcome, report.longrepr = "failed", f"{item.nodeid} was skipped without a reason"
    return report
