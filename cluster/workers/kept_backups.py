"""Decide which backups are kept, and when the next one is due. Pure: it does no I/O.

A backup is known by its note, a file beside it that is written once the backup was read back and
verified. What has no note, or is not what its note says, is never removed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

SUFFIX: Final = ".backup"
NOTE: Final = ".json"
NAME: Final = re.compile(r"acordo-[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}\.backup")


class BackupNote(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a backup that was verified after it was written."""

    name: str
    size: int
    digest: str
    """Hexadecimal; the file ends with it."""
    revision: int
    made_ms: int
    """When it was begun, by the clock of the worker."""
    cluster_id: str
    history: str


def name_of(stamp: str, chance: str) -> str:
    """Return the name of a backup that begins at a time (`20261130T184500Z`)."""
    return f"acordo-{stamp}-{chance}{SUFFIX}"


def note_of(raw: bytes, name: str) -> BackupNote | None:
    """Decode the note that stands under a name; None: it is none of ours."""
    try:
        note = msgspec.json.decode(raw, type=BackupNote)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return note if NAME.fullmatch(note.name) and note.name + NOTE == name else None


def good(notes: Iterable[BackupNote], sizes: Mapping[str, int], history: str) -> list[BackupNote]:
    """Return the notes of this history whose backups are there in their size, the newest first: by
    their revisions, because a worker whose clock was ahead once would have the newest for ever.
    """
    mine = [note for note in notes if note.history == history and sizes.get(note.name) == note.size]
    return sorted(mine, key=lambda note: (note.revision, note.made_ms), reverse=True)


def superfluous(found: Sequence[BackupNote], keep: int) -> Sequence[BackupNote]:
    """Return the notes of the backups that may go; the newest `keep`, at least one, stay."""
    return found[max(keep, 1) :]


def due_in_s(found: Sequence[BackupNote], now_ms: int, every_s: float) -> float:
    """Return in how many seconds the next backup is due; 0: now.

    A clock that was set back makes a backup come early, never late by more than an interval. One
    that was made at a time that is still to come says nothing: else a backup would be due at each
    look until then, and those of many intervals would go for those of minutes.
    """
    ages_s = [(now_ms - note.made_ms) / 1000 for note in found if note.made_ms <= now_ms]
    return max(0.0, every_s - min(ages_s)) if ages_s else 0.0
