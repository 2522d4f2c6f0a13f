"""Compute the digest of what the log made: of ledger rows with their outcomes and versions.

Pure. Every member of a replicated store computes it for itself, so that members can be compared
row by row without their files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import msgspec

from kv.model import Digest, LedgerRow, Reference, Version, value_hash

_PRINCIPAL: Final = ""
"""Who made a version: not used yet, and covered, so that using it needs no other digest."""

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


def hash_of(version: Version) -> bytes:
    """Return the value hash of a version; empty for a tombstone."""
    value = version.value
    if value is None:
        return b""
    return value.hash if isinstance(value, Reference) else value_hash(value)


def content_digest(
    before: Digest, row: LedgerRow, versions: Sequence[Version], hashes: Sequence[bytes]
) -> Digest:
    """Return the content digest after one more row. `hashes` are the value hashes of `versions`, in
    the same order.

    It covers the row with its outcomes, and everything of every version, its value by its hash.
    """
    said = (
        (row.index, row.term, row.first, row.last, row.digest, row.log_time_ms, row.body),
        [
            (
                version.key,
                version.revision,
                hash,
                version.expires_ms,
                _PRINCIPAL,
                version.lease,
                version.create_revision,
                version.version,
            )
            for version, hash in zip(versions, hashes, strict=True)
        ],
    )
    return hashlib.blake2b(_encode(said), digest_size=32, key=before).digest()
