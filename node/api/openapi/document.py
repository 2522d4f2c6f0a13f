"""Render the OpenAPI document, and answer GET /openapi.json with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from aiohttp import web

from node.api.openapi.control import CONTROL
from node.api.openapi.endpoints import ENDPOINTS, Endpoint
from node.api.openapi.parameters import Parameter
from node.api.openapi.security import OPEN, SCHEMES, security_of
from node.exchange.exchange import Exchange
from node.exchange.headers import BYTES, JSON
from node.reads.levels import LEVELS
from node.wire.documents import encode
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
    "Acordo-Node": {"schema": {"type": "string"}, "description": "Who answered."},
    "Acordo-Revision": {
        "schema": {"type": "string"},
        "description": (
            "Everything up to here is in the answer, and of reads nothing after it: "
            "watch from here on."
        ),
    },
    "Acordo-Leader": {
        "schema": {"type": "string"},
        "description": "On answers to writes: URL of the leader, where a write takes one hop less.",
    },
    "Acordo-Level": {
        "schema": {"type": "string", "enum": list(LEVELS)},
        "description": "Read level that was served.",
    },
}


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _endpoint(
    path: str, method: str, endpoint: Endpoint, refs: Mapping[Any, Any]
) -> dict[str, Any]:
    answers: dict[str, Any] = {
        str(status): {
            "description": text,
            "headers": {
                name: {"$ref": f"#/components/headers/{name}"}
                for name in ("Acordo-Node", "Acordo-Revision")
            },
            **({"content": {media: {"schema": _schema(kind, refs)}}} if media else {}),
        }
        for status, (text, media, kind) in endpoint.answers.items()
    }
    for status, (media, kind) in endpoint.also.items():
        answers[str(status)]["content"][media] = {"schema": _schema(kind, refs)}
    for status in sorted({*endpoint.refusals, *(() if path in OPEN else (401, 403)), 429, 503}):
        answers.setdefault(str(status), _refusal(refs))
    found: dict[str, Any] = {
        "operationId": _operation_id(path, method),
        "summary": endpoint.summary,
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


def _refusal(refs: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        "description": "Problem document.",
        "content": {CONTENT_TYPE: {"schema": refs[Problem]}},
    }


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.where,
        "required": parameter.required,
        "description": parameter.text,
        "schema": dict(parameter.schema),
    }


def _operation_id(path: str, method: str) -> str:
    words: Iterable[str] = (
        w.strip("{}") for w in path.strip("/").replace("-", "_").split("/") if w
    )
    return "_".join([method.lower(), *words]).replace(".", "_")
