"""Encode and decode JSON documents. Pure; it never writes invalid JSON, nor picks one of several
members with the same name.
"""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar

import msgspec

from kv.errors import BadRequest

T = TypeVar("T")

_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_encode: Final = msgspec.json.Encoder().encode


def encode(answer: object) -> bytes:
    """Return an answer as JSON; invalid Unicode from a client is replaced by question marks.

    A header may contain any byte and is repeated in problem documents. If such an answer could not
    be encoded, a definite refusal would become an unknown outcome.
    """
    try:
        return _encode(answer)
    except UnicodeEncodeError:
        return _encode(_sound(msgspec.to_builtins(answer)))


def printable(text: str) -> str:
    """Return the text with everything that UTF-8 cannot encode replaced by question marks."""
    return text.encode("utf-8", "replace").decode()


def _sound(value: Any) -> Any:
    match value:
        case str():
            return printable(value)
        case dict():
            return {_sound(name): _sound(each) for name, each in value.items()}
        case list() | tuple():
            return [_sound(each) for each in value]
    return value


def decode(raw: bytes, kind: type[T]) -> T:
    """Return the body as `kind`. Raises BadRequest: malformed_json, or invalid_body, which names
    the place in the body.
    """
    try:
        found = _decoder(kind).decode(raw)
        doubled = repeats(raw)
    except msgspec.ValidationError as exc:
        raise BadRequest(
            "invalid_body", str(exc), allowed=f"the {kind.__name__} of /openapi.json"
        ) from exc
    except (msgspec.DecodeError, UnicodeError, ValueError) as exc:
        raise BadRequest(
            "malformed_json", f"the body is no JSON: {exc}", allowed="one JSON object, UTF-8"
        ) from exc
    except RecursionError as exc:
        raise BadRequest(
            "malformed_json", "the body is nested too deeply", allowed="one flat JSON object"
        ) from exc
    if doubled:
        raise BadRequest(
            "malformed_json", "a member is named twice in one object", allowed="each member once"
        )
    return found


def repeats(raw: bytes) -> bool:
    """Return whether an object in valid JSON names a member twice. Parsers keep only one of the
    two, and different parsers keep different ones.

    Outside strings each colon stands for one member. The parsed value has fewer members than colons
    when a name occurs twice.
    """
    return _STRING.sub(b"", raw).count(b":") != _members(msgspec.json.decode(raw))


def _members(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(map(_members, value.values()))
    return sum(map(_members, value)) if isinstance(value, list) else 0


_decoders: Final[dict[type[Any], msgspec.json.Decoder[Any]]] = {}


def _decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    return decoder
