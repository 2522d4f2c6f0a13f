"""Begin the new history that a restored cluster is: its ids, its first row, its machine's state.

Pure: the same backup with the same incarnation gives the same history on every member.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from coordinator.machine import founding
from coordinator.machine.book import LEVEL, LEVEL_MIN, Book
from coordinator.machine.commands import Found, encode
from coordinator.machine.limits import DEFAULTS, Limits
from coordinator.machine.pending import Mark
from coordinator.machine.snapshot import MachineState
from kv.content import content_digest
from kv.errors import BadRequest
from kv.model import LedgerRow
from kv.ports import Note, UndoneRange
from node.startup.restoring.state import Digested

REVISIONS: Final = 2**32
"""By so much the revision jumps: above anything that the old cluster may have told."""
TERMS: Final = 2**20
"""The same of the term: positions of the old cluster are none of the new one's."""
REVISION_MAX: Final = 2**48
"""Beyond it no backup is restored: a member's file orders revisions up to 2^49."""
INDEX: Final = 2
"""The log index at which the new log begins: a log that was begun has 1."""


class NewHistory(NamedTuple):
    """What every member of the restored cluster begins with."""

    founded: Found
    row: LedgerRow
    """The only row of its ledger: it ends at the revision from which the cluster goes on."""
    note: Note
    state: MachineState


def begun(backup: Digested, incarnation: bytes, members: bytes, *, replicated: bool) -> NewHistory:
    """Return the history that a backup begins. `incarnation` is what makes it another one than
    that of any other restore; `members` is the digest of the first member list. Raises
    BadRequest.
    """
    header, at = backup.header, backup.revision
    if header.level > LEVEL:
        raise BadRequest(
            "backup_newer",
            f"the backup is of a cluster of feature level {header.level}",
            allowed=f"up to {LEVEL}: use the version that wrote it, or a newer one",
        )
    if at + REVISIONS > REVISION_MAX:
        raise BadRequest(
            "no_revisions_left", f"revision {at} cannot be raised by 2^32", allowed="acordo dump"
        )
    seed = _digest(b"history", incarnation, backup.digest, b"%d" % at)
    level = max(header.level, LEVEL_MIN) if replicated else 0
    found = founding.found(_Drawn(seed), _limits(header.limits), members, level=level)
    digest = _digest(b"order", seed)
    row = LedgerRow(
        header.seq + 1,
        header.term + TERMS,
        "" if replicated else "restore",
        at + 1,
        at + REVISIONS,
        digest,
        header.log_time_ms,
        (),
        INDEX if replicated else 0,
    )
    book = Book()
    if replicated:
        # the digest of what was restored is in that of the founding, so members compare it too
        book.begin(encode(found) + seed)
        row = msgspec.structs.replace(row, content=content_digest(book.content, row, (), ()))
        book.pass_to(INDEX, row.term)
        book.enter(row)
        book.terms = ((1, row.term),)
        book.level, book.floor = level, row.last
    note = Note(found.history, INDEX, row.term, digest)
    state = MachineState(
        revision=row.last,
        digest=digest,
        settled=Mark(row.last, digest),
        log_time_ms=header.log_time_ms,
        namespace=found.namespace,
        floor=row.last,
        pending=[],
        window_old=(),
        window_young=(),
        last=None,
        founded=found,
        limits=found.limits,
        undone=UndoneRange(at, row.last),
        book=book if replicated else None,
    )
    return NewHistory(found, row, note, state)


class _Drawn:
    """Random bytes for the founding, out of the seed of one restore."""

    def __init__(self, seed: bytes) -> None:
        self._seed, self._count = seed, 0

    def __call__(self, size: int) -> bytes:
        self._count += 1
        return _digest(b"drawn", self._seed, b"%d" % self._count)[:size]


def _digest(person: bytes, *parts: bytes) -> bytes:
    return hashlib.blake2b(msgspec.msgpack.encode(parts), digest_size=32, person=person).digest()


def _limits(said: Mapping[str, int]) -> Limits:
    """Return the limits of the backup, as far as this version knows them."""
    known = {
        name: value
        for name, value in said.items()
        if name in Limits.__struct_fields__ and name != "level"
    }
    return msgspec.structs.replace(DEFAULTS, **known)
