"""Read a journal back after any death: replay its records, tell a torn end from damage, refuse what
is not ours.

It changes nothing but a torn end, which it cuts, and what was never durable by its policy, which it
sets aside.
"""

from __future__ import annotations

import os
from typing import Final, TypeAlias

import structlog

from coordinator.raft.storage.disk import Disk, File, write_whole_now
from coordinator.raft.storage.records import (
    BadHeaderError,
    Kind,
    Record,
    Segment,
    Vote,
    decode_segment,
    decode_vote,
    encode_segment,
    encode_vote,
    find_record,
    is_torn_header,
    read_records,
)
from kv.errors import BadRequest

Entry: TypeAlias = tuple[bytes, int, int]
"""(command, index, term): the library's order."""

_DIGITS: Final = 10
_log = structlog.get_logger("acordo.raft.journal")


class Part:
    """One segment as it is kept."""

    def __init__(self, header: Segment, name: str) -> None:
        self.header, self.name = header, name
        self.file: File | None = None
        self.end = 0
        """Bytes that it has once everything given to it is written."""
        self.last = 0
        """Highest live index in it; 0: none."""
        self.dirty = False
        """Written but not synced (policies interval and off)."""

    def shut(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


class Held:
    """The live log: what replaying every record so far has left. Entries have consecutive
    indexes.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.parts: list[Part] = []
        self.committed = 1

    @property
    def last_index(self) -> int:
        return self.entries[-1][1] if self.entries else 0

    def append(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.parts[-1].last = entry[1]

    def cut(self, index: int) -> None:
        if self.entries:
            del self.entries[max(0, index - self.entries[0][1]) :]
        for part in self.parts:
            part.last = min(part.last, index - 1)
        self.committed = max(1, min(self.committed, index - 1))

    def trim(self, index: int) -> None:
        if self.entries:
            del self.entries[: max(0, index - self.entries[0][1])]

    def clear(self) -> None:
        self.entries.clear()
        for part in self.parts:
            part.last = 0
        self.committed = 1

    def retire(self) -> list[Part]:
        """Take out, and return, the oldest segments that have no live entry. The newest always
        stays.
        """
        first = self.entries[0][1] if self.entries else self.parts[-1].last + 1
        count = 0
        while count < len(self.parts) - 1 and self.parts[count].last < first:
            count += 1
        retired = self.parts[:count]
        del self.parts[:count]
        return retired


class Journaled:
    """Where a journal is and whose: `cluster` and `member` stand in every file. `sync` is false for
    policy off.
    """

    def __init__(self, disk: Disk, name: str, cluster: str, member: str, *, sync: bool) -> None:
        self.disk, self.name, self.cluster, self.member, self.sync = (
            disk,
            name,
            cluster,
            member,
            sync,
        )

    def segment_name(self, number: int) -> str:
        return f"{self.name}.{number:0{_DIGITS}}"

    @property
    def vote_name(self) -> str:
        return f"{self.name}.vote"

    def path(self, name: str) -> str:
        return os.path.join(self.disk.directory, name)

    def segment(self, number: int, previous_bytes: int, *, sealed: bool) -> Segment:
        return Segment(self.cluster, self.member, number, previous_bytes, sealed)

    def store_vote(self, term: int, voted_for: str | None) -> None:
        """Blocks. Raises OSError. Synced whatever the policy: elections are rare, and a torn vote
        keeps a node down.
        """
        vote = Vote(self.cluster, self.member, term, voted_for)
        write_whole_now(self.disk, self.vote_name, encode_vote(vote), sync=True)


def recover(journal: Journaled) -> tuple[Held, int, str | None]:
    """Return the live log, the term and the vote. Raises BadRequest naming the file, and OSError.

    With `sync`, everything returned is on the disk. Term and vote are whatever the policy: they are
    answered by, and a process that was killed between a rename and the directory's sync leaves a
    name that a power cut takes back. A journal that has no segments yet comes back with no parts.
    """
    spare = journal.vote_name + ".new"
    if journal.disk.exists(spare):
        journal.disk.remove_now(spare)
    numbers = _numbers(journal)
    vote = _read_vote(journal, fresh=not numbers)
    held = Held()
    for position, number in enumerate(numbers):
        if number != numbers[0] + position:
            raise _corrupt(
                journal, journal.segment_name(numbers[0] + position), "the file is missing"
            )
        if not _replay_segment(journal, held, number, newest=number == numbers[-1]):
            break
    held.committed = max(1, min(held.committed, held.last_index))
    journal.disk.sync_directory_now()
    return held, vote.term, vote.voted_for


def _numbers(journal: Journaled) -> list[int]:
    prefix = journal.name + "."
    tails = (name.removeprefix(prefix) for name in journal.disk.names() if name.startswith(prefix))
    return sorted(int(tail) for tail in tails if len(tail) == _DIGITS and tail.isdecimal())


def _read_vote(journal: Journaled, *, fresh: bool) -> Vote:
    name = journal.vote_name
    if not journal.disk.exists(name):
        # Made before the first segment, so a log without it has lost which vote was given in its
        # term.
        if not fresh:
            raise _corrupt(journal, name, "the file is missing, and with it which vote was given")
        journal.store_vote(0, None)
    try:
        vote = decode_vote(journal.disk.load_now(name))
    except BadHeaderError as exc:
        raise _refused(journal, name, exc) from exc
    _check_identity(journal, name, vote)
    return vote


def _replay_segment(journal: Journaled, held: Held, number: int, *, newest: bool) -> bool:
    """Replay one segment; False: it, and what follows, never was durable and is out of the way."""
    name = journal.segment_name(number)
    content = journal.disk.load_now(name, sync=journal.sync)
    previous_bytes = held.parts[-1].end if held.parts else 0
    try:
        header, offset = decode_segment(content)
    except BadHeaderError as exc:
        # Header and first records are one write: a piece of the header alone means that nothing in
        # it was acknowledged.
        made = [journal.segment(number, previous_bytes, sealed=sealed) for sealed in (True, False)]
        torn = any(encode_segment(segment).startswith(content) for segment in made)
        if exc.reason == "broken" and held.parts and not held.parts[-1].header.sealed:
            # The one before was never promised either: it may be shorter than it was when this one
            # was begun.
            torn = torn or is_torn_header(content, made[0])
        if newest and torn:
            journal.disk.remove_now(name)
            if held.parts:
                # the newest now: what is written next follows its last good record
                _truncate(journal, held.parts[-1])
            return False
        raise _refused(journal, name, exc) from exc
    _check_identity(journal, name, header)
    if header.number != number:
        raise _corrupt(journal, name, f"it says that it is segment {header.number}")
    if held.parts and header.previous_bytes != previous_bytes:
        _set_aside(journal, held.parts[-1], header)
        return False
    part = Part(header, name)
    held.parts.append(part)
    for record, end in read_records(header.salt, content, offset):
        _replay(journal, held, record, f"{name}, byte {offset}")
        offset = end
    part.end = offset
    if offset < len(content):
        good = find_record(header.salt, content, offset + 1)
        if good is not None:
            raise _corrupt(
                journal, name, f"the record at byte {offset} is damaged, one at byte {good} is good"
            )
        if newest:
            _log.warning(
                "torn_end_cut", file=journal.path(name), at=offset, bytes=len(content) - offset
            )
            _truncate(journal, part)
    return True


def _replay(journal: Journaled, held: Held, record: Record, place: str) -> None:
    match record.kind:
        case Kind.ENTRY:
            if held.entries and record.index != held.last_index + 1:
                raise _corrupt(
                    journal, place, f"entry {record.index} does not follow {held.last_index}"
                )
            held.append((record.payload, record.index, record.term))
        case Kind.CUT:
            held.cut(record.index)
        case Kind.TRIM:
            held.trim(record.index)
        case Kind.CLEAR:
            held.clear()
        case Kind.COMMITTED:
            held.committed = record.index


def _set_aside(journal: Journaled, before: Part, header: Segment) -> None:
    """Deal with a segment whose predecessor is not what it was: damage if it was durable, else a
    power cut.
    """
    if header.sealed:
        detail = f"it ends well at byte {before.end}, and {header.previous_bytes} bytes of it were durable"
        raise _corrupt(journal, before.name, detail)
    for number in _numbers(journal):
        if number >= header.number:
            name = journal.segment_name(number)
            _log.error(
                "segment_set_aside",
                file=journal.path(name),
                why="the one before it was never synced",
            )
            journal.disk.rename_now(name, name + ".unsynced")
    _truncate(journal, before)


def _truncate(journal: Journaled, part: Part) -> None:
    file = journal.disk.open(part.name)
    try:
        if file.size > part.end:
            file.truncate_now(part.end)
            if journal.sync:
                file.sync_now()
    finally:
        file.close()


def _check_identity(journal: Journaled, name: str, found: Segment | Vote) -> None:
    if (found.cluster, found.member) != (journal.cluster, journal.member):
        raise BadRequest(
            "journal_foreign",
            f"{journal.path(name)} belongs to member {found.member!r} of cluster {found.cluster!r}",
            allowed=f"member {journal.member!r} of cluster {journal.cluster!r}",
        )


def _refused(journal: Journaled, name: str, exc: BadHeaderError) -> BadRequest:
    if exc.reason == "newer":
        return BadRequest("journal_newer", f"{journal.path(name)}: {exc.detail}")
    return _corrupt(journal, name, exc.detail)


def _corrupt(journal: Journaled, name: str, detail: str) -> BadRequest:
    return BadRequest(
        "journal_corrupt",
        f"{journal.path(name)}: {detail}; it was left as it is",
        allowed="put the file back, or remove this member and add a new one with an empty directory",
    )
