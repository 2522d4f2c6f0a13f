"""Encode the core's messages and decode them, by an allow-list of types and fields.

Pure. It never runs code that a peer names, and refuses a message whose fields do not have their
declared types.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta

COMMAND_BYTES_MAX: Final = 32 << 20
ENTRIES_MAX: Final = 100_000
"""Number of entries in one message."""
NAME_CHARS_MAX: Final = 128

UNKNOWN: Final = "unknown"
"""The type given to a message whose type only a newer version knows."""
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_shape_decoder: msgspec.msgpack.Decoder[list[msgspec.Raw]] = msgspec.msgpack.Decoder(
    list[msgspec.Raw]
)
_head_decoder: msgspec.msgpack.Decoder[str] = msgspec.msgpack.Decoder(str)

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Command = Annotated[bytes, Meta(max_length=COMMAND_BYTES_MAX)]
LogEntry = tuple[Command, Count, Count]
"""(command, index, term)."""
Entries = Annotated[list[LogEntry], Meta(max_length=ENTRIES_MAX)]
Name = Annotated[str, Meta(max_length=NAME_CHARS_MAX)]


class WireError(ValueError):
    """A message, received or about to be sent, that is not in the allow-list or not valid."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """The base of every message type; a subclass names its type by `tag`.

    Fields have concrete, bounded types. An optional field has `UNSET` among its types and as its
    default. New fields are only appended, with a default, so that messages of older members can be
    decoded, and older members ignore the new fields.
    """


class Codec:
    """The translator between messages as bytes and as dicts with a "type", which the core uses.

    `types` is the allow-list. A later type replaces an earlier one of the same name, so
    `Codec(*older, *newer)` extends the list. Nesting is bounded by the types: none of them refers
    to itself or contains `Any`.
    """

    def __init__(self, *types: type[Message]) -> None:
        self._types: dict[str, type[Message]] = {_tag(kind): kind for kind in types}
        self._fields: dict[type[Message], tuple[str, ...]] = {
            kind: kind.__struct_fields__ for kind in self._types.values()
        }
        union: Any = None
        for kind in self._types.values():
            union = kind if union is None else union | kind
        self._decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(union)
        self._encoder = msgspec.msgpack.Encoder()

    @property
    def types(self) -> Sequence[str]:
        """The names of the allow-list."""
        return tuple(self._types)

    def encode(self, message: Mapping[str, Any]) -> bytes:
        """Encode a message.

        Raises WireError for an unknown type, an unknown field, or a missing field.
        """
        kind = self._types.get(message.get("type", ""))
        if kind is None:
            raise WireError(f"no message type {message.get('type')!r}")
        try:
            return self._encoder.encode(
                kind(**{name: value for name, value in message.items() if name != "type"})
            )
        except (
            TypeError,
            OverflowError,
            UnicodeError,
            msgspec.MsgspecError,
            RecursionError,
        ) as exc:
            raise WireError(f"{message['type']}: {exc}") from exc

    def decode(self, payload: bytes | bytearray | memoryview) -> dict[str, Any]:
        """Decode a message into the dict that the core expects. Raises WireError.

        A message of a type that is not in the list (a newer member sent it) is returned with the
        type UNKNOWN and no other field.
        """
        try:
            found = self._decoder.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            if self._is_unknown(payload):
                return {"type": UNKNOWN}
            raise WireError(str(exc)) from exc
        kind = type(found)
        message: dict[str, Any] = {"type": kind.__struct_config__.tag}
        for name in self._fields[kind]:
            value = getattr(found, name)
            if value is not UNSET:
                message[name] = value
        return message

    def _is_unknown(self, payload: bytes | bytearray | memoryview) -> bool:
        """Say whether the payload has the shape of a message, but of an unknown type. The fields
        are not examined.
        """
        try:
            name = _head_decoder.decode(_shape_decoder.decode(payload)[0])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, IndexError):
            return False
        return bool(_NAME.fullmatch(name)) and name not in self._types


def _tag(kind: type[Message]) -> str:
    tag = kind.__struct_config__.tag
    if not isinstance(tag, str):
        raise TypeError(f"{kind.__name__} has no tag")
    return tag
