"""Define what a mirror keeps in the target: how far it is, and of which source. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from acordo._errors import AcordoError, BadRequest

VERSION: Final = 1
SYSTEM_PREFIX: Final = b"acordo/"
"""Keys of the system begin so; they are each cluster's own."""
STATE_PREFIX: Final = b"acordo-mirror/"
"""By default the position is kept under this and the mirrored prefix."""
KEY_BYTES_MAX: Final = 1024


class MirrorPoint(msgspec.Struct, frozen=True, kw_only=True):
    """How far a mirror is. The target holds everything up to `position`, unless it is `copying`."""

    version: int
    prefix: str
    """In hexadecimal."""
    mirror: str
    """Names one run, so that another can say who took its place."""
    writes: int = 0
    """Counts them, so that no two contents of the key are the same."""
    cluster_id: str = ""
    history: str = ""
    """Names the source's history; empty where that has no name."""
    position: str = ""
    """The source's position as a node gave it: a revision, and the term that gave it."""
    revision: int = 0
    copying: bool = True
    """Whether a listing is being copied: then the target holds a part of it."""
    part_revision: int = 0
    """A revision that takes several transactions, and is not whole yet; 0: none."""
    part_key: str = ""
    """In hexadecimal: the last of its keys that is in."""


class Excluded(AcordoError):
    """Another mirror writes to the same target with the same position key."""

    advice = "let only one run; the other one goes on where this one was"


class Foreign(BadRequest):
    """The target holds keys under the prefix that are not the mirror's."""


def state_key_of(prefix: bytes, given: bytes | None) -> bytes:
    """Return the key of the target that holds the position. Raises BadRequest if it cannot be
    kept there.
    """
    if prefix.startswith(SYSTEM_PREFIX):
        raise BadRequest(
            "keys of the system are never mirrored", code="reserved_key", allowed="another --prefix"
        )
    key = STATE_PREFIX + prefix if given is None else given
    if len(key) > KEY_BYTES_MAX or not key:
        raise BadRequest(
            "no name for the position of so long a prefix" if key else "--state is empty",
            code="bad_state_key",
            allowed="--state with a key of 1 to 1024 bytes",
        )
    if key.startswith(SYSTEM_PREFIX) or (prefix and key.startswith(prefix)):
        raise BadRequest(
            "the position would be kept among the keys of the system or those mirrored",
            code="bad_state_key",
            allowed="--state with another key, outside the prefix",
        )
    return key


def read_point(content: bytes, prefix: bytes) -> MirrorPoint:
    """Return the point in the content of the position key. Raises BadRequest if it is none, or of
    another prefix.
    """
    try:
        point = msgspec.json.decode(content, type=MirrorPoint)
        theirs = bytes.fromhex(point.prefix)
        bytes.fromhex(point.part_key)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise BadRequest(
            f"the position key of the target holds no position of a mirror: {exc}",
            code="bad_state",
            allowed="--state with another key, or delete this one to begin anew",
        ) from exc
    if point.version != VERSION:
        raise BadRequest(
            f"the position in the target has version {point.version}, not {VERSION}",
            code="bad_state",
            allowed="the version of Acordo that wrote it, or a newer one",
        )
    if theirs != prefix:
        raise BadRequest(
            f"the position in the target is of the prefix {theirs!r}, not of {prefix!r}",
            code="state_of_another",
            allowed="the same --prefix, or another --state",
        )
    return point
