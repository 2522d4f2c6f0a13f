"""Encode in a few bytes what a member's machine is at, as members tell each other with their
heartbeats. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

NOTE_VERSION: Final = 1
NOTE_URL_MAX: Final = 120


class Note(msgspec.Struct, frozen=True, array_like=True):
    """A member's word on its machine to its peers, in ≤ 256 bytes. Fields are only ever
    appended.
    """

    version: int
    ordered: int
    settled: int
    digest: bytes
    url: str
    refusal: str
    leader_since_ms: int
    namespace: int = 0
    wall_ms: int = 0
    """Its wall clock when it made the note; 0: of a version that did not tell."""
    kept_ms: int = 0
    """Log time, as it kept it on its monotonic clock; 0: it does not know it."""
    gives_up: int = -1
    """Of a leader that refuses its store: how many settled revisions adopting it gives up; -1: it
    does not.
    """
    gives_up_after: int = 0
    stuck: bool = False
    """As leader: its store does not take what it commits."""
    found_in: int = 0
    """The term in which that time was found."""
    synced: bool = False
    """What its log acknowledges is on its disk."""


encode_note = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Note)


def read_note(note: bytes) -> Note | None:
    """Return a peer's note; None when it sent none, or one of another kind."""
    if not note:
        return None
    try:
        return _decoder.decode(note)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


class VoterProgress(NamedTuple):
    """A voter's word on how far it has settled, and whether that is on its disk."""

    settled: int
    synced: bool


def unneeded(voters: Sequence[VoterProgress | None]) -> int:
    """Return up to where no voter will ever need the ledger's rows again. None: one that was never
    heard.

    Who leads has every command that was committed on synced disks (leader completeness), so what a
    majority of them has settled stays settled, whatever the others are at. Without that, what the
    slowest of all has.
    """
    heard = [voter for voter in voters if voter is not None]
    synced = sorted((voter.settled for voter in heard if voter.synced), reverse=True)
    kept = synced[len(voters) // 2] if len(synced) > len(voters) // 2 else 0
    slowest = min((voter.settled for voter in heard), default=0) if len(heard) == len(voters) else 0
    return max(kept, slowest)
