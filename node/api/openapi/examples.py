"""Complete the OpenAPI document: each property gets its meaning and an example, and each body and
answer an example made of those. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from node.api.openapi.glossary import OF_SCHEMAS, PROPERTIES

DEPTH_MAX: Final = 6
_REF: Final = "#/components/schemas/"


def explain(schemas: dict[str, Any]) -> None:
    """Give every property of the schemas a description and, where there is one, an example."""
    for name, schema in schemas.items():
        for field, form in schema.get("properties", {}).items():
            text, example = OF_SCHEMAS.get((name, field)) or PROPERTIES.get(field, ("", None))
            if text:
                form.setdefault("description", text)
            if example is not None and "examples" not in form:
                form["examples"] = [example]


def example_of(schema: Mapping[str, Any], schemas: Mapping[str, Any], depth: int = 0) -> Any:
    """Return an example of a schema, made of those of its parts; None: there is none."""
    if schema.get("examples"):
        return schema["examples"][0]
    if depth > DEPTH_MAX:
        return None
    if "$ref" in schema:
        return example_of(schemas[schema["$ref"].removeprefix(_REF)], schemas, depth + 1)
    for form in schema.get("anyOf", ()):
        found = example_of(form, schemas, depth + 1)
        if found is not None:
            return found
    if "properties" in schema:
        needed = schema.get("required", ())
        parts = {
            name: example_of(form, schemas, depth + 1)
            for name, form in schema["properties"].items()
            if name in needed or "default" not in form
        }
        return {name: each for name, each in parts.items() if each is not None or name in needed}
    if schema.get("type") == "array":
        found = example_of(schema.get("items", {}), schemas, depth + 1)
        return [] if found is None else [found]
    return schema.get("default", {"object": {}, "string": ""}.get(str(schema.get("type"))))
