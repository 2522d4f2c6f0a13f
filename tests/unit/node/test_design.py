"""node/DESIGN.md names the modules that are there, and a request's way by its functions."""

from __future__ import annotations

import ast
import re
from pathlib import Path

NODE = Path(__file__).parents[3] / "node"
TEXT = (NODE / "DESIGN.md").read_text()


def test_every_module_has_its_line_and_no_line_names_another() -> None:
    table = TEXT[TEXT.index("## Modules") : TEXT.index("Put together")]
    named = {
        name
        for line in table.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([a-z_/]+)`", line.split("|")[1])
    }
    there = {
        path.relative_to(NODE).with_suffix("").as_posix()
        for path in NODE.rglob("*.py")
        if path.name != "__init__.py"
    }
    assert named == there


def _defined(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        name = getattr(node, "name", None)
        if name is None:
            targets = [getattr(node, "target", None), *getattr(node, "targets", [])]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
            continue
        found.add(name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{name}.{each.name}" for each in node.body if hasattr(each, "name")}
    return found


def test_the_way_of_a_request_names_functions_that_are_there() -> None:
    named = re.findall(r"`((?:[a-z_]+/)*[a-z_]+)\.([A-Za-z_][\w.]*)`", TEXT)
    ours = [(module, name) for module, name in named if (NODE / f"{module}.py").is_file()]
    assert len(ours) > 15
    assert [
        (module, name)
        for module, name in ours
        if name != "py" and name not in _defined(NODE / f"{module}.py")
    ] == []


def test_a_folder_holds_sixteen_modules_at_most() -> None:
    for folder in (NODE, *(path for path in NODE.rglob("*") if path.is_dir())):
        modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        packages = list(folder.glob("*/__init__.py"))
        assert len(modules) + len(packages) <= 16, folder
