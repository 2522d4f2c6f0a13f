"""Hold where the ledger of a replicated store ends, and what was ordered about it.

Pure. On a shared store the store itself knows this; on a replicated one it is a function of the
log, the same on every member.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from kv.model import LedgerRow

LEVEL: Final = 1
"""The feature level that this version speaks (R14)."""
LEVEL_MIN: Final = 1
"""The lowest level of a history whose members have their own stores."""


class Book(msgspec.Struct, array_like=True):
    """The end of the ledger. Only the machine and what settles its intents change it. Fields are
    only ever appended, with defaults.
    """

    index: int = 0
    """The log index of the newest command that was applied, and its term."""
    term: int = 0
    seq: int = 0
    """The newest row: its number, the log index of its command, that command's term."""
    row_index: int = 0
    row_term: int = 0
    content: bytes = b""
    """The content digest after that row (R3); empty until the history is founded."""
    level: int = 0
    """The feature level in force."""
    floor: int = 0
    """Every member may prune below this revision (R8)."""
    cursors: dict[str, int] = {}
    """How far readers of the ledger have come, by name (R10). Replaced, never changed."""
    known_since_ms: int = 0
    """Operations recorded before this log time are not known: a shorter retention was in force
    once, and some members may have pruned them (R2).
    """

    def begin(self, found: bytes) -> None:
        """Begin the content digests with the command that founds the history: those of two
        histories never agree.
        """
        self.content = hashlib.blake2b(found, digest_size=32).digest()

    def pass_to(self, index: int, term: int) -> None:
        """Record the position of the newest command."""
        self.index, self.term = index, term

    def enter(self, row: LedgerRow) -> None:
        """Record the newest row."""
        self.seq, self.content = row.seq, row.content
        self.row_index, self.row_term = row.index, row.term

    def advance(self, name: str, position: int) -> bool:
        """Raise a reader's position. Return whether that is news."""
        if position <= self.cursors.get(name, 0):
            return False
        self.cursors = self.cursors | {name: position}
        return True

    def forget_before(self, log_time_ms: int) -> None:
        """Know no operation that was recorded before this log time, from now on."""
        self.known_since_ms = max(self.known_since_ms, log_time_ms)

    @property
    def founded(self) -> bool:
        """Whether the ledger of a replicated store has begun."""
        return bool(self.content)
