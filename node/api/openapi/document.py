"""Render the OpenAPI document, and answer GET /openapi.json with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from aiohttp import web

from node.api.openapi.control import CONTROL
from node.api.openapi.endpoints import ENDPOINTS, EVENTS, TEXT, Endpoint
from node.api.openapi.examples import example_of, explain
from node.api.openapi.guide import (
    EVERY,
    HEADERS,
    OF_OPERATIONS,
    OPERATIONS,
    PARAMETERS,
    TAGS,
)
from node.api.openapi.parameters import Parameter
from node.api.openapi.security import OPEN, SCHEMES, security_of
from node.exchange.exchange import Exchange
from node.exchange.headers import BYTES, JSON
from node.wire.documents import encode
from node.wire.lease_forms import LEASE_ID
from node.wire.problems import CONTENT_TYPE, Problem

ALL: Final = ENDPOINTS | CONTROL


def document(version: str, url: str) -> bytes:
    """Return the whole document as JSON."""
    kinds = [Problem]
    for endpoint in ALL.values():
        kinds += [
            kind
            for kind in (
                endpoint.body,
                *(a[2] for a in endpoint.answers.values()),
                *(kind for _, kind in endpoint.also.values()),
            )
            if _is_struct(kind)
        ]
    unique = list(dict.fromkeys(kinds))
    schemas, components = msgspec.json.schema_components(
        unique, ref_template="#/components/schemas/{name}"
    )
    refs = dict(zip(unique, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for (path, method), endpoint in ALL.items():
        paths.setdefault(path, {})[method.lower()] = _endpoint(path, method, endpoint, refs)
    explain(components)
    _show(paths, components)
    return encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Acordo",
                "version": version,
                "description": _ABOUT,
                "license": {"name": "MIT"},
            },
            "servers": [
                {"url": "/", "description": "The node that serves this document."},
                {"url": url, "description": "The same node as it is reached from elsewhere."},
            ],
            "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
            "paths": paths,
            "components": {
                "schemas": components,
                "headers": _HEADERS,
                "securitySchemes": SCHEMES,
            },
        }
    )


async def get(x: Exchange) -> web.Response:
    """Return the document."""
    return x.reply(200, x.services.openapi, JSON)


_ABOUT: Final = (
    "Linearizable key-value store. 4xx and 503 are definite: this attempt has no effect and "
    "never will. 504 is "
    "unknown: look the op_id up, or repeat with the same op_id. Never repeat a write elsewhere "
    "without one. "
    "Conditional headers work where they are listed; any other write refuses them. "
    "While access is not controlled, nobody has to sign in."
)
_HEADERS: Final = {
    name: {"schema": {"type": "string"}, "description": text, "example": example}
    for name, (text, example) in HEADERS.items()
}
_STREAM: Final = 'id: 3.42\nevent: put\ndata: {"key":"orders/17","value":"paid","revision":42}\n\n'
"""What a stream of events looks like."""


_TEXTS: Final = {TEXT: "ok", "application/x-ndjson": '{"done": true}'}
"""What else answers look like; values are `paid`."""
_WAIT: Final = frozenset({429, 503})
"""Refusals that say when to try again."""
_LEASE: Final = "00000000000000ab"


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _endpoint(
    path: str, method: str, endpoint: Endpoint, refs: Mapping[Any, Any]
) -> dict[str, Any]:
    tag, text = OPERATIONS[path, method]
    told = (*EVERY, *OF_OPERATIONS.get((path, method), ()))
    answers: dict[str, Any] = {
        str(status): {
            "description": text,
            "headers": _headers(*told),
            **({"content": {media: {"schema": _schema(kind, refs)}}} if media else {}),
        }
        for status, (text, media, kind) in endpoint.answers.items()
    }
    for status, (media, kind) in endpoint.also.items():
        answers[str(status)]["content"][media] = {"schema": _schema(kind, refs)}
    for status in sorted({*endpoint.refusals, *(() if path in OPEN else (401, 403)), 429, 503}):
        answers.setdefault(str(status), _refusal(refs, waits=status in _WAIT))
    found: dict[str, Any] = {
        "operationId": _operation_id(path, method),
        "summary": endpoint.summary,
        "description": text,
        "tags": [tag],
        **security_of(path),
        "parameters": [_parameter(p) for p in endpoint.parameters],
        "responses": answers,
    }
    if endpoint.body is not None:
        media = BYTES if endpoint.body is bytes else JSON
        content = {media: {"schema": _schema(endpoint.body, refs)}}
        found["requestBody"] = {"required": endpoint.body_required, "content": content}
    return found


def _schema(kind: Any, refs: Mapping[Any, Any]) -> Any:
    if kind is None:
        return {"type": "string"}
    if kind is bytes:
        return {}
    return refs[kind] if _is_struct(kind) else {"type": "object"}


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _refusal(refs: Mapping[Any, Any], *, waits: bool) -> dict[str, Any]:
    return {
        "description": "Problem document.",
        "headers": _headers(*EVERY, *(("Retry-After",) if waits else ())),
        "content": {CONTENT_TYPE: {"schema": refs[Problem]}},
    }


def _parameter(parameter: Parameter) -> dict[str, Any]:
    example = _LEASE if parameter.schema == LEASE_ID else PARAMETERS[parameter.name]
    # A viewer fills in what a parameter has as its example, and sends it: that of one that may be
    # left out stands in its schema.
    return {
        "name": parameter.name,
        "in": parameter.where,
        "required": parameter.required,
        "description": parameter.text,
        "schema": {**parameter.schema, **({} if parameter.required else {"examples": [example]})},
        **({"example": example} if parameter.required else {}),
    }


def _show(paths: Mapping[str, Any], schemas: Mapping[str, Any]) -> None:
    """Give each body and each answer an example."""
    for path in paths.values():
        for operation in path.values():
            for shown in (operation.get("requestBody", {}), *operation["responses"].values()):
                for media, content in shown.get("content", {}).items():
                    if media == EVENTS:
                        content["example"] = _STREAM
                    elif "json" in media and "ndjson" not in media:
                        content["example"] = example_of(content["schema"], schemas)
                    else:
                        content["example"] = _TEXTS.get(media, "paid")


def _operation_id(path: str, method: str) -> str:
    words: Iterable[str] = (
        w.strip("{}") for w in path.strip("/").replace("-", "_").split("/") if w
    )
    return "_".join([method.lower(), *words]).replace(".", "_")
