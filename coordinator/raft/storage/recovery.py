"""Read a journal back after any crash: replay its records, tell a torn end from damage, and refuse
files that are not ours.

It leaves the log as it is, except that it cuts a torn end, and removes or sets aside segments that
were never durable.
"""

from __future__ import annotations

from typing import Final

import structlog

from coordinator.raft.storage.records import (
    BadHeaderError,
    Kind,
    Record,
    SegmentHeader,
    StoredVote,
    decode_segment,
    decode_vote,
    encode_segment,
    find_record,
    is_torn_header,
    read_records,
)
from coordinator.raft.storage.segments import JournalFiles, LiveLog, Segment
from kv.errors import BadRequest

MENDED_BY: Final = (
    "put the file back, or remove this member and add a new one with an empty directory"
)
"""The advice to the operator for a file that the start refuses."""

_log = structlog.get_logger("acordo.raft.journal")


def recover(journal: JournalFiles, memory_bytes_max: int) -> tuple[LiveLog, int, str | None]:
    """Return the live log, the term and the vote. Raises BadRequest naming the file, and OSError.

    With `sync`, everything returned is on the disk. Term and vote are so under every policy,
    because this member answers others by them: a process that was killed between a rename and the
    directory's sync leaves a name that a power cut would undo. The log of a new journal has no
    segments.
    """
    spare = journal.vote_name + ".new"
    if journal.disk.exists(spare):
        journal.disk.remove_now(spare)
    numbers = journal.numbers()
    vote = _read_vote(journal, fresh=not numbers)
    live = LiveLog(journal.disk)
    for position, number in enumerate(numbers):
        if number != numbers[0] + position:
            raise _corrupt(
                journal, journal.segment_name(numbers[0] + position), "the file is missing"
            )
        if not _replay_segment(journal, live, number, newest=number == numbers[-1]):
            break
        live.entries.forget(number, memory_bytes_max)
    live.committed = max(1, min(live.committed, live.last_index))
    journal.disk.sync_directory_now()
    return live, vote.term, vote.voted_for


def _read_vote(journal: JournalFiles, *, fresh: bool) -> StoredVote:
    name = journal.vote_name
    if not journal.disk.exists(name):
        # The vote file is created before the first segment. A log without it has therefore lost
        # the vote that was given in its term, and the member might vote twice.
        if not fresh:
            raise _corrupt(journal, name, "the file is missing, and with it which vote was given")
        journal.store_vote(0, None)
    try:
        vote = decode_vote(journal.disk.load_now(name))
    except BadHeaderError as exc:
        raise _refused(journal, name, exc) from exc
    _check_identity(journal, name, vote)
    return vote


def _replay_segment(journal: JournalFiles, live: LiveLog, number: int, *, newest: bool) -> bool:
    """Replay one segment. Return False if it was never durable; it and all later segments have then
    been removed or set aside.
    """
    name = journal.segment_name(number)
    content = journal.disk.load_now(name, sync=journal.sync)
    previous_bytes = live.segments[-1].end if live.segments else 0
    try:
        header, offset = decode_segment(content)
    except BadHeaderError as exc:
        if newest and _was_never_begun(journal, live, number, content, exc):
            journal.disk.remove_now(name)
            if live.segments:
                # The previous segment is now the newest: new records follow its last good one.
                _truncate(journal, live.segments[-1])
            return False
        raise _refused(journal, name, exc) from exc
    _check_identity(journal, name, header)
    if header.number != number:
        raise _corrupt(journal, name, f"it says that it is segment {header.number}")
    if live.segments and header.previous_bytes != previous_bytes:
        _set_aside(journal, live.segments[-1], header)
        return False
    segment = Segment(header, name)
    live.segments.append(segment)
    for record, end in read_records(header.salt, content, offset):
        _replay(journal, live, record, offset)
        offset = end
    segment.end = offset
    if offset < len(content):
        _judge_end(journal, segment, content, newest=newest)
    return True


def _was_never_begun(
    journal: JournalFiles, live: LiveLog, number: int, content: bytes, exc: BadHeaderError
) -> bool:
    """Say whether a file without a good header is a segment whose header was only partly written.

    Header and first records are one write, so nothing in such a segment was acknowledged.
    """
    before = live.segments[-1] if live.segments else None
    previous_bytes = before.end if before is not None else 0
    made = [journal.header(number, previous_bytes, sealed=sealed) for sealed in (True, False)]
    if any(encode_segment(header).startswith(content) for header in made):
        return True
    # The previous segment may never have been promised to be durable either. If a power cut took
    # its end, `previous_bytes` in this header is larger than the previous segment is now.
    unpromised = before is not None and not before.header.sealed
    return exc.reason == "broken" and unpromised and is_torn_header(content, made[0])


def _judge_end(journal: JournalFiles, segment: Segment, content: bytes, *, newest: bool) -> None:
    """Cut what follows the last good record if a torn write explains it; else raise BadRequest."""
    good = find_record(segment.header.salt, content, segment.end + 1)
    if good is not None:
        detail = f"the record at byte {segment.end} is damaged, one at byte {good} is good"
        raise _corrupt(journal, segment.name, detail)
    if newest:
        _log.warning(
            "torn_end_cut",
            file=journal.path(segment.name),
            at=segment.end,
            bytes=len(content) - segment.end,
        )
        _truncate(journal, segment)


def _replay(journal: JournalFiles, live: LiveLog, record: Record, offset: int) -> None:
    match record.kind:
        case Kind.ENTRY:
            if live.entries and record.index != live.last_index + 1:
                place = f"{live.segments[-1].name}, byte {offset}"
                raise _corrupt(
                    journal, place, f"entry {record.index} does not follow {live.last_index}"
                )
            live.append((record.payload, record.index, record.term), offset)
        case Kind.CUT:
            live.cut(record.index)
        case Kind.TRIM:
            live.trim(record.index)
        case Kind.CLEAR:
            live.clear()
        case Kind.COMMITTED:
            live.committed = record.index


def _set_aside(journal: JournalFiles, before: Segment, header: SegmentHeader) -> None:
    """Handle a segment whose predecessor is shorter than this segment's header says it was.

    If the predecessor was durable, it is damaged: this raises BadRequest. Otherwise a power cut
    took bytes that were never synced, so this segment and all later ones follow a gap; they are
    renamed out of the way.
    """
    if header.sealed:
        were = header.previous_bytes
        detail = f"it ends well at byte {before.end}, and {were} bytes of it were durable"
        raise _corrupt(journal, before.name, detail)
    for number in journal.numbers():
        if number >= header.number:
            name = journal.segment_name(number)
            _log.error(
                "segment_set_aside",
                file=journal.path(name),
                why="the one before it was never synced",
            )
            journal.disk.rename_now(name, name + ".unsynced")
    _truncate(journal, before)


def _truncate(journal: JournalFiles, segment: Segment) -> None:
    file = journal.disk.open(segment.name)
    try:
        if file.size > segment.end:
            file.truncate_now(segment.end)
            if journal.sync:
                file.sync_now()
    finally:
        file.close()


def _check_identity(journal: JournalFiles, name: str, found: SegmentHeader | StoredVote) -> None:
    if (found.cluster, found.member) != (journal.cluster, journal.member):
        raise BadRequest(
            "journal_foreign",
            f"{journal.path(name)} belongs to member {found.member!r} of cluster {found.cluster!r}",
            allowed=f"member {journal.member!r} of cluster {journal.cluster!r}",
        )


def _refused(journal: JournalFiles, name: str, exc: BadHeaderError) -> BadRequest:
    if exc.reason == "newer":
        return BadRequest("journal_newer", f"{journal.path(name)}: {exc.detail}")
    return _corrupt(journal, name, exc.detail)


def _corrupt(journal: JournalFiles, name: str, detail: str) -> BadRequest:
    return BadRequest(
        "journal_corrupt",
        f"{journal.path(name)}: {detail}; it was left as it is",
        allowed=MENDED_BY,
    )
