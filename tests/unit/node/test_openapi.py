"""The OpenAPI document explains itself: nothing of it is without words and an example."""

from __future__ import annotations

import json
from typing import Any

import pytest

from node.api.openapi.document import ALL, document
from node.api.openapi.examples import example_of
from node.api.openapi.glossary import OF_SCHEMAS, PROPERTIES
from node.api.openapi.guide import HEADERS, OF_OPERATIONS, OPERATIONS, PARAMETERS, TAGS

DOCUMENT: dict[str, Any] = json.loads(document("0.0.0", "http://n1.example:8001"))
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
EMPTY = {"control", "gives_up", "gives_up_after", "refusal", "store_trouble", "trouble", "unfit",
         "write_ms"}  # fmt: skip
"""Properties whose example is null, or that of what they hold."""


@pytest.mark.parametrize(("path", "method"), ALL)
def test_every_operation_is_explained_and_has_examples(path: str, method: str) -> None:
    operation = DOCUMENT["paths"][path][method.lower()]
    assert operation["summary"] and operation["description"] != operation["summary"]
    (tag,) = operation["tags"]
    assert tag in TAGS
    for parameter in operation["parameters"]:
        shown_as = parameter if parameter["required"] else parameter["schema"]
        assert parameter["description"], parameter["name"]
        assert {"example", "examples"} & set(shown_as), parameter["name"]
    shown = [operation["requestBody"]] if "requestBody" in operation else []
    for status, answer in operation["responses"].items():
        assert answer["description"] and answer["headers"], status
        shown.append(answer)
    for each in shown:
        for media, content in each.get("content", {}).items():
            assert content["example"] is not None, media


def test_every_property_and_header_is_explained_and_has_an_example() -> None:
    for name, schema in SCHEMAS.items():
        for field, form in schema.get("properties", {}).items():
            assert form.get("description"), (name, field)
            assert field in EMPTY or form.get("examples"), (name, field)
    for name, header in DOCUMENT["components"]["headers"].items():
        assert header["description"] and header["example"], name


def test_examples_have_what_their_schemas_require() -> None:
    for name, schema in SCHEMAS.items():
        example = example_of({"$ref": f"#/components/schemas/{name}"}, SCHEMAS)
        assert set(schema.get("required", ())) <= set(example or {}), name


def test_no_word_is_of_what_is_not_there() -> None:
    fields = {(name, field) for name, s in SCHEMAS.items() for field in s.get("properties", {})}
    assert set(PROPERTIES) - {field for _, field in fields} == set()
    assert set(OF_SCHEMAS) - fields == set()
    assert set(OPERATIONS) == set(ALL)
    assert set(OF_OPERATIONS) <= set(ALL)
    assert set(PARAMETERS) == {each.name for one in ALL.values() for each in one.parameters}
    told = {name for names in OF_OPERATIONS.values() for name in names}
    assert told <= set(HEADERS)
