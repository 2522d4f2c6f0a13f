"""Convert keys and values to JSON and back. Pure.

Bytes are a string when they are UTF-8, otherwise `{"base64": "…"}`. Both forms are accepted
everywhere.
"""

from __future__ import annotations

import base64
import binascii
from typing import TypeAlias

from msgspec import Struct

from kv.errors import BadRequest
from kv.model import (
    KEY_BYTES_MAX,
    VALUE_BYTES_MAX,
)


class Base64(Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes that are not UTF-8."""

    base64: str


Bytes: TypeAlias = str | Base64
"""A key or value: a string when it is UTF-8, otherwise `{"base64": "…"}`."""


def bytes_from(form: Bytes, what: str) -> bytes:
    """Return the bytes of a JSON form. Raises BadRequest."""
    if isinstance(form, str):
        try:
            return form.encode()
        except UnicodeEncodeError as exc:
            raise BadRequest(
                "not_utf8", f"the {what} is not valid Unicode", allowed='UTF-8 or {"base64": …}'
            ) from exc
    try:
        return base64.b64decode(form.base64, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise BadRequest(
            "bad_base64", f"the {what} is not base64", allowed="RFC 4648 section 4, padded"
        ) from exc


def json_form(raw: bytes) -> str | dict[str, str]:
    """Return the JSON form of bytes."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}


def checked_key(raw: bytes) -> bytes:
    """Return the key after checking its length. Raises BadRequest."""
    if not raw:
        raise BadRequest("key_empty", "the key is empty", allowed=f"1 to {KEY_BYTES_MAX} bytes")
    if len(raw) > KEY_BYTES_MAX:
        raise BadRequest(
            "key_too_long", f"the key has {len(raw)} bytes", allowed=f"1 to {KEY_BYTES_MAX} bytes"
        )
    return raw


def checked_prefix(raw: bytes) -> bytes:
    """Return the prefix after checking its length; an empty prefix matches every key. Raises
    BadRequest.
    """
    if len(raw) > KEY_BYTES_MAX:
        raise BadRequest(
            "key_too_long",
            f"the prefix has {len(raw)} bytes",
            allowed=f"0 to {KEY_BYTES_MAX} bytes",
        )
    return raw


def checked_value(raw: bytes) -> bytes:
    """Return the value after checking its length. Raises BadRequest."""
    if len(raw) > VALUE_BYTES_MAX:
        raise BadRequest(
            "value_too_large",
            f"the value has {len(raw)} bytes",
            allowed=f"0 to {VALUE_BYTES_MAX} bytes",
        )
    return raw


def key_from(form: Bytes) -> bytes:
    """Return the key in a JSON form. Raises BadRequest."""
    return checked_key(bytes_from(form, "key"))
