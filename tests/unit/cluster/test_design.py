"""cluster/DESIGN.md names every module that there is, and none else."""

from __future__ import annotations

import re

from cluster.local.process import ROOT

HERE = ROOT / "cluster"


def test_the_table_of_modules_is_whole() -> None:
    named: set[str] = set()
    folder = ""
    for row in re.findall(r"(?m)^\| (….*?|`.*?) \|", (HERE / "DESIGN.md").read_text()):
        names = re.findall(r"`([\w/]+)`", row)
        if names[0].endswith("/"):
            folder = names[0]
            continue
        folder = folder if row.startswith("…") else ""
        named |= {folder + name for name in names}
    there = {
        path.relative_to(HERE).with_suffix("").as_posix()
        for path in HERE.rglob("*.py")
        if not path.stem.startswith("__")
    }
    settings = {name for name in there if name.startswith("settings/")}
    assert named == there - settings
    row = next(r for r in (HERE / "DESIGN.md").read_text().splitlines() if "`settings/`" in r)
    assert {f"settings/{name}" for name in re.findall(r"`(\w+)`", row)} == settings
