"""What a fuzzer found stays found: each kept input, and each seed, is fed to its parser again."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.fuzz.__main__ import CORPUS, NAMES
from tests.fuzz.http import HttpTarget, http_seeds
from tests.fuzz.targets import TARGETS, feed

ROOT = Path(__file__).parents[2]
PACKAGES = ("acordo", "backends", "chaos", "cluster", "coordinator", "kv", "node")
MUTATIONS = 60
HTTP_INPUTS = 40


def kept(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


def mutated(inputs: list[bytes], count: int) -> Iterable[bytes]:
    """Yield inputs with some bytes changed, left out or doubled; the same ones each time."""
    rng = random.Random(7)
    for _ in range(count):
        data = bytearray(rng.choice(inputs))
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(data) + 1)
            match rng.randrange(3):
                case 0:
                    data[at : at + 1] = bytes([rng.randrange(256)])
                case 1:
                    del data[at : at + rng.randrange(8)]
                case 2:
                    data[at:at] = data[at : at + rng.randrange(16)]
        yield bytes(data)


def test_each_target_is_named_and_has_a_corpus() -> None:
    assert {*TARGETS, "http"} == set(NAMES)
    for name in NAMES:
        assert len(kept(name)) > 1, name


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_raises_nothing_but_what_it_says(name: str) -> None:
    inputs = [*TARGETS[name].seeds(), *kept(name)]
    for data in (*inputs, *mutated(inputs, MUTATIONS)):
        feed(name, data)


def test_whatever_comes_in_a_node_answers_in_http_and_never_with_500() -> None:
    target = HttpTarget()
    try:
        inputs = [*http_seeds(), *kept("http")[:HTTP_INPUTS]]
        for data in (*inputs, *mutated(inputs, HTTP_INPUTS)):
            target.feed(data)
    finally:
        target.close()


def names_in(handler: ast.expr | None) -> set[str]:
    """Return the last names of what a handler catches."""
    parts = handler.elts if isinstance(handler, ast.Tuple) else [handler]
    return {part.attr if isinstance(part, ast.Attribute) else getattr(part, "id", "")
            for part in parts if part is not None}  # fmt: skip


@pytest.mark.parametrize("package", PACKAGES)
def test_who_decodes_also_thinks_of_what_is_nested_too_deep(package: str) -> None:
    """msgspec raises RecursionError, which is none of its own errors, for deep nesting, also in
    what a type ignores. A peer, a message or a file must not end a task by it.
    """
    for path in (ROOT / package).rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Try):
                caught = set[str]().union(*(names_in(each.type) for each in node.handlers))
                if caught & {"MsgspecError", "DecodeError"}:
                    assert caught & {"RecursionError", "Exception"}, f"{path}:{node.lineno}"
