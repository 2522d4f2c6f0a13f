"""Hold where the ledger of a replicated store ends, and what was ordered about it.

Pure. On a shared store the store itself knows this; on a replicated one it is a function of the
log, the same on every member.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from typing import Final, TypeAlias

import msgspec

from kv.model import LedgerRow

LEVEL: Final = 2
"""The feature level that this version speaks (R14)."""
CLIENTS_RANGES: Final = 2
"""From this level on no range has keys of the system in it, and all ranges of one intent together
have RANGES_KEYS_MAX keys at most. Before, a range left out the keys of leases, having counted them.
"""
LEVEL_MIN: Final = 1
"""The lowest level of a history whose members have their own stores."""
TERMS_MAX: Final = 512
"""Terms that are remembered with the revisions that they gave: positions of older ones are taken as
they are.
"""


Terms: TypeAlias = tuple[tuple[int, int], ...]
"""For each term that gave revisions the first of them, and the term; rising."""


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
    terms: Terms = ()
    """Which term gave which revisions: the newest TERMS_MAX. Replaced, never changed."""

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
        if not self.terms or self.terms[-1][1] != row.term:
            self.terms = (*self.terms, (row.first, row.term))[-TERMS_MAX:]

    def term_of(self, revision: int) -> int:
        """Return the term of the row that gave a revision; 0 if it is not remembered. A revision
        that was not given yet counts as the newest term's.
        """
        place = bisect_right(self.terms, revision, key=_first)
        return self.terms[place - 1][1] if place else 0

    def holds_to(self, revision: int, term: int, last: int) -> int:
        """Return the newest revision, up to `revision`, to which this ledger may be the one in
        which a row of `term` gave `revision` (R12). It is `revision` itself unless another row gave
        it here; what lies behind the returned one is lost. `last` is the newest revision here.
        """
        place = bisect_right(self.terms, revision, key=_first)
        if not place or not term:
            return revision
        here = self.terms[place - 1][1]
        if here < term:
            return revision - 1 if revision <= last else revision
        while place and self.terms[place - 1][1] > term:
            place -= 1
            revision = self.terms[place][0] - 1
        return revision

    def advance(self, name: str, position: int) -> bool:
        """Raise a reader's position. Return whether that is news."""
        if position <= self.cursors.get(name, 0):
            return False
        self.cursors = self.cursors | {name: position}
        return True

    def forget_before(self, log_time_ms: int) -> None:
        """Know no operation that was recorded before this log time, from now on."""
        self.known_since_ms = max(self.known_since_ms, log_time_ms)

    def shared_with(self, terms: Terms, upto: int, last: int) -> int:
        """Return the newest revision, at most `upto`, to which this ledger has the rows of another
        one of this history, as far as their terms tell. `terms` are the other's, up to `upto`;
        `last` is the newest revision here.
        """
        if not self.terms or not terms:
            return upto
        begin = max(self.terms[0][0], terms[0][0])
        own, other = _from(begin, self.terms), _from(begin, terms)
        for mine, theirs in zip(own, other, strict=False):
            if mine != theirs:
                return min(mine[0], theirs[0]) - 1
        more = own[len(other) :] or other[len(own) :]
        return more[0][0] - 1 if more and more[0][0] <= min(upto, last) else upto

    @property
    def founded(self) -> bool:
        """Whether the ledger of a replicated store has begun."""
        return bool(self.content)


def _from(begin: int, terms: Terms) -> Terms:
    """Return the part of `terms` that tells of the revisions from `begin` on."""
    place = bisect_right(terms, begin, key=_first)
    return ((begin, terms[place - 1][1]), *terms[place:])


def _first(of_term: tuple[int, int]) -> int:
    return of_term[0]
