"""Read requests as etcd's gateway does: snake or camel case, numbers as numbers or text, unknown
members ignored, refused with its words. Pure.
"""

from __future__ import annotations

import base64
import json
import re
import types
import typing
from enum import IntEnum
from functools import cache
from typing import Any, Final, TypeVar, cast

from msgspec import Struct

from node.etcd.messages import NAMES
from node.etcd.refusals import INVALID_ARGUMENT, Refusal

T = TypeVar("T", bound=Struct)

INT_MAX: Final = 2**63 - 1
_CAMEL: Final = re.compile(r"_([a-z])")
_SPACE: Final = " \t\r\n"
_CUT: Final = "unexpected EOF"
_ALPHABET: Final = re.compile(rb"[A-Za-z0-9+/]*")
_NUMBER: Final = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")


class _Number(str):
    """The digits of a JSON number."""

    __slots__ = ()


_decoder: Final = json.JSONDecoder(
    parse_int=_Number, parse_float=_Number, parse_constant=_Number, strict=False
)


def parsed(body: bytes, kind: type[T]) -> T:
    """Return the first JSON value of a body as a request; an empty one has all defaults. Raises
    Refusal.
    """
    text = body.decode("utf-8", "replace").lstrip(_SPACE)
    if not text:
        return kind()
    return as_request(first_value(text)[0], kind)


def first_value(text: str) -> tuple[Any, str]:
    """Return the first JSON value of a text that does not begin with space, and the rest of the
    text. Raises Refusal, Incomplete.
    """
    try:
        value, end = _decoder.raw_decode(text)
    except (ValueError, RecursionError) as exc:
        raise _syntax(text, getattr(exc, "pos", 0)) from exc
    return value, text[end:].lstrip(_SPACE)


class Incomplete(Refusal):
    """The refusal of JSON that only lacks its end."""


def _syntax(text: str, at: int) -> Refusal:
    """Return the refusal of a text that is no JSON from a position on, in etcd's words as far as
    they are known.
    """
    rest = text[at:].lstrip(_SPACE)
    for word in ("null", "true", "false"):
        if rest[:1] == word[0]:
            given = rest[: len(word)]
            same = next((n for n, letter in enumerate(given) if letter != word[n]), len(given))
            if same == len(given):
                return Incomplete(INVALID_ARGUMENT, _CUT)
            wanted = f"in literal {word} (expecting {word[same]!r})"
            return Refusal(INVALID_ARGUMENT, f"invalid character {given[same]!r} {wanted}")
    if not rest or rest.startswith('"'):
        return Incomplete(INVALID_ARGUMENT, _CUT)
    before = text[:at].rstrip(_SPACE)[-1:]
    place = "beginning of value"
    if before in {"{", ","} and rest[0] == "}":
        place = "beginning of object key string"
    return Refusal(INVALID_ARGUMENT, f"invalid character {rest[0]!r} looking for {place}")


def as_request(value: Any, kind: type[T]) -> T:
    """Return a JSON value as a request. Raises Refusal."""
    try:
        return _request(value, kind)
    except RecursionError as exc:
        raise Refusal(INVALID_ARGUMENT, "the request is nested too deep") from exc


def _request(value: Any, kind: type[T]) -> T:
    if value is None:
        return kind()
    if not isinstance(value, dict):
        raise _mistyped(value, "map[string]json.RawMessage")
    fields = _fields(kind)
    given: dict[str, Any] = {}
    for name, each in value.items():
        field = fields.get(name)
        if field is not None and each is not None:
            given[field[0]] = _converted(each, field[1])
    return kind(**given)


@cache
def _fields(kind: type[Struct]) -> dict[str, tuple[str, Any]]:
    """Return name and type of each field of a message, by each name that a client may use."""
    found: dict[str, tuple[str, Any]] = {}
    for name, hint in typing.get_type_hints(kind).items():
        if isinstance(hint, types.UnionType):
            (hint,) = set(typing.get_args(hint)) - {type(None)}  # noqa: PLW2901  # what is left
        camel = _CAMEL.sub(lambda letter: letter[1].upper(), name)
        found[name] = found[camel] = (name, hint)
    return found


def _converted(value: Any, hint: Any) -> Any:
    if hint is bytes:
        return _bytes(value)
    if hint is int:
        return _int(value)
    if hint is bool:
        if not isinstance(value, bool):
            raise _mistyped(value, "bool")
        return value
    if hint is str:
        if not isinstance(value, str) or isinstance(value, _Number):
            raise _mistyped(value, "string")
        return value
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise _mistyped(value, "[]json.RawMessage")
        return tuple(_item(each, typing.get_args(hint)[0]) for each in value)
    if issubclass(hint, IntEnum):
        return _enum(value, hint)
    return _request(value, cast(type[Struct], hint))


def _item(value: Any, hint: Any) -> Any:
    if value is None:
        # etcd gives up the connection here.
        raise Refusal(INVALID_ARGUMENT, "null is no element of a list")
    return _converted(value, hint)


def _bytes(value: Any) -> bytes:
    if isinstance(value, list) and value:
        raise _mistyped(value[0], "uint8")
    if not isinstance(value, str) or isinstance(value, _Number):
        raise _mistyped(value, "[]uint8")
    raw = value.encode("utf-8", "replace").replace(b"\r", b"").replace(b"\n", b"")
    body = raw.rstrip(b"=")
    sound = _ALPHABET.match(body)
    assert sound is not None
    broken = sound.end() < len(body)
    if broken or len(raw) % 4 or len(raw) - len(body) > 2:
        # It breaks at a character, or at the quantum that lacks some.
        at = sound.end() if broken else len(body) // 4 * 4
        raise Refusal(INVALID_ARGUMENT, f"illegal base64 data at input byte {at}")
    return base64.b64decode(raw)


def _int(value: Any) -> int:
    text = value
    if isinstance(value, str) and not isinstance(value, _Number):
        text = value.strip(_SPACE)
        if not text:
            raise Refusal(INVALID_ARGUMENT, "unexpected end of JSON input")
        if not _NUMBER.fullmatch(text):
            shown = f"invalid character {text[0]!r} looking for beginning of value"
            raise Refusal(INVALID_ARGUMENT, shown)
    elif not isinstance(value, _Number):
        raise _mistyped(value, "int64")
    try:
        number = int(text)
    except ValueError:
        number = INT_MAX + 1
    if not -INT_MAX - 1 <= number <= INT_MAX:
        raise _mistyped(_Number(text), f"int64 {text}")
    return number


def _enum(value: Any, kind: type[IntEnum]) -> IntEnum:
    if isinstance(value, str) and not isinstance(value, _Number):
        if value not in kind.__members__:
            raise Refusal(INVALID_ARGUMENT, f'unknown value "{value}" for enum {NAMES[kind]}')
        return kind[value]
    if not isinstance(value, _Number):
        raise _mistyped(value, NAMES[kind])
    number = _int(value)
    # etcd takes any number; one that it does not know does what the default does.
    return kind(number) if number in set(kind) else kind(0)


def _mistyped(value: Any, wanted: str) -> Refusal:
    """Return the refusal of a value of another type."""
    if isinstance(value, bool):
        given = "bool"
    elif isinstance(value, _Number):
        given = "number"
        wanted, _, shown = wanted.partition(" ")
        if shown:
            given = f"number {shown}"
    elif isinstance(value, str):
        given = "string"
    else:
        given = "array" if isinstance(value, list) else "object"
    words = f"json: cannot unmarshal {given} into Go value of type {wanted}"
    return Refusal(INVALID_ARGUMENT, words)
