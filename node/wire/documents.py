"""Write and read JSON documents. Pure; it never writes what is not valid, nor chooses between
members of one name.
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
    """Return the JSON of an answer; what a client sent that is no Unicode stands in it as question
    marks.

    A header may hold any byte and comes back in problem documents: an answer that cannot be written
    would turn a definite refusal into an unknown outcome.
    """
    try:
        return _encode(answer)
    except UnicodeEncodeError:
        return _encode(_sound(msgspec.to_builtins(answer)))


def printable(text: str) -> str:
    """Return a text that UTF-8 can carry."""
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
    """Return the body as `kind`. Raises BadRequest: malformed_json, or invalid_body naming the
    place.
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
    """Say whether an object of sound JSON names a member twice: parsers keep one of them, and not
    all the same one.

    Outside strings each colon stands for one member; what a parser keeps has fewer when a name came
    twice.
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
