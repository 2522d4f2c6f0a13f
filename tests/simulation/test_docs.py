"""docs/simulation.md names the modules that exist."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs/simulation.md").read_text()


def test_the_table_of_parts_is_the_folder() -> None:
    table = PAGE.split("## The world\n")[1].split("\n\nA process")[0]
    cells = re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    modules = {path.stem for path in HERE.glob("*.py") if not path.stem.startswith(("__", "test_"))}
    assert named == modules
