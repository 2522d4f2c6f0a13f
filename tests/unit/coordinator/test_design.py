"""coordinator/DESIGN.md names what exists: modules, functions, rules."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from tests.planted import protocol, replicated
from tests.planted.registry import PlantedFault

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "coordinator/DESIGN.md").read_text()
PACKAGE = ROOT / "coordinator"
HELD_ELSEWHERE = {"waits_noop", "ledger_outcomes", "as_of"}
"""Rules of the protocol that no fault in tests/planted/protocol.py takes away."""


def modules() -> set[str]:
    """Return the package's modules but Raft's, as paths from it."""
    found = (path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))
    return {str(path) for path in found if path.name != "__init__" and path.parts[0] != "raft"}


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def dotted(text: str) -> list[str]:
    """Return what is named like `machine.recent.Recent.touched`: below this package, or a port."""
    tops = {name.split("/")[0] for name in modules()} | {"kv"}
    names = re.findall(r"`([a-z_]+(?:\.\w+)+)`", text)
    return [name for name in names if name.split(".")[0] in tops and not name.endswith(".py")]


def exists(name: str) -> bool:
    parts = name.split(".")
    at = [*(["coordinator"] if parts[0] != "kv" else [])]
    found: object = None
    for part in parts:
        path = ".".join([*at, part])
        if found is None or not hasattr(found, part):
            try:
                found = importlib.import_module(path)
            except ImportError:
                return False
        else:
            found = getattr(found, part)
        at.append(part)
    return True


def test_the_table_of_modules_is_the_folder() -> None:
    named: set[str] = set()
    for cell in re.findall(r"^\| (`[^|]+) \|", PAGE.split("## Composition")[0], re.MULTILINE):
        folder = ""
        for name in re.findall(r"`([\w/]+)`", cell):
            folder = f"{name.split('/')[0]}/" if "/" in name else folder
            named.add(name if "/" in name else folder + name)
    assert named - {"raft/"} == modules()


@pytest.mark.parametrize("name", sorted(set(dotted(PAGE))))
def test_what_is_named_exists(name: str) -> None:
    assert exists(name), f"coordinator/DESIGN.md names {name}, which does not exist"


@pytest.mark.parametrize(
    "title",
    ["The way of a write", "The way of a write to members' own stores", "The way of a read"],
)
def test_the_ways_name_functions(title: str) -> None:
    assert len(dotted(section(title))) >= 8


def test_every_rule_says_where_it_is_kept() -> None:
    table = section("Where the rules are kept")
    rules = [
        name
        for cell in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", cell)
    ]
    planted = {each.name for each in vars(protocol).values() if isinstance(each, PlantedFault)}
    assert set(rules) == planted | HELD_ELSEWHERE
    assert len(rules) == len(set(rules))


def test_every_rule_of_the_replicated_store_says_where_it_is_kept() -> None:
    table = section("Where the rules of the replicated store are kept")
    rows = re.findall(r"^\| (R\d+) [^|]*\| [^|]+ \| ([^|]+) \|$", table, re.MULTILINE)
    assert [rule for rule, _ in rows] == [f"R{n}" for n in range(1, 16)]
    away = [name for _, cell in rows for name in re.findall(r"`(\w+)`", cell)]
    planted = {each.name for each in vars(replicated).values() if isinstance(each, PlantedFault)}
    assert set(away) == planted | {"readindex_entry"}
    assert len(away) == len(set(away))
