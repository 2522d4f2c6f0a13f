"""Define what a member states about itself and its log's origin in a hello, and compare two such
statements.

Pure. It never refuses a peer because something is unknown, only if the two statements cannot be of
one cluster.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

import msgspec

DIGEST_BYTES: Final = 16
ADDRESS_BYTES_MAX: Final = 256


class Origin(msgspec.Struct, frozen=True, array_like=True):
    """The origin of a log. It distinguishes two clusters of the same name.

    `history` is a random id that the first leader drew and that is among the log's first entries;
    empty: none is known to be committed. `first` is the digest of the voters that the cluster began
    with, from the log or, if no history is known, from this member's settings; empty: the member
    makes no claim (it joined later, or its log was begun before origins were recorded).
    """

    history: bytes = b""
    first: bytes = b""


class PeerIdentity(msgspec.Struct, frozen=True, array_like=True):
    """A member's statement about itself in its hello. Fields are only ever appended.

    `incarnation` is drawn at random when the process starts. `address` is where the member says
    that it can be reached; empty: it does not say. `apart`: the connection is only for what need
    not keep its order with others (lanes.py).
    """

    origin: Origin = Origin()
    incarnation: bytes = b""
    address: str = ""
    apart: bool = False


Conflict: TypeAlias = Literal["other_history", "other_members"]

_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(PeerIdentity)


def encode_identity(identity: PeerIdentity) -> bytes:
    """Encode an identity in at most 512 bytes; an address that is too long is left out."""
    if len(identity.address.encode()) > ADDRESS_BYTES_MAX:
        identity = msgspec.structs.replace(identity, address="")
    return _encode(identity)


def decode_identity(facts: bytes) -> PeerIdentity:
    """Decode a peer's identity; return an empty one if it cannot be decoded."""
    try:
        return _decoder.decode(facts) if facts else PeerIdentity()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return PeerIdentity()


def digest_of_voters(voters: Iterable[str]) -> bytes:
    """Return the digest by which members compare their lists of first members. It covers only the
    ids, because addresses change.
    """
    ids = sorted(voters)
    return hashlib.blake2b(msgspec.msgpack.encode(ids), digest_size=DIGEST_BYTES).digest()


def judge_origins(mine: Origin, theirs: Origin) -> Conflict | None:
    """Return why two members cannot be of one cluster; None if they can."""
    if mine.history and theirs.history:
        return "other_history" if mine.history != theirs.history else None
    if mine.first and theirs.first and mine.first != theirs.first:
        return "other_members"
    return None


def never_belonged(mine: Origin, theirs: Origin) -> bool:
    """Say whether this member is the one that was configured wrongly: it knows no history, and the
    peer's cluster began with other members than this member was given.
    """
    return not mine.history and bool(theirs.history) and judge_origins(mine, theirs) is not None
