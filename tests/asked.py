"""Tell the tests that a command asked for by name: what cannot be run there has failed, and is not
skipped.
"""

from __future__ import annotations

from pathlib import Path

import pytest


def asked_for(config: pytest.Config, folder: Path) -> bool:
    """Return whether the command names the tests of a folder, and not all tests."""
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        return False
    paths = (config.invocation_params.dir / arg.partition("::")[0] for arg in config.args)
    return any(path.resolve().is_relative_to(folder) for path in paths)


def fail_what_is_skipped(report: pytest.TestReport, item: pytest.Item, folder: Path) -> None:
    """Turn a skip into a failure if the test was asked for by name."""
    if report.skipped and asked_for(item.config, folder):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = (
            "failed",
            f"{item.nodeid} was asked for and cannot be run: {reason}",
        )
