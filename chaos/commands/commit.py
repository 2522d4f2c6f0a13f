"""Determine which commit is checked out, and derive a run's seed from it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
OUT: Final = ROOT / "out" / "chaos"
"""Directory in which runs are kept."""


def commit() -> str:
    """Return the commit that is checked out, with "+" if files differ; "" outside a repository."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return described.stdout.strip()


def commit_seed() -> int:
    """Return a seed derived from the commit: equal for all runs of one commit, different for
    others.
    """
    digits = "".join(c for c in commit()[-13:].rstrip("+") if c in "0123456789abcdef")[-6:]
    return int(digits or "1", 16)
