"""Say in a few bytes what a member's machine is at, as members tell each other with their heartbeats. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

NOTE_VERSION: Final = 1
NOTE_URL_MAX: Final = 120


class Note(msgspec.Struct, frozen=True, array_like=True):
    """What a member says of its machine to its peers, in ≤ 256 bytes. Fields are only ever appended."""

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
    """Of a leader that refuses its store: how many settled revisions adopting it gives up; -1: it does not."""
    gives_up_after: int = 0
    stuck: bool = False
    """As leader: its store does not take what it commits."""


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
