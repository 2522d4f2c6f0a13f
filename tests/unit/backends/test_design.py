"""backends/DESIGN.md names every module that there is, and none else."""

from __future__ import annotations

import re
from pathlib import Path

PACKAGE = Path(__file__).parents[3] / "backends"
PAGE = (PACKAGE / "DESIGN.md").read_text()


def test_the_table_of_modules_is_the_folder() -> None:
    named = [
        name
        for cell in re.findall(r"(?m)^\| (….*?|`.*?) \|", PAGE.split("\n## ")[0])
        for name in re.findall(r"`([\w/]+)`", cell)
    ]
    there = {
        path.relative_to(PACKAGE).with_suffix("").as_posix()
        for path in PACKAGE.rglob("*.py")
        if path.stem != "__init__"
    }
    assert len(named) == len(set(named))
    assert set(named) == there


def test_what_the_text_names_is_there() -> None:
    """Holds paths, and names within modules: `fence.outranks`, `rabbitmq/amqp.failing_plainly`."""
    for path in re.findall(r"`backends/([\w/]+\.py)`", PAGE):
        assert (PACKAGE / path).exists(), path
    sources = {
        path.relative_to(PACKAGE).with_suffix("").as_posix(): path.read_text()
        for path in PACKAGE.rglob("*.py")
    }
    named = [
        (place, what)
        for place, what in re.findall(r"`([\w/]+)\.([A-Za-z_]\w*)\b", PAGE)
        if place in sources
    ]
    assert ("fence", "outranks") in named and ("rabbitmq/amqp", "failing_plainly") in named
    for place, what in named:
        assert re.search(rf"\b{what}\b", sources[place]), f"{place}.{what}"
