"""Remember the content digests of the newest rows, to compare them with other members' (R3).

Pure. A digest covers everything before it, so two that agree at one row agree up to there.
"""

from __future__ import annotations

from typing import Final, NamedTuple

KEPT: Final = 8192
"""Rows whose digests are remembered."""
STRIDES: Final = (1, 64, 4096)
"""Members report in turns the newest row, and the newest whose number is a multiple of these: on a
quiet cluster all have the same newest row, on a busy one the same multiple.
"""
PREFIX_BYTES: Final = 8


class ContentMark(NamedTuple):
    """The content digest after a row, or its first bytes."""

    seq: int
    digest: bytes


class ContentMarks:
    """The content digests of one member's newest rows."""

    def __init__(self) -> None:
        self._digests: list[bytes] = [b""] * KEPT
        self.newest = 0
        """The newest row; 0: none."""
        self._oldest = 1

    def clear(self, seq: int = 0, digest: bytes = b"") -> None:
        """Forget all rows but one: the state was replaced, or is made anew."""
        self._digests = [b""] * KEPT
        self.newest, self._oldest = 0, 1
        if seq:
            self.add(seq, digest)

    def add(self, seq: int, digest: bytes) -> None:
        """Record the digest after one more row."""
        if seq != self.newest + 1:
            self._oldest = seq
        self.newest = seq
        self._digests[seq % KEPT] = digest

    def at(self, seq: int) -> bytes | None:
        """Return the digest after a row; None if it is not remembered, or not there yet."""
        if not max(self._oldest, self.newest - KEPT + 1) <= seq <= self.newest:
            return None
        return self._digests[seq % KEPT]

    def report(self, turn: int) -> ContentMark:
        """Return what to tell the others in a turn: a row that they are likely to tell of too."""
        stride = STRIDES[turn % len(STRIDES)]
        for seq in (self.newest - self.newest % stride, self.newest):
            digest = self.at(seq) if seq else None
            if digest is not None:
                return ContentMark(seq, digest[:PREFIX_BYTES])
        return ContentMark(0, b"")
