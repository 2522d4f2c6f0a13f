"""Check the bytes of a backup: its chunks, its records, the order that its rows claim, its totals.

Pure, and written apart from what writes backups: a flaw of one is none of the other. It never says
that a file is whole before its trailer has come.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from acordo._errors import BadRequest

WHOLE, INCREMENTAL = 1, 2
"""The formats that are read."""
MAGIC: Final = b"ACORDOBK"
_PREFIX: Final = struct.Struct(">8sH6x")
_HEAD: Final = struct.Struct(">cxxxII")
_DIGEST_BYTES: Final = 32
_PAYLOAD_BYTES_MAX: Final = 256 * 1024 * 1024
_NEWER: Final = "the version of Acordo that wrote it, or a newer one"
_WHOLE: Final = "the whole file, as `acordo backup` wrote it"

_encode: Final = msgspec.msgpack.Encoder(order="deterministic").encode


class BackupSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup says of itself, checked. `header` and `totals` are as they were written."""

    cluster_id: str
    kind: str
    revision: int
    floor: int
    """The oldest revision as of which it can be restored."""
    keys: int
    versions: int
    rows: int
    operations: int
    leases: int
    value_bytes: int
    bytes: int
    digest: str
    """Of the whole file."""
    made_ms: int
    node: str
    acordo: str
    history: str
    order: str
    """The digest of the order up to its revision, from which an incremental one goes on."""
    since: int | None = None
    """Of an incremental one: the revision that it goes on from; None: it is a whole one."""
    since_order: str = ""


class _Header(msgspec.Struct):
    format: int
    acordo: str
    kind: str
    cluster_id: str
    history: str
    revision: int
    seq: int
    digest: bytes
    made_ms: int
    node: str
    since: int = 0
    since_seq: int = 0
    since_digest: bytes = b""


class _Totals(msgspec.Struct):
    floor: int
    rows: int
    versions: int
    gone: int
    operations: int
    keys: int
    leases: int
    value_bytes: int


class BackupCheck:
    """Takes a backup piece by piece; raises BadRequest with `backup_foreign`, `backup_newer`,
    `backup_altered`, `backup_unfinished` or `backup_truncated` as soon as it is none.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._number = self.size = self._format = 0
        self._digest = b""
        self._header: _Header | None = None
        self._totals: _Totals | None = None
        self._counts = {"rows": 0, "versions": 0, "gone": 0, "operations": 0, "value_bytes": 0}
        self._row: tuple[int, int, bytes] | None = None
        """seq, last and digest of the newest row."""
        self._places: set[tuple[bytes, int]] = set()
        """What that row names and what did not come yet."""

    def feed(self, piece: bytes) -> None:
        """Check what became whole with a piece. Raises BadRequest."""
        self.size += len(piece)
        self._buffer += piece
        if not self._digest and len(self._buffer) >= _PREFIX.size:
            self._begin()
        while self._digest and (found := self._take()) is not None:
            try:
                self._enter(*found)
            except (
                msgspec.MsgspecError,
                ValueError,
                TypeError,
                IndexError,
                LookupError,
                RecursionError,
            ) as exc:
                raise self._altered(f"it cannot be read ({exc})") from exc

    def end(self) -> BackupSummary:
        """Return what a whole backup holds. Raises BadRequest."""
        if not self._digest:
            raise _foreign()
        header, totals = self._header, self._totals
        if header is None or totals is None or self._buffer:
            raise BadRequest(
                f"the backup ends after {self._number} chunks, without its trailer",
                code="backup_truncated",
                allowed=_WHOLE,
            )
        return BackupSummary(
            cluster_id=header.cluster_id,
            kind=header.kind,
            revision=header.revision,
            floor=totals.floor,
            keys=totals.keys,
            versions=totals.versions,
            rows=totals.rows,
            operations=totals.operations,
            leases=totals.leases,
            value_bytes=totals.value_bytes,
            bytes=self.size,
            digest=self._digest.hex(),
            made_ms=header.made_ms,
            node=header.node,
            acordo=header.acordo,
            history=header.history,
            order=header.digest.hex(),
            since=header.since if header.format == INCREMENTAL else None,
            since_order=header.since_digest.hex(),
        )

    # ----------------------------------------------------------------------------------- its chunks

    def _begin(self) -> None:
        magic, format = _PREFIX.unpack_from(self._buffer)
        if magic != MAGIC:
            raise _foreign()
        if format > INCREMENTAL:
            raise BadRequest(
                f"the backup has format {format}, and this version reads up to {INCREMENTAL}",
                code="backup_newer",
                allowed=_NEWER,
            )
        prefix = bytes(self._buffer[: _PREFIX.size])
        if prefix != _PREFIX.pack(magic, format) or format < 1:
            raise self._altered("its beginning is not what was written")
        del self._buffer[: _PREFIX.size]
        self._format = format
        self._digest = hashlib.blake2b(prefix, digest_size=_DIGEST_BYTES).digest()

    def _take(self) -> tuple[bytes, bytes] | None:
        """Return the kind and the payload of the next chunk once all of it is here."""
        buffer = self._buffer
        if len(buffer) < _HEAD.size:
            return None
        kind, number, length = _HEAD.unpack_from(buffer)
        if number != self._number or length > _PAYLOAD_BYTES_MAX or self._totals is not None:
            raise self._altered("what stands there is no chunk, or another one")
        end = _HEAD.size + length
        if len(buffer) < end + _DIGEST_BYTES:
            return None
        digest = hashlib.blake2b(buffer[:end], digest_size=_DIGEST_BYTES, key=self._digest).digest()
        if digest != buffer[end : end + _DIGEST_BYTES]:
            raise self._altered("its digest is wrong")
        payload = bytes(buffer[_HEAD.size : end])
        del buffer[: end + _DIGEST_BYTES]
        self._number, self._digest = number + 1, digest
        return kind, payload

    def _enter(self, kind: bytes, payload: bytes) -> None:
        if (kind == b"H") != (self._header is None):
            raise ValueError("the header is not where it belongs")
        match kind:
            case b"H":
                self._header = header = msgspec.msgpack.decode(payload, type=_Header)
                if header.format != self._format:
                    raise ValueError("it is of another format than the file")
                if header.format == INCREMENTAL:  # its first row follows from there
                    self._row = header.since_seq, header.since, header.since_digest
            case b"R":
                for record in _items(payload):
                    self._count(*record)
            case b"T":
                self._close(msgspec.msgpack.decode(payload, type=_Totals))
            case b"E":
                end = msgspec.msgpack.decode(payload, type=dict[str, str])
                raise BadRequest(
                    f"the backup ended early: {end['detail']} ({end['code']})",
                    code="backup_unfinished",
                    allowed="a whole one: take it again",
                )
            case _:
                raise ValueError("a chunk of an unknown kind")

    # ---------------------------------------------------------------------------------- its records

    def _count(self, tag: str, *fields: Any) -> None:
        counts = self._counts
        match tag:
            case "l":
                counts["rows"] += 1
                self._follow(fields[0])
            case "v":
                key, revision, value = fields[0][:3]
                counts["versions"] += 1
                counts["value_bytes"] += len(value or b"")
                self._places.discard((key, revision))
            case "g":
                counts["gone"] += 1
                self._places.discard((fields[0], fields[1]))
            case "b":
                if self._places or fields[0] > self._revision or self._format == INCREMENTAL:
                    raise ValueError("what was present is not where it belongs")
            case "o":
                counts["operations"] += 1
                if fields[0][2] > self._revision:
                    raise ValueError("an op_id behind the backup's revision")
            case _:
                raise ValueError(f"a record of an unknown kind {tag!r}")

    @property
    def _revision(self) -> int:
        assert self._header is not None
        return self._header.revision

    def _follow(self, row: list[Any]) -> None:
        """Check a row against the one before it: its order, and the digest of it."""
        seq, _, _, first, last, digest, _, body = row[:8]
        if self._places:
            raise ValueError(f"row {seq - 1} names changes that are missing")
        if last > self._revision or (body and last - first + 1 != len(body)):
            raise ValueError(f"row {seq} is not of this order")
        before = self._row
        gap = 1 if self._format == INCREMENTAL else seq
        if before is not None and not before[0] < seq <= before[0] + gap:
            raise ValueError(f"row {seq} follows row {before[0]}")
        if before is not None and seq == before[0] + 1:
            rolled = before[2]
            for op_id, body_hash, *_ in body:
                rolled = hashlib.blake2b(
                    _encode((op_id, body_hash)), digest_size=32, key=rolled
                ).digest()
            if first != before[1] + 1 or rolled != digest:
                raise ValueError(f"row {seq} does not follow from row {before[0]}")
        self._row = seq, last, digest
        self._places = {
            (key, first + place) for place, record in enumerate(body) for key in record[3]
        }

    def _close(self, totals: _Totals) -> None:
        header, row = self._header, self._row
        assert header is not None
        if self._places:
            raise ValueError("its newest row names changes that are missing")
        counted = self._counts
        said = {name: getattr(totals, name) for name in counted}
        if said != counted:
            raise ValueError(f"it says {said}, and holds {counted}")
        if row is not None and row != (header.seq, header.revision, header.digest):
            raise ValueError("its newest row is not the one that its header names")
        self._totals = totals

    def _altered(self, why: str) -> BadRequest:
        return BadRequest(
            f"chunk {self._number} of the backup is not what was written: {why}",
            code="backup_altered",
            allowed="the file as `acordo backup` wrote it, from another copy",
        )


def _items(payload: bytes) -> Iterator[list[Any]]:
    yield from msgspec.msgpack.decode(payload, type=list[list[Any]])


def _foreign() -> BadRequest:
    return BadRequest(
        "this is no backup of Acordo",
        code="backup_foreign",
        allowed="a file that `acordo backup` wrote",
    )
