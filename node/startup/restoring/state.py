"""Read a backup, and those that go on from it, and find out what was present as of a revision.

It holds one chunk in memory; what may be needed later waits in a file without a name. Nothing is
given before the whole backup has been checked.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Self

import msgspec

from kv.backup import (
    DIGEST_BYTES,
    INCREMENTAL,
    BackupDecoder,
    BackupHeader,
    BackupRecord,
    BackupTrailer,
    BaseRecord,
    GoneRecord,
    OperationRecord,
    RowRecord,
    VersionRecord,
)
from kv.errors import BadRequest
from kv.model import LedgerRow, RecordedOperation, Version

PIECE_BYTES: Final = 1024 * 1024
_TABLES: Final = (
    "CREATE TABLE found (key BLOB, revision INTEGER, base INTEGER, present INTEGER, packed BLOB)",
    "CREATE UNIQUE INDEX found_key ON found (key, revision, base)",
    "CREATE TABLE recorded (revision INTEGER PRIMARY KEY, packed BLOB)",
)
_FORGET: Final = "DELETE FROM found WHERE base = 0 AND revision <= ?"
_PRESENT: Final = """FROM found AS f WHERE present = 1 AND rowid = (
        SELECT rowid FROM found WHERE key = f.key ORDER BY revision DESC, base DESC LIMIT 1)"""
_CHOSEN: Final = f"SELECT packed {_PRESENT} ORDER BY revision, key"
_COUNTED: Final = f"SELECT count(*) {_PRESENT}"

_pack = msgspec.msgpack.Encoder().encode
_version = msgspec.msgpack.Decoder(Version).decode
_operation = msgspec.msgpack.Decoder(RecordedOperation).decode


class Digested(NamedTuple):
    """A whole backup, and which revision of it is restored."""

    header: BackupHeader
    trailer: BackupTrailer
    digest: bytes
    """Of the whole file."""
    revision: int


class StateAt:
    """What a backup says was present at a revision, and which op_ids were recorded by then."""

    def __init__(self, directory: Path) -> None:
        """Keep what has to wait in a file in this directory, which has room for it."""
        handle, name = tempfile.mkstemp(prefix="restoring-", dir=directory)
        os.close(handle)
        self._database = sqlite3.connect(name, isolation_level=None)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE"):
            self._database.execute(f"PRAGMA {pragma}")
        for statement in _TABLES:
            self._database.execute(statement)
        os.unlink(name)  # gone with the process
        self._read: list[Digested] = []
        """The backups that were read, each of which goes on from the one before."""
        self._in_base = False
        self._ends: int | None = None
        """The revision up to which a log time that was asked for reaches; None: to the end."""
        self._row: LedgerRow | None = None
        """The row that was read last, while a log time is looked for."""
        self._first_ms: int | None = None
        """The earliest log time that is known, if the one that was asked for lies before it."""
        self._base = -1
        """The first revision of which the backup says what was present."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._database.close()

    def read(self, source: BinaryIO, at: int | None, at_ms: int | None = None) -> None:
        """Read a backup up to a revision, or up to a log time, and check all of it. Raises
        BadRequest for one that is cut or altered, or that does not go on from the one before,
        OSError.
        """
        decoder = BackupDecoder()
        self._in_base, checked = False, False
        self._database.execute("BEGIN")
        while piece := source.read(PIECE_BYTES):
            for record in decoder.feed(piece):
                if not checked and decoder.header is not None:
                    self._check_goes_on(decoder.header)
                    checked = True
                if at_ms is not None and isinstance(record, RowRecord):
                    self._pass(record.row, at_ms)
                self._take(record, decoder.header, at if self._ends is None else self._ends)
        trailer, header = decoder.end(), decoder.header
        assert header is not None
        self._check_goes_on(header)
        self._database.execute(_FORGET, (self._base,))
        self._database.execute("COMMIT")
        self._read.append(Digested(header, trailer, decoder.digest, header.revision))

    def _pass(self, row: LedgerRow, at_ms: int) -> None:
        """Find where a log time is: before the first row that is later. Rows come in order, each
        before what it made. If the one before it was pruned, nobody knows when that was.
        """
        if self._ends is not None:
            return
        if row.log_time_ms > at_ms:
            self._ends = row.first - 1
            if row.first > 1 and (self._row is None or self._row.last != self._ends):
                self._first_ms = row.log_time_ms
        self._row = row

    def _check_goes_on(self, header: BackupHeader) -> None:
        """Raise BadRequest unless a backup is whole and the first one, or goes on exactly where the
        one before it ends.
        """
        if not self._read:
            if header.format == INCREMENTAL:
                raise BadRequest(
                    "backup_incremental",
                    f"the backup holds only what changed after revision {header.since}",
                    allowed="a whole one first, then those that go on from it, in their order",
                )
            return
        before = self._read[-1].header
        if header.history != before.history:
            raise BadRequest(
                "backup_of_another_cluster",
                f"a backup of history {header.history} does not go on from one of history "
                f"{before.history}",
                allowed="backups of one cluster, since it was founded or restored",
            )
        goes_on = (header.since, header.since_digest) == (before.revision, before.digest)
        if header.format != INCREMENTAL or not goes_on:
            what = f"goes on from revision {header.since}"
            raise BadRequest(
                "backup_gap",
                f"the backup before it ends at revision {before.revision}, and this one "
                f"{what if header.format == INCREMENTAL else 'is a whole one'}",
                allowed=f"the one that was taken `--since` that backup, of revision "
                f"{before.revision}",
            )

    def digested(self, at: int | None, at_ms: int | None = None) -> Digested:
        """Return what was read, as of a revision or a log time. Raises BadRequest for one that is
        not in it.
        """
        last = self._read[-1]
        if at_ms is not None:
            if at_ms > last.header.log_time_ms:
                raise BadRequest(
                    "time_not_in_backup",
                    f"the backup ends at {_time(last.header.log_time_ms)}, before {_time(at_ms)}",
                    allowed="an earlier time, or a later backup",
                )
            if self._first_ms is not None:
                raise BadRequest(
                    "time_not_in_backup",
                    f"the backup does not say what was there at {_time(at_ms)}: what was ordered "
                    f"before {_time(self._first_ms)} was pruned",
                    allowed=f"a time from {_time(self._first_ms)} on, or an earlier backup",
                )
            at = self._ends
        revision = last.header.revision if at is None else at
        spans = [(each.trailer.floor, each.header.revision) for each in self._read]
        if not any(low <= revision <= high for low, high in spans):
            raise BadRequest(
                "revision_not_in_backup",
                f"the backup does not say what was there at revision {revision}",
                allowed=", ".join(f"{low} to {high}" for low, high in spans),
            )
        digest = last.digest
        if len(self._read) > 1:
            digest = hashlib.blake2b(
                b"".join(each.digest for each in self._read), digest_size=DIGEST_BYTES
            ).digest()
        return last._replace(digest=digest, revision=revision)

    def _take(self, record: BackupRecord, header: BackupHeader | None, at: int | None) -> None:
        assert header is not None  # it is the first chunk
        last = header.revision if at is None else at
        match record:
            case VersionRecord(version=version) if version.revision <= last:
                self._found(version.key, version.revision, version)
            case GoneRecord(key=key, revision=revision) if revision <= last:
                self._found(key, revision, None)
            case BaseRecord(revision=revision):
                self._in_base = True
                if self._base < 0:
                    self._base = revision
            case OperationRecord(operation=operation) if operation.revision <= last:
                self._database.execute(
                    "INSERT INTO recorded VALUES (?, ?)", (operation.revision, _pack(operation))
                )
            case _:
                pass

    def _found(self, key: bytes, revision: int, version: Version | None) -> None:
        present = version is not None and version.present
        packed = _pack(version) if present else b""
        self._database.execute(
            "INSERT INTO found VALUES (?, ?, ?, ?, ?)",
            (key, revision, self._in_base, present, packed),
        )

    @property
    def keys(self) -> int:
        """How many keys were present."""
        return int(self._database.execute(_COUNTED).fetchone()[0])

    def versions(self) -> Iterator[Version]:
        """Yield the present versions in the order of their revisions, those of one by key."""
        for (packed,) in self._database.execute(_CHOSEN):
            yield _version(packed)

    def operations(self) -> Iterator[RecordedOperation]:
        """Yield what was recorded of op_ids, in the order of their revisions."""
        for (packed,) in self._database.execute("SELECT packed FROM recorded ORDER BY revision"):
            yield _operation(packed)


def _time(log_time_ms: int) -> str:
    return datetime.fromtimestamp(log_time_ms / 1000, UTC).isoformat(timespec="milliseconds")
