"""Encode and decode the file format of backups: a header, records in chunks, a trailer.

Pure. A decoder returns nothing of a chunk whose digest it has not checked, and never takes a file
for whole that does not end with its trailer.

A file is PREFIX (magic and format), then chunks. A chunk is its head (kind, number, length of the
payload), the payload, and 32 bytes of BLAKE2b over both, keyed by the digest of the chunk before
(of the first: by that of the prefix). So a chunk that is altered, left out, repeated or put
elsewhere breaks the chain at once, and the last digest is one of the whole file.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from kv.errors import BadRequest
from kv.model import LedgerRow, RecordedOperation, Version

WHOLE: Final = 1
"""The format of a file that holds everything."""
INCREMENTAL: Final = 2
"""The format of a file that goes on from another one: no version that knows only whole ones takes
it for one.
"""
FORMAT: Final = INCREMENTAL
"""The newest format that this version reads."""
MAGIC: Final = b"ACORDOBK"
_PREFIX: Final = struct.Struct(">8sH6x")
_HEAD: Final = struct.Struct(">cxxxII")
"""Kind, number of the chunk from 0, bytes of the payload."""
DIGEST_BYTES: Final = 32
PAYLOAD_BYTES: Final = 256 * 1024
"""A chunk of records is closed once its payload has this many bytes."""
PAYLOAD_BYTES_MAX: Final = 256 * 1024 * 1024
"""A longer one is refused: a row of the ledger names every key that it deleted."""

ChunkKind: TypeAlias = Literal[b"H", b"R", b"E", b"T"]
"""Header, records, an early end with its reason, trailer."""


class BackupHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup is of. Encoded by name; fields are only ever added, with defaults."""

    format: int = WHOLE
    acordo: str
    """The version of the program that wrote it."""
    kind: Literal["shared", "replicated"]
    cluster_id: str
    history: str
    """The hex id of the history."""
    revision: int
    """Everything up to this revision is in it, and nothing behind it."""
    term: int
    """Of the row that ends there."""
    seq: int
    digest: bytes
    """Of the order up to the revision."""
    content: bytes = b""
    """The content digest after that row, where each member has its own store."""
    log_time_ms: int
    made_ms: int
    """By the wall clock of the node that wrote it, for people."""
    node: str
    level: int = 0
    """The feature level in force (R14)."""
    limits: Mapping[str, int] = {}
    """The limits in force, by name."""
    since: int = 0
    """Of an incremental one: it holds what changed after this revision, and nothing before."""
    since_seq: int = 0
    since_digest: bytes = b""
    """Seq of the row that ends there, and the digest of the order up to it."""


class RowRecord(msgspec.Struct, frozen=True, array_like=True, tag="l", gc=False):
    """A row of the ledger."""

    row: LedgerRow


class VersionRecord(msgspec.Struct, frozen=True, array_like=True, tag="v", gc=False):
    """A version, its value inline; those of a row follow it."""

    version: Version


class GoneRecord(msgspec.Struct, frozen=True, array_like=True, tag="g", gc=False):
    """A change that a row names and whose version was pruned: a newer one superseded it, or it was
    a delete.
    """

    key: bytes
    revision: int


class BaseRecord(msgspec.Struct, frozen=True, array_like=True, tag="b", gc=False):
    """The versions that follow are those present at this revision, key by key, up to the next one
    of these records: what came before about a key and is not newer does not count any more.
    """

    revision: int


class OperationRecord(msgspec.Struct, frozen=True, array_like=True, tag="o", gc=False):
    """What is recorded of an op_id."""

    operation: RecordedOperation


BackupRecord: TypeAlias = RowRecord | VersionRecord | GoneRecord | BaseRecord | OperationRecord


class BackupTrailer(msgspec.Struct, frozen=True, kw_only=True):
    """What a whole backup holds. Encoded by name; fields are only ever added, with defaults."""

    floor: int
    """The oldest revision as of which it can be restored."""
    rows: int = 0
    versions: int = 0
    gone: int = 0
    operations: int = 0
    keys: int = 0
    """Keys present at its revision."""
    leases: int = 0
    """Leases among them."""
    value_bytes: int = 0


class EarlyEnd(msgspec.Struct, frozen=True):
    """Why a backup ended before it was whole."""

    code: str
    detail: str


class Chunk(NamedTuple):
    """A chunk whose digest is right."""

    kind: bytes
    payload: bytes


_pack = msgspec.msgpack.Encoder().encode
_records = msgspec.msgpack.Decoder(list[BackupRecord]).decode
_header = msgspec.msgpack.Decoder(BackupHeader).decode
_trailer = msgspec.msgpack.Decoder(BackupTrailer).decode
_early_end = msgspec.msgpack.Decoder(EarlyEnd).decode


class BackupEncoder:
    """Makes the bytes of one backup, chunk after chunk."""

    def __init__(self, format: int = WHOLE) -> None:
        self._number, self._begin = 0, begin(format)
        self._digest = _first_digest(self._begin)
        self._pending: list[bytes] = []
        self._size = 0

    def header(self, header: BackupHeader) -> bytes:
        """Return the beginning of the file."""
        return self._begin + self._chunk(b"H", _pack(header))

    def add(self, record: BackupRecord) -> bytes:
        """Take a record; return a chunk if one is full, else nothing. Raises BadRequest for a
        record that no chunk may hold.
        """
        packed = _pack(record)
        if len(packed) > PAYLOAD_BYTES_MAX - PAYLOAD_BYTES - 5:
            raise BadRequest("backup_record_too_large", f"a record of {len(packed)} bytes")
        self._pending.append(packed)
        self._size += len(packed)
        return self.flush() if self._size >= PAYLOAD_BYTES else b""

    def flush(self) -> bytes:
        """Return the records that wait, as a chunk; nothing if none do."""
        if not self._pending:
            return b""
        # an array of 32 bits of length, and its items as they were packed
        payload = b"\xdd" + len(self._pending).to_bytes(4) + b"".join(self._pending)
        self._pending, self._size = [], 0
        return self._chunk(b"R", payload)

    def trailer(self, trailer: BackupTrailer) -> bytes:
        """Return the end of a whole file."""
        return self.flush() + self._chunk(b"T", _pack(trailer))

    def early_end(self, end: EarlyEnd) -> bytes:
        """Return the end of a file that is not whole."""
        self._pending, self._size = [], 0
        return self._chunk(b"E", _pack(end))

    def _chunk(self, kind: bytes, payload: bytes) -> bytes:
        head = _HEAD.pack(kind, self._number, len(payload))
        self._digest = _digest(self._digest, head, payload)
        self._number += 1
        return head + payload + self._digest


class BackupDecoder:
    """Checks and decodes the bytes of one backup, in pieces of any size.

    `feed` raises BadRequest with `backup_foreign` (no backup), `backup_newer`, `backup_altered` or
    `backup_unfinished` (it ended early, and says why); `end` raises `backup_truncated`.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._number = self._format = 0
        self._digest = b""
        self.header: BackupHeader | None = None
        self.trailer: BackupTrailer | None = None

    @property
    def digest(self) -> bytes:
        """The digest of everything that was checked; in the end that of the file."""
        return self._digest

    def feed(self, piece: bytes) -> Iterator[BackupRecord]:
        """Yield the records that became whole with a piece. Raises BadRequest."""
        self._buffer += piece
        if not self._digest and len(self._buffer) >= _PREFIX.size:
            self._begin()
        while self._digest and (chunk := self._take()) is not None:
            yield from self._decoded(chunk)

    def end(self) -> BackupTrailer:
        """Return the trailer of a file that is whole. Raises BadRequest."""
        if not self._digest:
            raise _not_a_backup()
        if self.trailer is None or self._buffer:
            raise BadRequest(
                "backup_truncated",
                f"the backup ends after {self._number} chunks, without its trailer",
                allowed="the whole file, as `acordo backup` wrote it",
            )
        return self.trailer

    def _begin(self) -> None:
        magic, format = _PREFIX.unpack_from(self._buffer)
        if magic != MAGIC:
            raise _not_a_backup()
        if format > FORMAT:
            raise BadRequest(
                "backup_newer",
                f"the backup has format {format}",
                allowed=f"up to {FORMAT}: use the version of Acordo that wrote it, or a newer one",
            )
        prefix = bytes(self._buffer[: _PREFIX.size])
        if format < WHOLE or prefix != begin(format):
            raise _altered(0, "its beginning is not what was written")
        self._format, self._digest = format, _first_digest(prefix)
        del self._buffer[: _PREFIX.size]

    def _take(self) -> Chunk | None:
        """Return the next chunk once all of it is here."""
        buffer = self._buffer
        if len(buffer) < _HEAD.size:
            return None
        kind, number, length = _HEAD.unpack_from(buffer)
        if number != self._number or length > PAYLOAD_BYTES_MAX or kind not in b"HRET":
            raise _altered(self._number, "what stands there is no chunk, or another one")
        if self.trailer is not None:
            raise _altered(self._number, "something follows the trailer")
        whole = _HEAD.size + length + DIGEST_BYTES
        if len(buffer) < whole:
            return None
        head, payload = (
            bytes(buffer[: _HEAD.size]),
            bytes(buffer[_HEAD.size : whole - DIGEST_BYTES]),
        )
        digest = _digest(self._digest, head, payload)
        if digest != buffer[whole - DIGEST_BYTES : whole]:
            raise _altered(number, "its digest is wrong")
        del buffer[:whole]
        self._number, self._digest = number + 1, digest
        return Chunk(kind, payload)

    def _decoded(self, chunk: Chunk) -> Iterable[BackupRecord]:
        number = self._number - 1
        if (chunk.kind == b"H") != (number == 0):
            raise _altered(number, "the header is not where it belongs")
        try:
            if chunk.kind == b"R":
                return _records(chunk.payload)
            if chunk.kind == b"H":
                self.header = _header(chunk.payload)
                if self.header.format != self._format:
                    raise _altered(number, "it is of another format than the file")
            elif chunk.kind == b"T":
                self.trailer = _trailer(chunk.payload)
            else:
                end = _early_end(chunk.payload)
                raise BadRequest(
                    "backup_unfinished",
                    f"the backup ended early: {end.detail} ({end.code})",
                    allowed="a whole one: take it again",
                )
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise _altered(number, f"it cannot be read ({exc})") from exc
        return ()


def begin(format: int = WHOLE) -> bytes:
    """Return the first bytes of every backup of a format."""
    return _PREFIX.pack(MAGIC, format)


def _first_digest(prefix: bytes) -> bytes:
    return hashlib.blake2b(prefix, digest_size=DIGEST_BYTES).digest()


def _digest(before: bytes, head: bytes, payload: bytes) -> bytes:
    digest = hashlib.blake2b(head, digest_size=DIGEST_BYTES, key=before)
    digest.update(payload)
    return digest.digest()


def _not_a_backup() -> BadRequest:
    return BadRequest(
        "backup_foreign", "this is no backup of Acordo", allowed="a file that `acordo backup` wrote"
    )


def _altered(number: int, why: str) -> BadRequest:
    return BadRequest(
        "backup_altered",
        f"chunk {number} of the backup is not what was written: {why}",
        allowed="the file as `acordo backup` wrote it, from another copy",
    )
