"""The sketches of Terraform are read, and what they refer to is there. No Terraform is run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import hcl2
import pytest

FOLDER = Path(__file__).parents[3] / "deploy" / "terraform"
PROVIDERS = {"aws": ("aws", "random"), "azure": ("azurerm", "random"), "gcp": ("google", "random")}
OWN_WORDS = {"count", "each", "path", "self", "terraform"}
"""What a reference may begin with that nothing in a folder declares."""


@cache
def parsed(provider: str) -> tuple[dict[str, Any], ...]:
    found = []
    for path in sorted((FOLDER / provider).glob("*.tf")):
        with path.open() as file:
            found.append(hcl2.load(file))
    assert found
    return tuple(found)


def blocks(provider: str, kind: str) -> Iterator[tuple[str, Any]]:
    """Yield (name, body) of each block of a kind; resources and data by type.name."""
    for document in parsed(provider):
        for block in document.get(kind, ()):
            for name, body in _plain(block).items():
                if kind in {"resource", "data"}:
                    yield from ((f"{name}.{own}", inner) for own, inner in _plain(body).items())
                else:
                    yield name, body


def _plain(block: dict[str, Any]) -> dict[str, Any]:
    return {k.strip('"'): v for k, v in block.items() if not k.startswith("__")}


def strings(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for name, each in value.items():
                yield str(name)
                yield from strings(each)
        case list():
            for each in value:
                yield from strings(each)


def expressions(text: str) -> Iterator[str]:
    """Yield what stands within ${…} of a string, with the quoted texts in it taken out."""
    depth, began = 0, 0
    for at, letter in enumerate(text):
        if letter == "{" and (depth or text[at - 1 : at] == "$"):
            began = at + 1 if depth == 0 else began
            depth += 1
        elif letter == "}" and depth:
            depth -= 1
            if depth == 0:
                inner = text[began:at]
                yield re.sub(r'"[^"$]*"', '""', inner)
                yield from expressions(inner)


def references(value: Any) -> Iterator[str]:
    for text in strings(value):
        for expression in expressions(text):
            yield from re.findall(
                r"(?<![\w.\]\"])([a-z]\w*\.[a-z_]\w*(?:\.[a-z_]\w*)?)", expression
            )


def declared(provider: str) -> set[str]:
    names = {f"var.{name}" for name, _ in blocks(provider, "variable")}
    names |= {f"local.{name}" for name, _ in blocks(provider, "locals")}
    names |= {name for name, _ in blocks(provider, "resource")}
    return names | {f"data.{name}" for name, _ in blocks(provider, "data")}


def iterators(value: Any) -> Iterator[str]:
    """Yield the names that `dynamic` blocks and `for` expressions bring."""
    if isinstance(value, dict):
        for name, each in value.items():
            if name == "dynamic":
                yield from (bound for block in each for bound in _plain(block))
            yield from iterators(each)
    elif isinstance(value, list):
        for each in value:
            yield from iterators(each)
    elif isinstance(value, str):
        yield from re.findall(r"\bfor (\w+) in\b", value)


def unresolved(provider: str, documents: tuple[dict[str, Any], ...]) -> list[str]:
    there = declared(provider)
    bound = OWN_WORDS | set(iterators(list(documents)))
    wrong = []
    for reference in references(list(documents)):
        first, second, *third = reference.split(".")
        name = ".".join((first, second, *third[:1])) if first == "data" else f"{first}.{second}"
        if first not in bound and name not in there:
            wrong.append(reference)
    return wrong


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_reference_is_resolved(provider: str) -> None:
    documents = parsed(provider)
    assert len(list(references(list(documents)))) > 50
    assert unresolved(provider, documents) == []


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_reference_to_nothing_is_found(provider: str) -> None:
    wrong = hcl2.loads('output "x" { value = "${var.gone}-${data.a.b.id}" }\n')
    assert unresolved(provider, (wrong,)) == ["var.gone", "data.a.b"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_variable_is_used_and_typed(provider: str) -> None:
    used = set(references(list(parsed(provider))))
    for name, body in blocks(provider, "variable"):
        assert any(r == f"var.{name}" or r.startswith(f"var.{name}.") for r in used), name
        assert "type" in body, name


@pytest.mark.parametrize("provider", PROVIDERS)
def test_providers_are_pinned_and_resources_are_theirs(provider: str) -> None:
    allowed = PROVIDERS[provider]
    for name, _ in (*blocks(provider, "resource"), *blocks(provider, "data")):
        assert name.split("_")[0] in allowed, name
    text = (FOLDER / provider / "main.tf").read_text()
    pins = dict(
        re.findall(
            r"^    (\w+) += \{ source = \"hashicorp/\w+\", version = \"(~> [\d.]+)\"", text, re.M
        )
    )
    assert set(pins) == set(allowed)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_no_secret_is_written_down(provider: str) -> None:
    secret = re.compile(r"password|token|secret_data|secret_string|(?<!_)value$")
    for name, body in blocks(provider, "resource"):
        for key, value in _plain(body).items():
            if secret.search(key) and isinstance(value, str):
                assert "${" in value, f"{name}.{key}"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_the_plan_promises_is_in_it(provider: str) -> None:
    text = (FOLDER / provider / "main.tf").read_text()
    there = {name.split(".")[0] for name, _ in blocks(provider, "resource")}
    wanted = {
        "aws": {"aws_vpc", "aws_eks_cluster", "aws_db_instance", "aws_mq_broker", "aws_s3_bucket"},
        "azure": {"azurerm_virtual_network", "azurerm_kubernetes_cluster", "azurerm_redis_cache"},
        "gcp": {"google_compute_network", "google_container_cluster", "google_redis_instance"},
    }[provider]
    assert wanted <= there
    synchronous = {"aws": "multi_az ", "azure": '"ZoneRedundant"', "gcp": '"REGIONAL"'}[provider]
    assert synchronous in text
