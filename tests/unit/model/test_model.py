"""The models in docs/model hold as their README says, and break where a rule is taken away.

The scenarios that take a second each; `make model` explores the rest.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MODEL = Path(__file__).parents[3] / "docs" / "model"


def _run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(MODEL / program), *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize(
    ("program", "scenario"),
    [
        ("acordo_model.py", "window"),
        ("acordo_model.py", "late-rebase"),
        ("acordo_model.py", "swap-retry"),
        ("acordo_model.py", "deadline"),
        ("acordo_model.py", "range"),
        ("acordo_model.py", "ranges"),
        ("replicated_model.py", "write"),
        ("replicated_model.py", "clock"),
        ("replicated_model.py", "ttl"),
    ],
)
def test_a_scenario_holds(program: str, scenario: str) -> None:
    ended = _run(program, "--scenario", scenario)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "holds" in ended.stdout


@pytest.mark.parametrize(
    ("module", "scenario", "changes"),
    [
        ("acordo", "one-change", {"touch": "settle"}),
        ("acordo", "window", {"store_dedupe": False}),
        ("acordo", "one-change", {"as_of": "settled_end"}),
        ("acordo", "range", {"range_touch": False}),
        ("acordo", "ranges", {"range_floor": False}),
        ("replicated", "write", {"readindex": False}),
    ],
)
def test_a_rule_taken_away_breaks_a_promise(
    module: str, scenario: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(MODEL))
    model: Any = __import__(f"{module}_model")
    fields = {field.name for field in dataclasses.fields(model.Rules)}
    assert changes.keys() <= fields, f"the model calls its rules {sorted(fields)}"
    assert model.explore(
        dataclasses.replace(model.Rules(), **changes), model.SCENARIOS[scenario]
    ).broken


def test_a_lost_disk_that_counts_too_early_elects_two_leaders() -> None:
    said = _run("rejoin_votes.py").stdout.splitlines()
    early, committed = (line for line in said if line.startswith(("index ", "entry ")))
    assert "D stands in 7" in early
    assert committed == "entry (250, None)"


@pytest.mark.parametrize("rule", ["round", "round_after", "whole_ttl", "ending", "grant"])
def test_a_lease_ends_early_without_a_rule(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(MODEL))
    model: Any = __import__("lease_model")
    _, broken, way = model.explore(model.Rules()._replace(**{rule: False}))
    assert "before its time" in broken
    assert way
