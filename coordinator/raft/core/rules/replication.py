"""Decide from plain values how a follower takes a leader's entries, and what a quorum holds.

Never reads a clock, a random source or a log itself; never changes anything. Each function names
the place in the Raft dissertation (Ongaro 2014) or in docs that it follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias


class LogEntry(NamedTuple):
    """One place of the log, in the library's own order of fields."""

    command: bytes
    idx: int
    term: int


class LogEnds(NamedTuple):
    """What of the log is held: `first` is the base (a snapshot's last entry, or the entry that all
    logs begin with).
    """

    first: int
    last: int
    commit: int


class LogMismatch(NamedTuple):
    """The entry before the sent ones is not ours: send again from `next_index`."""

    next_index: int


class Wipe(NamedTuple):
    """Our base itself is not the leader's: what we compacted has been overwritten. Start over from
    nothing.
    """


class Take(NamedTuple):
    """The log agrees with the message up to `verified`, once `truncate_from` on is cut and `new` is
    appended.
    """

    truncate_from: int | None
    new: Sequence[LogEntry]
    verified: int


AppendVerdict: TypeAlias = LogMismatch | Wipe | Take


def judge_append(
    ends: LogEnds,
    term_at: Callable[[int], int],
    prev_index: int,
    prev_term: int,
    entries: Sequence[LogEntry],
) -> AppendVerdict:
    """Compare a leader's entries with ours: strip what is held, truncate only on a real conflict
    (section 3.5).

    Invariant: an entry that agrees is never removed, whatever order messages come in; it may be
    acknowledged already. A mismatch asks for everything above our commit index: committed entries
    cannot differ, so one round trip is enough. If one at or below it does differ, committed entries
    were lost elsewhere: go back to the base, then wipe.
    """
    verified = prev_index + len(entries)
    if prev_index < ends.first:
        if verified < ends.first:
            # Terms only rise along a log: an entry of a later term than our base's, before it, is
            # another log's.
            newest_term = entries[-1].term if entries else prev_term
            return Wipe() if newest_term > term_at(ends.first) else Take(None, (), verified)
        prev_term = entries[ends.first - prev_index - 1].term
        entries = entries[ends.first - prev_index :]
        prev_index = ends.first
    if prev_index > ends.last or term_at(prev_index) != prev_term:
        if prev_index > ends.commit:
            return LogMismatch(min(ends.commit, ends.last) + 1)
        return LogMismatch(ends.first + 1) if prev_index > ends.first else Wipe()
    for position, entry in enumerate(entries):
        if entry.idx > ends.last:
            return Take(None, entries[position:], verified)
        if term_at(entry.idx) != entry.term:
            return Take(entry.idx, entries[position:], verified)
    return Take(None, (), verified)


def majority(voters: int) -> int:
    """Return how many of so many voters are a majority."""
    return voters // 2 + 1


def quorum_index(durable: Sequence[int]) -> int:
    """Return the highest index that a majority of voters holds durably; `durable` has one element
    per voter.
    """
    return sorted(durable, reverse=True)[majority(len(durable)) - 1] if durable else 0
