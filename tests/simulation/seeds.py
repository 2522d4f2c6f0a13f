"""Simulate some seeds in a process of their own, and say which code and which commit they
are of.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.simulation.plans import Kind, plan_of
from tests.simulation.run import run

ROOT = Path(__file__).resolve().parents[2]
SIMULATED = (
    "coordinator",
    "kv",
    "node",
    "backends",
    "chaos/checkers",
    "tests/simulation",
    "tests/planted",
)
"""Folders."""
BESIDE = ("tests/virtual.py", "tests/soundness.py")
"""What a result depends on: another state of it begins anew."""


def one(seed: int, kind: Kind | None = None) -> dict[str, Any]:
    """Simulate a seed, with the kind of store that it draws if none is given; return what is kept
    of it. What the simulation itself stumbles over counts as a violation.
    """
    try:
        result = run(seed, plan=plan_of(seed, kind))
    except Exception as exc:  # noqa: BLE001 - the other seeds go on
        return {
            "seed": seed,
            "kind": "none",
            "simulated_s": 0.0,
            "counts": {},
            "violations": [f"Simulation: {exc!r}"],
        }
    return {
        "seed": seed,
        "kind": result.plan.kind,
        "simulated_s": result.simulated_s,
        "counts": result.counts,
        "violations": [f"{violation.name}: {violation.detail}" for violation in result.violations],
    }


def chunk(seeds: tuple[int, ...], kind: Kind | None = None) -> list[dict[str, Any]]:
    return [one(seed, kind) for seed in seeds]


def code_digest() -> str:
    """Return a hash of all code that a simulated seed runs."""
    hashed = hashlib.blake2b(digest_size=6)
    paths = [path for part in SIMULATED for path in (ROOT / part).rglob("*.py")]
    for path in sorted([*paths, *(ROOT / name for name in BESIDE)]):
        hashed.update(path.read_bytes())
    return hashed.hexdigest()


def commit_seed() -> tuple[str, int]:
    """Return the commit and a first seed drawn from it: each commit tries other ones."""
    found = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    commit = found.stdout.strip() or code_digest()
    return commit, int(commit[:8], 16) * 100_000


def nice() -> None:
    """Let others on this machine go first."""
    os.nice(5)
