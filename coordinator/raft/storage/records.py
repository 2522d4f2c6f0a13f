"""Encode and decode the journal: segment headers, records, and the search behind a damaged record.

Pure: it never touches a file. Every checksum is salted with the segment's identity and the record's
own offset, so a record is valid only at its own place; bytes that merely look like a record (a copy
of one inside a value) are never valid.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from enum import IntEnum
from typing import Final, TypeVar

import msgspec

from coordinator.raft.storage.spans import Spans

FORMAT: Final = 1
RECORD_BYTES_MAX: Final = 64 << 20
"""Bytes of payload in one record. A record with more is bad."""

_SEGMENT_MAGIC: Final = b"ACORDOLG"
_VOTE_MAGIC: Final = b"ACORDOVT"
_PREFIX: Final = struct.Struct("<8sHHI")
"""Magic, format, length of the body, CRC32 over prefix and body without the CRC32 itself."""
_MARKER: Final = b"\xac\x0d"
_RECORD: Final = struct.Struct("<2sBIIQQ")
"""Marker, kind, length of the payload, CRC32 (see `_checksum`), index, term."""
_SUMMED: Final = struct.Struct("<QBQQ")
_NOT_SUMMED: Final = 12
_LENGTH_AT: Final = 10
RECORD_HEAD_BYTES: Final = _RECORD.size


class Kind(IntEnum):
    """The effect of a record on the log that was read before it."""

    ENTRY = 1
    """Append one entry."""
    CUT = 2
    """Drop the entries from `index` on (a conflict)."""
    TRIM = 3
    """Drop the entries below `index` (a snapshot holds them)."""
    CLEAR = 4
    """Drop all entries; the next one may have any index."""
    COMMITTED = 5
    """A hint: everything up to `index` is known to be committed."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One step in the history of the log. Only entries have `term` and `payload`."""

    kind: Kind
    index: int
    term: int = 0
    payload: bytes = b""


class SegmentHeader(msgspec.Struct, frozen=True, array_like=True):
    """The header of a segment.

    `sealed` says that all of the previous segment was durable when this one was begun;
    `previous_bytes` is the length of that segment.
    """

    cluster: str
    member: str
    number: int
    previous_bytes: int
    sealed: bool

    @property
    def salt(self) -> int:
        """The initial value of the checksums of the segment's records.

        It depends only on cluster, member and number, so that records can be recognised even if the
        rest of the header is broken.
        """
        return zlib.crc32(f"{self.cluster}\0{self.member}\0{self.number}".encode())


class StoredVote(msgspec.Struct, frozen=True, array_like=True):
    """A member's term, and the id that it voted for in that term (None: nobody)."""

    cluster: str
    member: str
    term: int
    voted_for: str | None


_Header = TypeVar("_Header", SegmentHeader, StoredVote)


class BadHeaderError(Exception):
    """A header that cannot be used.

    `reason`: "newer" (of a format that this version does not know) or "broken".
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def encode_segment(segment: SegmentHeader) -> bytes:
    """Return the bytes at the beginning of a segment's file."""
    return _with_prefix(_SEGMENT_MAGIC, msgspec.msgpack.encode(segment))


def decode_segment(content: bytes) -> tuple[SegmentHeader, int]:
    """Return the header and the offset at which the records begin. Raises BadHeaderError."""
    body, end = _without_prefix(_SEGMENT_MAGIC, content)
    return _decode(body, SegmentHeader), end


def is_torn_header(content: bytes, segment: SegmentHeader) -> bool:
    """Say whether `content` is an incomplete start of that header, with any `previous_bytes`."""
    known = msgspec.msgpack.encode(msgspec.structs.replace(segment, previous_bytes=0))[:-2]
    magic, version, length = _PREFIX.unpack(content[: _PREFIX.size].ljust(_PREFIX.size, b"\0"))[:3]
    if len(content) < _PREFIX.size:
        return encode_segment(segment)[:_LENGTH_AT].startswith(content[:_LENGTH_AT])
    body = content[_PREFIX.size :]
    fits = len(body) < length <= len(known) + 2 + 8  # previous_bytes takes up to nine bytes
    return (
        (magic, version) == (_SEGMENT_MAGIC, FORMAT)
        and fits
        and (known.startswith(body) or body.startswith(known))
    )


def encode_vote(vote: StoredVote) -> bytes:
    """Return the content of the file that holds term and vote."""
    return _with_prefix(_VOTE_MAGIC, msgspec.msgpack.encode(vote))


def decode_vote(content: bytes) -> StoredVote:
    """Decode the content of the file that holds term and vote. Raises BadHeaderError."""
    body, end = _without_prefix(_VOTE_MAGIC, content)
    if end != len(content):
        raise BadHeaderError("broken", f"{len(content) - end} bytes too many")
    return _decode(body, StoredVote)


def encode_record(salt: int, offset: int, record: Record) -> bytes:
    """Return the bytes of a record that is to be at `offset` of the segment with that salt.

    Raises ValueError if the payload exceeds RECORD_BYTES_MAX.
    """
    size = len(record.payload)
    if size > RECORD_BYTES_MAX:
        raise ValueError(f"a log entry of {size} bytes; at most {RECORD_BYTES_MAX} are allowed")
    head = _RECORD.pack(
        _MARKER, record.kind, size, _checksum(salt, offset, record), record.index, record.term
    )
    return head + record.payload


def read_records(salt: int, content: bytes, offset: int) -> Iterator[tuple[Record, int]]:
    """Yield good records, each with the offset at which it ends; stop at the first bad one."""
    while (found := _record_at(salt, content, offset)) is not None:
        yield found
        offset = found[1]


def record_in(salt: int, content: bytes, begin: int, offset: int) -> tuple[Record, int] | None:
    """Return the record at `offset` of a segment, and where it ends; None if it is not good.
    `content` is a piece of the segment from `begin` on.
    """
    return _record_at(salt, content, offset, begin)


def payload_length(head: bytes) -> int:
    """Return the length of the payload that a record's head announces; the head may be damaged."""
    return min(int(_RECORD.unpack(head)[2]), RECORD_BYTES_MAX)


def find_record(salt: int, content: bytes, offset: int) -> int | None:
    """Return the offset of the first good record at or after `offset`; None if there is none.

    It decides what a bad record means: if a good one follows, the bad one is corruption; otherwise
    it is a torn end. A client may store a value full of record heads, each of which claims to be as
    long as the rest of the file. `Spans` keeps the cost of the checksums proportional to the length
    of the content even then (spans.py).
    """
    spans = Spans(content)
    while (offset := content.find(_MARKER, offset)) >= 0:
        begin = offset + RECORD_HEAD_BYTES
        if begin > len(content):
            return None
        _, kind, length, checksum, index, term = _RECORD.unpack_from(content, offset)
        end = begin + length
        if kind in _KINDS and length <= RECORD_BYTES_MAX and end <= len(content):
            place = zlib.crc32(_SUMMED.pack(offset, kind, index, term), salt)
            if spans.crc32(begin, end, place) == checksum:
                return offset
        offset += 1
    return None


def _record_at(salt: int, content: bytes, offset: int, base: int = 0) -> tuple[Record, int] | None:
    """Return the record at an offset of the segment in which `content` begins at `base`."""
    begin = offset - base + RECORD_HEAD_BYTES
    if begin > len(content):
        return None
    marker, kind, length, checksum, index, term = _RECORD.unpack_from(content, offset - base)
    end = begin + length
    if marker != _MARKER or kind not in _KINDS or length > RECORD_BYTES_MAX or end > len(content):
        return None
    record = Record(_KINDS[kind], index, term, content[begin:end])
    return (record, base + end) if _checksum(salt, offset, record) == checksum else None


_KINDS: Final = {int(kind): kind for kind in Kind}


def _checksum(salt: int, offset: int, record: Record) -> int:
    place = zlib.crc32(_SUMMED.pack(offset, record.kind, record.index, record.term), salt)
    return zlib.crc32(record.payload, place)


def _with_prefix(magic: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(body, zlib.crc32(_PREFIX.pack(magic, FORMAT, len(body), 0)[:_NOT_SUMMED]))
    return _PREFIX.pack(magic, FORMAT, len(body), checksum) + body


def _without_prefix(magic: bytes, content: bytes) -> tuple[bytes, int]:
    if len(content) < _PREFIX.size:
        raise BadHeaderError("broken", "the header is cut short")
    found, version, length, checksum = _PREFIX.unpack_from(content)
    end = _PREFIX.size + length
    body = content[_PREFIX.size : end]
    if found != magic:
        raise BadHeaderError("broken", "it does not begin as one of ours")
    # The version is checked before the checksum: a newer format may use a different checksum, and
    # would then be reported as damaged instead of newer.
    if version > FORMAT:
        raise BadHeaderError("newer", f"format {version}; this version reads up to {FORMAT}")
    if len(body) < length or zlib.crc32(body, zlib.crc32(content[:_NOT_SUMMED])) != checksum:
        raise BadHeaderError("broken", "the header's checksum is wrong")
    return body, end


def _decode(body: bytes, kind: type[_Header]) -> _Header:
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise BadHeaderError("broken", f"the header cannot be read ({exc})") from exc
