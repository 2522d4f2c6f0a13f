"""Each attribute of the core has one writer, and no part writes another's."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

CORE: Final = Path(__file__).parents[3] / "coordinator" / "raft" / "core"
DESIGN: Final = CORE.parent / "DESIGN.md"
CHANGES: Final = {"add", "discard", "pop", "clear", "setdefault", "append", "put_nowait"}
"""Methods that change what they are called on."""
STORES: Final = {
    "store_term": ("term", "voted_for"),
    "load_term": ("term", "voted_for"),
    "set_state": ("state",),
}
SHARED: Final = {
    "next_index", "match_index", "last_response", "connected_nodes", "queue", "waiting_commit",
    "waiting_reply",
}  # fmt: skip
"""Collections: another name for one is no copy."""
WIRING: Final = {"on_left_leadership", "on_added"}
"""What the core sets on its parts when it makes them: whom they call."""


def _name(node: ast.expr) -> str:
    """Return `a.b.c`; empty for anything else."""
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _written(tree: ast.AST) -> Iterator[str]:
    """Return what is changed, by name; of a subscript what it is one of. A name that is bound anew
    changes nothing.
    """
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = list(node.targets)
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        elif isinstance(node, ast.Delete):
            targets = list(node.targets)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in STORES:
                yield from (f"library.{name}" for name in STORES[node.func.attr])
            if node.func.attr in CHANGES:
                yield _name(node.func.value)
        while targets:
            target = targets.pop()
            if isinstance(target, ast.Tuple):
                targets += target.elts
            elif isinstance(target, ast.Subscript):
                yield _name(target.value)
            elif isinstance(target, ast.Attribute):
                yield _name(target)


def _aliases(tree: ast.AST) -> dict[str, str]:
    """Return which names and attributes stand for something of the library's."""
    found = {"library": "library", "self._library": "library", "self.pysyncobj": "library"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                pairs = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = list(zip(target.elts, node.value.elts, strict=True))
                for name, value in pairs:
                    held = re.sub(r"^(self\._?|state\.)", "", _name(value))
                    held = re.sub(r"^pysyncobj\b", "library", held)
                    if held.removeprefix("library.") in SHARED:
                        found[_name(name)] = held
    return found


def writers() -> dict[str, set[str]]:
    """Return who writes each attribute of the library's."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path in sorted(CORE.rglob("*.py")):
        if path.name == "pysyncobj_library.py":
            continue
        tree = ast.parse(path.read_text())
        aliases = _aliases(tree)
        for written in _written(tree):
            owner, _, attribute = written.rpartition(".")
            real = aliases.get(written, "")
            if aliases.get(owner) == "library":
                real = f"library.{attribute}"
            if real.startswith("library."):
                module = path.relative_to(CORE).with_suffix("").as_posix()
                found[real.removeprefix("library.")].add(module)
    return dict(found)


def test_each_attribute_of_the_library_has_the_writer_that_the_design_names() -> None:
    table = DESIGN.read_text().split("| attribute of `library` | written by |")[1].split("\n\n")[0]
    named: dict[str, set[str]] = {}
    for line in table.splitlines()[2:]:
        attributes, writer = line.strip("| ").split(" | ")
        for attribute in re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", attributes)):
            named[attribute] = {writer.strip("`")}
    assert writers() == named


def test_no_part_writes_an_attribute_of_another() -> None:
    foreign = [
        f"{path.stem}: {written}"
        for path in sorted(CORE.rglob("*.py"))
        for written in _written(ast.parse(path.read_text()))
        if re.match(r"self\.(?!_library\b|pysyncobj\b)\w+\.\w+$", written)
        and written.rpartition(".")[2] not in WIRING
    ]
    assert not foreign
