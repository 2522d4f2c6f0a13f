"""Encode and decode the positions that clients keep: ids of watch events. Pure.

A position is a revision, and the term of the ledger row that gave it: where each member has its own
store, a quorum that loses its log's end gives revisions again, in a later term (R12).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kv.errors import BadRequest
from node.wire.text_fields import parse_revision

TERM_MAX: Final = 2**53 - 1


class KeptPosition(NamedTuple):
    """A position that a client was given."""

    revision: int
    term: int = 0
    """Of the row that gave the revision; 0: not known, as in what clients were given by a shared
    store or by an older version.
    """

    @property
    def text(self) -> str:
        """The position as it is given to clients."""
        return f"{self.revision}.{self.term}" if self.term else str(self.revision)


def parse_position(text: str, name: str) -> KeptPosition:
    """Return a position given as text: `revision` or `revision.term`. Raises BadRequest."""
    revision, dot, term = text.partition(".")
    position = KeptPosition(parse_revision(revision, name))
    if not dot:
        return position
    if not (term.isascii() and term.isdigit()) or len(term) > 16 or not 0 < int(term) <= TERM_MAX:
        raise BadRequest(
            "bad_revision",
            f"{name}={text[:40]!r} is no position",
            allowed="the id of an event, as it was given",
        )
    return position._replace(term=int(term))
