"""Turn the core's messages into bytes and back, by an allow-list. Pure; runs no code that a peer names.

Skeleton: signatures first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec


class WireError(ValueError):
    """What came is no message of ours."""


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, omit_defaults=False):
    """Base of every message type. Subclass with `tag="type_name"`; fields have concrete, bounded types, no Any.

    A field with default `msgspec.UNSET` is left out of the core's dict when it was not sent.
    """


class Codec:
    """Encode and decode the dicts with "type" that the core sends. `extensions` add types, or replace one of the core's."""

    def __init__(self, extensions: Sequence[type[Message]] = ()) -> None: ...

    def encode(self, message: dict[str, Any]) -> bytes:
        """Raises WireError for a type or field that is not in the list."""
        ...

    def decode(self, payload: bytes | memoryview) -> dict[str, Any]:
        """Raises WireError."""
        ...
