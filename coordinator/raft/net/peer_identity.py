"""Say with a hello who a member is and what its log began from, and compare what a peer says.

Pure. It never refuses for what is unknown: only for two answers that cannot both be of one cluster.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

import msgspec

DIGEST_BYTES: Final = 16
ADDRESS_BYTES_MAX: Final = 256


class Origin(msgspec.Struct, frozen=True, array_like=True):
    """What a log began from: two clusters of one name are told apart by it.

    `history`: drawn by the first leader and carried by the log from its first entries on; empty:
    none is known to be committed. `first`: the digest of the voters that the cluster began with, as
    the log says it, or as this member's settings list them if it knows no history; empty: it makes
    no claim (it joined later, or its log is older than origins are).
    """

    history: bytes = b""
    first: bytes = b""


class PeerIdentity(msgspec.Struct, frozen=True, array_like=True):
    """What a member says of itself with its hello. Fields are only ever appended.

    `incarnation`: drawn at the start of the process. `address`: where it says it is reached; empty:
    it does not say.
    """

    origin: Origin = Origin()
    incarnation: bytes = b""
    address: str = ""


Conflict: TypeAlias = Literal["other_history", "other_members"]

_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(PeerIdentity)


def encode_identity(identity: PeerIdentity) -> bytes:
    """Return it in at most 512 bytes: an address that is too long is left out."""
    if len(identity.address.encode()) > ADDRESS_BYTES_MAX:
        identity = msgspec.structs.replace(identity, address="")
    return _encode(identity)


def decode_identity(facts: bytes) -> PeerIdentity:
    """Return what a peer says; what cannot be read says nothing."""
    try:
        return _decoder.decode(facts) if facts else PeerIdentity()
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return PeerIdentity()


def digest_of_voters(voters: Iterable[str]) -> bytes:
    """Return what two members compare of their first lists: the ids alone, for members move."""
    ids = sorted(voters)
    return hashlib.blake2b(msgspec.msgpack.encode(ids), digest_size=DIGEST_BYTES).digest()


def judge_origins(mine: Origin, theirs: Origin) -> Conflict | None:
    """Say why two members cannot be of one cluster; None: nothing speaks against it."""
    if mine.history and theirs.history:
        return "other_history" if mine.history != theirs.history else None
    if mine.first and theirs.first and mine.first != theirs.first:
        return "other_members"
    return None


def never_belonged(mine: Origin, theirs: Origin) -> bool:
    """Say whether it is this member that is wrong.

    It has no history, and met a peer of a cluster that began with other members than it was given.
    """
    return not mine.history and bool(theirs.history) and judge_origins(mine, theirs) is not None
