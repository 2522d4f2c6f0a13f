"""Decide from plain values how a follower merges a leader's entries, and what a quorum holds.

Never reads a clock, a random source or a log itself; never changes anything. Each function names
the place in the Raft dissertation (Ongaro 2014) or in docs that it follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias


class LogEntry(NamedTuple):
    """One entry of the log, with the fields in the library's order."""

    command: bytes
    idx: int
    term: int


class LogEnds(NamedTuple):
    """The extent of a log. `first` is the index of the base (a snapshot's last entry, or the entry
    that all logs begin with).
    """

    first: int
    last: int
    commit: int


class LogMismatch(NamedTuple):
    """The entry before the sent ones is not in our log; the leader must send from `next_index`."""

    next_index: int


class Wipe(NamedTuple):
    """Our base itself conflicts with the leader's log: entries that we compacted were overwritten,
    and the log must start over from nothing.
    """


class Take(NamedTuple):
    """The log agrees with the leader's up to `verified` once the entries from `truncate_from` on
    (None: none) are cut and `new` is appended.
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
    """Compare a leader's entries with ours: skip those that we hold, and truncate only on a real
    conflict (section 3.5).

    Invariant: an entry that agrees is never removed, in whatever order messages arrive, because it
    may be acknowledged already. On a mismatch we ask for everything above our commit index:
    committed entries cannot differ, so one round trip is enough. If an entry at or below the commit
    index does differ, other members have lost committed entries: we ask for everything above our
    base, and if the base differs too, the log is wiped.
    """
    verified = prev_index + len(entries)
    if prev_index < ends.first:
        if verified < ends.first:
            # All sent entries end before our base. Terms only rise along a log, so if one of them
            # has a later term than our base, our base belongs to a different log.
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
    """Return the size of a majority of `voters` voters."""
    return voters // 2 + 1


def quorum_index(durable: Sequence[int]) -> int:
    """Return the highest index that a majority of voters holds durably. `durable` has one index per
    voter; 0 if it is empty.
    """
    return sorted(durable, reverse=True)[majority(len(durable)) - 1] if durable else 0
