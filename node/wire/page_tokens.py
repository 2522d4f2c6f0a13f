"""Encode and decode the token of a listing's next page. Pure.

A token holds the revision that all pages show, the term of the row that gave it, and the last key
of its page. It is bound to the
query: with another prefix it is refused. It is opaque to clients but not secret, because whoever
may list may read every key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

import msgspec

from kv.errors import BadRequest
from kv.model import KEY_BYTES_MAX, REVISION_MAX
from node.wire.kept_positions import TERM_MAX

FORM: Final = 1
TOKEN_CHARS_MAX: Final = 2048


class PagePosition(msgspec.Struct, frozen=True, array_like=True):
    """The position at which a page ends."""

    revision: int
    after: bytes
    form: int = FORM
    term: int = 0
    """Of the row that gave the revision (R12); 0: not known, and then it is not encoded."""


_decode = msgspec.msgpack.Decoder(tuple[PagePosition, bytes]).decode


def token_of(place: PagePosition, prefix: bytes, *, keys_only: bool) -> str:
    """Return the token of the page after a position."""
    raw = msgspec.msgpack.encode((_encoded(place), _bound(place, prefix, keys_only)))
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def place_of(token: str, prefix: bytes, *, keys_only: bool) -> PagePosition:
    """Return the position at which a token's page begins. Raises BadRequest("bad_token")."""
    bad = BadRequest(
        "bad_token", "the token is none of this listing", allowed="`continue` of the page before"
    )
    if not 1 <= len(token) <= TOKEN_CHARS_MAX:
        raise bad
    try:
        place, bound = _decode(
            base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        )
    except (binascii.Error, ValueError, msgspec.MsgspecError, RecursionError) as exc:
        raise bad from exc
    sound = (
        place.form == FORM
        and 0 <= place.revision <= REVISION_MAX
        and 0 < len(place.after) <= KEY_BYTES_MAX
        and 0 <= place.term <= TERM_MAX
    )
    if not sound or bound != _bound(place, prefix, keys_only):
        raise bad
    return place


def _encoded(place: PagePosition) -> tuple[int | bytes, ...]:
    bare = (place.revision, place.after, place.form)
    return (*bare, place.term) if place.term else bare


def _bound(place: PagePosition, prefix: bytes, keys_only: bool) -> bytes:
    return hashlib.blake2b(
        msgspec.msgpack.encode((_encoded(place), prefix, keys_only)), digest_size=12
    ).digest()
