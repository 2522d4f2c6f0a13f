"""What no import shows: product code loads no tests, by a string or a name made at run time."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = (
    "kv", "backends", "coordinator", "node", "cluster", "acordo", "chaos", "bench", "deploy",
    "unitary_tests",
)  # fmt: skip
LOADERS = {
    # names of the package are loaded when they are first used: its own modules, from a table
    "acordo/__init__.py",
    # what is installed beside it decides what it can offer
    "acordo/_extras.py",
    "acordo/pytest_plugin.py",
    # runs the program that its command line names, on another clock
    "chaos/targets/wallclock.py",
}
"""Modules that may load others by name."""
NAMES_TESTS = re.compile(r"(?<![\w./-])tests(?:[./]\w|$)")
LOADS = re.compile(r"importlib(?!\.metadata)|runpy|__import__|import_module|find_spec")


def loaded_by_string(source: str) -> Iterator[str]:
    """Yield the strings of a program that name the tests, its docstrings left out: they point to
    what shows that it works.
    """
    tree = ast.parse(source)
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            for line in node.value.splitlines():
                if NAMES_TESTS.search(line):
                    yield line


def loaders(source: str) -> Iterator[str]:
    """Yield the names by which a program loads modules at run time."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{each.name}" for each in node.names]
        elif isinstance(node, ast.Name):
            names = [node.id]
        yield from (name for name in names if LOADS.search(name))


def modules() -> list[Path]:
    return [path for name in PRODUCT for path in sorted((ROOT / name).rglob("*.py"))]


def test_no_string_of_product_code_names_the_tests() -> None:
    found = {
        str(path.relative_to(ROOT)): said
        for path in modules()
        if (said := list(loaded_by_string(path.read_text())))
    }
    assert found == {}


def test_only_named_modules_load_others_by_name() -> None:
    found = {str(p.relative_to(ROOT)) for p in modules() if any(loaders(p.read_text()))}
    assert found <= LOADERS


@pytest.mark.parametrize(
    "source",
    [
        'NODE = (sys.executable, "-m", "tests.bugs")',
        'import_module(f"tests.servers.{name}")',
        'open(root / "tests" / "installation")',
        'run("""\nimport x\nfrom tests.simulation import run\n""")',
        'COMMAND = "python tests/flaky.py"',
    ],
)
def test_a_string_that_loads_them_is_found(source: str) -> None:
    assert list(loaded_by_string(source))


@pytest.mark.parametrize(
    "source",
    [
        '"""Shown by tests/unit/test_arrows.py."""',
        "x = 1  # tests.unit tells why",
        'PREFIX = "ACORDO_TEST_"',
        'import_module("unitary_tests.run_tests")',
        'say("it tests whether")',
    ],
)
def test_what_only_speaks_of_them_is_not(source: str) -> None:
    assert not list(loaded_by_string(source))


@pytest.mark.parametrize(
    "source",
    [
        "import importlib.util",
        "from importlib import import_module",
        "import runpy",
        "__import__('x')",
    ],
)
def test_a_loader_is_found(source: str) -> None:
    assert list(loaders(source))


def test_what_asks_for_a_version_is_no_loader() -> None:
    assert not list(loaders("from importlib.metadata import version"))
