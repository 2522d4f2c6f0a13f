"""Sign the entries of a shared cache, and accept only entries that this history signed.

Pure. An entry of another cluster, of an earlier namespace of this one, or by somebody who has only
the cache's password is rejected (INV-5). Whether a genuine entry is still the newest is for the
reader to judge.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

import msgspec

from kv.model import Entry
from kv.ports import Space

AS_OF_BYTES: Final = 16
"""The number of hexadecimal digits of `as_of` in front of everything else, where a script in the
cache can compare them.
"""
MAC_BYTES: Final = 16

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Entry).decode


def seal(space: Space, entry: Entry) -> bytes:
    """Return the bytes that the cache stores for an entry."""
    packed = _pack(entry)
    return b"%016x" % entry.as_of + _mac(space, entry.key, packed) + packed


def unseal(space: Space, key: bytes, raw: object) -> Entry | None:
    """Return the entry, or None for anything else that is stored under our key."""
    if not isinstance(raw, bytes) or len(raw) <= AS_OF_BYTES + MAC_BYTES:
        return None
    mac, packed = raw[AS_OF_BYTES : AS_OF_BYTES + MAC_BYTES], raw[AS_OF_BYTES + MAC_BYTES :]
    if not hmac.compare_digest(mac, _mac(space, key, packed)):
        return None
    try:
        entry = _unpack(packed)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None  # signed by us, but encoded by another version
    sound = (
        entry.key == key
        and raw[:AS_OF_BYTES] == b"%016x" % entry.as_of
        and (entry.version is None or entry.version.key == key)
    )
    return entry if sound else None


def _mac(space: Space, key: bytes, packed: bytes) -> bytes:
    """Sign namespace, key and entry. The fixed-width namespace and key length in front make the
    input unambiguous: no two different triples give the same bytes.
    """
    place = b"%016x%08x" % (space.namespace, len(key)) + key
    return hashlib.blake2b(
        place + packed, digest_size=MAC_BYTES, key=space.key, person=b"acordo-cache-1"
    ).digest()
