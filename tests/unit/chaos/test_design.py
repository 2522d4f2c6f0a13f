"""chaos/DESIGN.md names the modules and functions that exist, all of the former."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "chaos" / "DESIGN.md").read_text()
MODULE = re.compile(r"`([\w/]+)`(\*?)")


def in_the_table() -> list[tuple[str, str]]:
    """Return modules and their marks, from the table of modules alone."""
    table = PAGE.partition("## Modules")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
    return MODULE.findall(" ".join(rows))


def test_the_table_of_modules_is_the_folder() -> None:
    named = [name for name, _ in in_the_table()]
    paths = (p.relative_to(ROOT / "chaos").with_suffix("") for p in (ROOT / "chaos").rglob("*.py"))
    there = {str(p) for p in paths if p.name not in {"__init__", "__main__"}}
    assert len(named) == len(set(named))
    assert set(named) == there


def test_what_is_marked_pure_is_in_the_contract_of_purity() -> None:
    marked = {"chaos." + name.replace("/", ".") for name, mark in in_the_table() if mark}
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (pure,) = (
        c["source_modules"]
        for c in contracts["contracts"]
        if c["type"] == "forbidden" and "chaos.checkers" in c["source_modules"]
    )
    mine = {name for name in pure if name.startswith("chaos.")}
    assert {n for n in marked if not n.startswith("chaos.checkers.")} == mine - {"chaos.checkers"}


def test_every_checker_is_marked_pure() -> None:
    assert all(mark for name, mark in in_the_table() if name.startswith("checkers/"))


NAMED = sorted(set(re.findall(r"`((?:\w+\.)+\w+)`", PAGE.partition("## The way of a run")[2])))


@pytest.mark.parametrize("name", [n for n in NAMED if (ROOT / "chaos" / n.split(".")[0]).is_dir()])
def test_what_the_ways_name_exists(name: str) -> None:
    found: object = importlib.import_module("chaos")
    path = "chaos"
    for part in name.split("."):
        path += f".{part}"
        found = getattr(found, part) if hasattr(found, part) else importlib.import_module(path)


def test_the_way_of_a_run_is_named() -> None:
    assert len(NAMED) >= 20
