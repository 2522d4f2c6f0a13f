"""Decide whether a member's file is what its log makes, where both have the same command (R5, R12).

Pure. The file may be ahead of the log: a member applies before its own disk has the entry. So a
restarted member replays its log, and up to the file's newest command the outcomes come from the
file, as long as the two agree.
"""

from __future__ import annotations

import msgspec

from kv.model import Digest, LedgerRow
from kv.ports.member_store import Note


class Replayed(msgspec.Struct, frozen=True, gc=False):
    """A command of the log as the machine has just applied it once more."""

    index: int
    term: int
    first: int
    """The revisions that it gave: `first` … `last`; none if `last` < `first`."""
    last: int
    digest: Digest
    log_time_ms: int

    @property
    def gave(self) -> bool:
        """Whether it gave a revision."""
        return self.last >= self.first


def differs(replayed: Replayed, note: Note, row: LedgerRow | None) -> str:
    """Return how the file differs from the log at this command, for people to read; empty when they
    agree. `note` is the file's newest command, not below this one; `row` is the file's row of it.
    """
    if replayed.term > note.term:
        return f"the log has term {replayed.term} there, and the file's newest is of {note.term}"
    if (row is not None) != replayed.gave:
        return "only one of them has a row there"
    if row is not None and not _is_of(row, replayed):
        return "the rows there are not of the same command"
    if replayed.index == note.index and not _is_note_of(note, replayed):
        return "the newest command of the file is another one"
    return ""


def _is_of(row: LedgerRow, replayed: Replayed) -> bool:
    return (row.term, row.first, row.last, row.digest, row.log_time_ms) == (
        replayed.term,
        replayed.first,
        replayed.last,
        replayed.digest,
        replayed.log_time_ms,
    ) and len(row.body) == row.last - row.first + 1


def _is_note_of(note: Note, replayed: Replayed) -> bool:
    """Return whether the file's newest command is this very one. Logs that share an entry share all
    before it, so this one comparison is enough (R5).
    """
    return (note.term, note.digest) == (replayed.term, replayed.digest)


class DumpEnd(msgspec.Struct, frozen=True, gc=False):
    """What a dump says of the file that goes with it."""

    history: bytes
    index: int
    """Its newest command, that command's term, and the digest of the order after it."""
    term: int
    digest: Digest
    row_index: int
    """The log index of its newest row; 0: it has none."""
    content: Digest
    """The content digest after that row."""


def unusable(dump: DumpEnd, note: Note, row: LedgerRow | None) -> str:
    """Return why a file does not go with the dump of its member, for people to read; empty when it
    does. `row` is the file's row at the dump's `row_index`.
    """
    if note.history and dump.history and note.history != dump.history:
        return "the file is of another history than the dump"
    if note.index < dump.index:
        return f"the file ends at {note.index}, and the dump at {dump.index}"
    if note.index == dump.index and (note.term, note.digest) != (dump.term, dump.digest):
        return "file and dump end at the same index, and not with the same command"
    if dump.row_index and (row is None or row.content != dump.content):
        return "the dump's newest row is not the file's"
    return ""
