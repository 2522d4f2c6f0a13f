"""Read a backup, and find out what was present as of one revision of it.

It holds one chunk in memory; what may be needed later waits in a file without a name. Nothing is
given before the whole backup has been checked.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Self

import msgspec

from kv.backup import (
    BackupDecoder,
    BackupHeader,
    BackupRecord,
    BackupTrailer,
    BaseRecord,
    GoneRecord,
    OperationRecord,
    VersionRecord,
)
from kv.errors import BadRequest
from kv.model import RecordedOperation, Version

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
        self._base = -1
        """The first revision of which the backup says what was present."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._database.close()

    def read(self, source: BinaryIO, at: int | None) -> Digested:
        """Read the whole backup. Raises BadRequest for one that is not whole and unaltered, and
        for a revision that is not in it, OSError.
        """
        decoder = BackupDecoder()
        self._database.execute("BEGIN")
        while piece := source.read(PIECE_BYTES):
            for record in decoder.feed(piece):
                self._take(record, decoder.header, at)
        trailer, header = decoder.end(), decoder.header
        assert header is not None
        revision = header.revision if at is None else at
        if not trailer.floor <= revision <= header.revision:
            raise BadRequest(
                "revision_not_in_backup",
                f"the backup does not say what was there at revision {revision}",
                allowed=f"{trailer.floor} to {header.revision}",
            )
        self._database.execute(_FORGET, (self._base,))
        self._database.execute("COMMIT")
        return Digested(header, trailer, decoder.digest, revision)

    def _take(self, record: BackupRecord, header: BackupHeader | None, at: int | None) -> None:
        assert header is not None  # it is the first chunk
        last = header.revision if at is None else at
        match record:
            case VersionRecord(version=version) if version.revision <= last:
                self._found(version.key, version.revision, version)
            case GoneRecord(key=key, revision=revision) if revision <= last:
                self._found(key, revision, None)
            case BaseRecord(revision=revision) if self._base < 0:
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
            (key, revision, self._base >= 0, present, packed),
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
