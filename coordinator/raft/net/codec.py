"""Turn the core's messages into bytes and back, by an allow-list of types and fields.

Pure. It never runs code that a peer names, and what it decodes has the types that it should have,
or it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

COMMAND_BYTES_MAX: Final = 32 << 20
ENTRIES_MAX: Final = 100_000
"""Entries in one message."""
NAME_CHARS_MAX: Final = 128

UNKNOWN: Final = "unknown"
"""The type of what a newer member says and this one has no word for."""
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
    """What came, or was to be sent, is no message of ours."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """Base of every message type: a subclass names its type by `tag`, and fields have concrete,
    bounded types.

    A field that may be left out has `UNSET` among its types and as its default. Fields are only
    ever appended, with a default: a member of the version before is understood, and one of the
    version behind ignores them.
    """


class AppendEntries(Message, frozen=True, tag="append_entries"):
    """Entries that follow (prevLogIdx, prevLogTerm), one piece of a large entry, or a piece of a
    dump (stock shape).
    """

    term: Count
    commit_index: Count
    prevLogIdx: Count | UnsetType | None = UNSET
    prevLogTerm: Count | UnsetType | None = UNSET
    entries: Entries | UnsetType = UNSET
    transmission: Annotated[str, Meta(max_length=16)] | UnsetType = UNSET
    data: Command | UnsetType = UNSET
    serialized: tuple[Command, bool, bool] | UnsetType | None = UNSET


class NextNodeIdx(Message, frozen=True, tag="next_node_idx"):
    """Where a follower's log stands."""

    next_node_idx: Count
    reset: bool
    success: bool
    term: Count | UnsetType = UNSET


class RequestVote(Message, frozen=True, tag="request_vote"):
    term: Count
    last_log_index: Count
    last_log_term: Count


class ResponseVote(Message, frozen=True, tag="response_vote"):
    term: Count


class ApplyCommand(Message, frozen=True, tag="apply_command"):
    """A command on its way from a follower to the leader."""

    command: Command
    request_id: Count | UnsetType = UNSET


class ApplyCommandResponse(Message, frozen=True, tag="apply_command_response"):
    request_id: Count
    error: Count | UnsetType = UNSET
    log_idx: Count | UnsetType = UNSET
    log_term: Count | UnsetType = UNSET


class TimeoutNow(Message, frozen=True, tag="timeout_now"):
    term: Count


STOCK: Final[tuple[type[Message], ...]] = (
    AppendEntries,
    NextNodeIdx,
    RequestVote,
    ResponseVote,
    ApplyCommand,
    ApplyCommandResponse,
    TimeoutNow,
)
"""What the library's own core sends."""


class Codec:
    """Encode and decode the dicts with a "type" that the core sends and takes.

    `types` is the allow-list. A later type of the same name replaces an earlier one, so
    `Codec(*STOCK, *own)` extends. Nesting is bounded by the types themselves: none of them refers
    to itself or holds `Any`.
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
        return tuple(self._types)

    def encode(self, message: Mapping[str, Any]) -> bytes:
        """Raises WireError for a type or a field that is not in the list, or a field that is
        missing.
        """
        kind = self._types.get(message.get("type", ""))
        if kind is None:
            raise WireError(f"no message type {message.get('type')!r}")
        try:
            return self._encoder.encode(
                kind(**{name: value for name, value in message.items() if name != "type"})
            )
        except (TypeError, OverflowError, UnicodeError, msgspec.MsgspecError) as exc:
            raise WireError(f"{message['type']}: {exc}") from exc

    def decode(self, payload: bytes | bytearray | memoryview) -> dict[str, Any]:
        """Return the message as the core takes it. Raises WireError.

        One of a type that is not in the list has the type UNKNOWN and nothing else: a newer member
        sent it.
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
        """Say whether it is a message by its shape, of a type that was never heard of. Its fields
        are not looked at.
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
