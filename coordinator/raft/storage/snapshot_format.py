"""Encode a snapshot, and decode and verify one.

Pure: it never touches a file, and never returns a body whose digest it has not checked.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import Final

import msgspec

FORMAT: Final = 1
DIGEST_BYTES: Final = 32

_MAGIC: Final = b"ACORDOSN"
_PREFIX: Final = struct.Struct("<8sHxxII")
"""Magic, format, length of the header, CRC32 of the header. The header, the body, and a BLAKE2b
digest over everything before it follow.
"""


class SnapshotHeader(msgspec.Struct, frozen=True, array_like=True):
    """The header of a snapshot.

    `index` and `term` are those of the last entry that the snapshot contains; `config` is opaque
    data that the owner keeps with it.
    """

    cluster: str
    index: int
    term: int
    config: bytes
    length: int
    """Bytes of the body."""


class Snapshot(msgspec.Struct, frozen=True):
    """A verified snapshot."""

    header: SnapshotHeader
    body: bytes
    id: bytes
    """The digest, which identifies the snapshot in a transfer."""


class NotASnapshotError(ValueError):
    """Bytes that are not a usable snapshot. `code`: snapshot_corrupt, _newer or _foreign."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def encode(header: SnapshotHeader, body: bytes) -> bytes:
    """Return the content of a snapshot's file."""
    return b"".join(pieces_of(header, body))


def decode(content: bytes) -> Snapshot:
    """Verify and decode the content of a snapshot's file. Raises NotASnapshotError."""
    if len(content) < _PREFIX.size + DIGEST_BYTES:
        raise NotASnapshotError("snapshot_corrupt", f"{len(content)} bytes are too few")
    magic, version, length, checksum = _PREFIX.unpack_from(content)
    if magic != _MAGIC:
        raise NotASnapshotError("snapshot_corrupt", "it does not begin as one of ours")
    if version > FORMAT:
        raise NotASnapshotError(
            "snapshot_newer", f"format {version}; this version reads up to {FORMAT}"
        )
    view = memoryview(content)
    digest = content[-DIGEST_BYTES:]
    if hashlib.blake2b(view[:-DIGEST_BYTES], digest_size=DIGEST_BYTES).digest() != digest:
        raise NotASnapshotError("snapshot_corrupt", "its digest is wrong")
    begin = _PREFIX.size + length
    try:
        if zlib.crc32(view[_PREFIX.size : begin]) != checksum:
            raise NotASnapshotError("snapshot_corrupt", "its header's checksum is wrong")
        header = msgspec.msgpack.decode(view[_PREFIX.size : begin], type=SnapshotHeader)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise NotASnapshotError("snapshot_corrupt", f"its header cannot be read ({exc})") from exc
    body = content[begin:-DIGEST_BYTES]
    if len(body) != header.length:
        raise NotASnapshotError(
            "snapshot_corrupt", f"{len(body)} bytes where {header.length} were announced"
        )
    return Snapshot(header, body, digest)


def pieces_of(header: SnapshotHeader, body: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the content of a snapshot's file in three pieces: head, body, digest."""
    packed = msgspec.msgpack.encode(header)
    head = _PREFIX.pack(_MAGIC, FORMAT, len(packed), zlib.crc32(packed)) + packed
    digest = hashlib.blake2b(head, digest_size=DIGEST_BYTES)
    digest.update(body)
    return head, body, digest.digest()
