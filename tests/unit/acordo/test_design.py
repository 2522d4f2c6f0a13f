"""The client's DESIGN.md names the modules that are there, and marks the pure ones."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]
TABLE = re.compile(r"^\| ((?:`[\w.]+`\*?(?:, )?)+) \|", re.MULTILINE)


def section() -> str:
    text = (ROOT / "acordo" / "DESIGN.md").read_text()
    return text.partition("## Modules")[2].partition("\n## ")[0]


def test_the_table_of_modules_is_what_there_is() -> None:
    named = re.findall(r"`([\w.]+)`", " ".join(TABLE.findall(section())))
    there = {
        ".".join(path.relative_to(ROOT / "acordo").with_suffix("").parts)
        for path in (ROOT / "acordo").rglob("*.py")
    }
    there = {name.removesuffix(".__init__") for name in there}
    assert len(named) == len(set(named))
    assert set(named) == there


def test_what_is_marked_pure_is_in_the_contract_of_purity() -> None:
    marked = {
        f"acordo.{name}" for name in re.findall(r"`([\w.]+)`\*", " ".join(TABLE.findall(section())))
    }
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (pure,) = (
        c
        for c in contracts["contracts"]
        if c["type"] == "forbidden" and "acordo._outcomes" in c["source_modules"]
    )
    assert marked == {name for name in pure["source_modules"] if name.startswith("acordo.")}
