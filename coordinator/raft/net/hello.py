"""Encode and decode the hello, the first message of a handshake, and derive keys and proofs from
the hellos of both ends.

Pure. It refuses an invalid hello as soon as its first bytes show that it is one, and never decides
who may connect.
"""

from __future__ import annotations

import hashlib
import struct
from enum import IntEnum
from typing import Final, NamedTuple

VERSION_MIN: Final = 2
VERSION_MAX: Final = 2
"""The range of protocol versions that this version speaks. Two members use the highest version that
both speak.
"""
NONCE_BYTES: Final = 32
MAC_BYTES: Final = 32
NAME_BYTES_MAX: Final = 128
"""Bytes of a cluster's or a member's id."""
FACTS_BYTES_MAX: Final = 512
SECRET_BYTES_MIN: Final = 16

_MAGIC: Final = b"ACRF"
_HELLO: Final = struct.Struct("!4sBBBBHB32s")
"""Magic, highest version, mode, lengths of the cluster's id, the member's id and the facts, lowest
version, nonce. Both ids and the facts follow.
"""
HANDSHAKE_BYTES_MAX: Final = _HELLO.size + 2 * NAME_BYTES_MAX + FACTS_BYTES_MAX + MAC_BYTES
"""Bytes that we hold at most of a peer that has not proved anything."""


class _Head(NamedTuple):
    """The fixed-size part of a hello, in the layout of `_HELLO`."""

    magic: bytes
    highest: int
    mode: int
    cluster_bytes: int
    member_bytes: int
    facts_bytes: int
    lowest: int
    nonce: bytes


class Mode(IntEnum):
    """The way in which peers prove their identity. Both ends must use the same."""

    OPEN = 0
    SECRET = 1
    CERTIFICATE = 2


class FrameError(Exception):
    """The end of a session because of what the peer sent. `reason` is the name of its counter."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason


class Hello(NamedTuple):
    """The decoded content of a hello."""

    cluster: bytes
    member: bytes
    nonce: bytes
    facts: bytes
    version: int
    """The highest version that both ends speak."""


class Keys(NamedTuple):
    """The proofs and keys that both ends derive from the secret and the two hellos."""

    dialer_proof: bytes
    listener_proof: bytes
    to_listener: bytes
    to_dialer: bytes
    """The last two fields are the MAC keys for the frames of one direction each."""


def key_of_secret(secret: bytes) -> bytes:
    """Return the key from which proofs and session keys are derived.

    Raises ValueError for a secret that is shorter than SECRET_BYTES_MIN.
    """
    if len(secret) < SECRET_BYTES_MIN:
        raise ValueError(f"a secret of {len(secret)} bytes; at least {SECRET_BYTES_MIN} are needed")
    return hashlib.blake2b(secret, digest_size=64, person=b"acordo raft key").digest()


def derive_keys(key: bytes, transcript: bytes) -> Keys:
    """Return the proofs and keys of one connection. `transcript` is the dialer's hello followed by
    the listener's.
    """

    def keyed(person: bytes) -> bytes:
        return hashlib.blake2b(transcript, digest_size=MAC_BYTES, key=key, person=person).digest()

    return Keys(
        keyed(b"dialer's proof"),
        keyed(b"listener's proof"),
        to_listener=keyed(b"dialer's key"),
        to_dialer=keyed(b"listener's key"),
    )


def encode_hello(mode: Mode, cluster: str, member: str, nonce: bytes, facts: bytes) -> bytes:
    """Return the bytes of a hello. Raises ValueError for ids or facts that are too long."""
    names = cluster.encode(), member.encode()
    if any(len(name) > NAME_BYTES_MAX for name in names) or not names[1]:
        raise ValueError(f"ids of a cluster and a member have at most {NAME_BYTES_MAX} bytes")
    if len(facts) > FACTS_BYTES_MAX:
        raise ValueError(f"facts of {len(facts)} bytes; at most {FACTS_BYTES_MAX} are allowed")
    lengths = len(names[0]), len(names[1]), len(facts)
    head = _HELLO.pack(_MAGIC, VERSION_MAX, mode, *lengths, VERSION_MIN, nonce)
    return head + b"".join(names) + facts


def hello_bytes(begun: memoryview, mode: Mode) -> int | None:
    """Return the length of the hello that begins there; None: too few bytes have arrived to tell.

    Raises FrameError as soon as the bytes cannot be the beginning of an acceptable hello.
    """
    magic = bytes(begun[: len(_MAGIC)])
    if magic != _MAGIC[: len(magic)]:
        raise FrameError("not_ours")
    if len(begun) < _HELLO.size:
        return None
    head = _Head(*_HELLO.unpack_from(begun))
    if head.lowest > VERSION_MAX or head.highest < VERSION_MIN:
        spoken = f"it speaks versions {head.lowest} to {head.highest}"
        raise FrameError("version", f"{spoken}, this member {VERSION_MIN} to {VERSION_MAX}")
    if head.mode != mode:
        theirs = f"it proves itself by mode {head.mode}"
        raise FrameError("mode", f"{theirs}, this member by {mode.name}")
    if head.cluster_bytes > NAME_BYTES_MAX or not 0 < head.member_bytes <= NAME_BYTES_MAX:
        raise FrameError("not_ours")
    if head.facts_bytes > FACTS_BYTES_MAX:
        raise FrameError("not_ours")
    return _HELLO.size + head.cluster_bytes + head.member_bytes + head.facts_bytes


def decode_hello(hello: bytes) -> Hello:
    """Decode a complete hello, which `hello_bytes` must have accepted."""
    head = _Head(*_HELLO.unpack_from(hello))
    names = hello[_HELLO.size :]
    member_end = head.cluster_bytes + head.member_bytes
    return Hello(
        cluster=names[: head.cluster_bytes],
        member=names[head.cluster_bytes : member_end],
        nonce=head.nonce,
        facts=names[member_end:],
        version=min(head.highest, VERSION_MAX),
    )
