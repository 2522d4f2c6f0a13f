"""Encode and decode notes: the few bytes about a member's machine that its heartbeats carry.
Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

NOTE_VERSION: Final = 1
NOTE_URL_MAX: Final = 120


class Note(msgspec.Struct, frozen=True, array_like=True):
    """What a member reports to its peers about its machine, in ≤ 256 bytes. Fields are only ever
    appended.
    """

    version: int
    ordered: int
    """0 if it is `settled`, as it always is with an own store."""
    settled: int
    digest: bytes
    url: str
    refusal: str
    leader_since_ms: int
    unused: int = 0
    """A namespace that nobody read."""
    wall_ms: int = 0
    """Its wall clock when it made the note; 0: its version did not report it."""
    kept_ms: int = 0
    """The log time that it keeps by its monotonic clock; 0: it does not know it."""
    gives_up: int = -1
    """From a leader that refuses its store: how many settled revisions adopting it gives up. -1: it
    does not refuse.
    """
    gives_up_after: int = 0
    stuck: bool = False
    """From a leader: its store does not accept what it commits."""
    found_in: int = 0
    """The term in which that log time was determined."""
    synced: bool = False
    """Whether what its log acknowledges is on its disk."""
    level: int = 0
    """The feature level that it speaks; 0: its version did not report it (R14)."""
    content_seq: int = 0
    """A row of its own store, and the first bytes of the content digest after it (R3); 0: none."""
    content: bytes = b""
    content_term: int = 0
    """`term_mark` of the newest command that it has applied."""
    witness: bool = True
    """Whether its contents are its own evaluation, or were compared since it fetched them (R3)."""


def term_mark(term: int) -> int:
    """Return a term in one byte of a note: two that meet are hardly 128 terms apart."""
    return term % 128


encode_note = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Note)


def read_note(note: bytes) -> Note | None:
    """Return a peer's note; None when it sent none, or one that cannot be decoded."""
    if not note:
        return None
    try:
        return _decoder.decode(note)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


class VoterProgress(NamedTuple):
    """How far a voter has settled, and whether that is on its disk."""

    settled: int
    synced: bool


def unneeded(voters: Sequence[VoterProgress | None]) -> int:
    """Return the revision up to which no voter will ever need the ledger's rows again. None stands
    for a voter that was never heard from.

    A leader has every command that was committed on synced disks (leader completeness). So what a
    majority of the voters has settled on synced disks stays settled, however far behind the others
    are. It is never less than what the slowest of all voters has settled.
    """
    heard = [voter for voter in voters if voter is not None]
    synced = sorted((voter.settled for voter in heard if voter.synced), reverse=True)
    kept = synced[len(voters) // 2] if len(synced) > len(voters) // 2 else 0
    slowest = min((voter.settled for voter in heard), default=0) if len(heard) == len(voters) else 0
    return max(kept, slowest)
