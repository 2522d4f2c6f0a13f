"""Hold an ordered intent until its commit is known, and mark places in the order.

Pure data; it never changes.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kv.model import GENESIS_DIGEST, Cancel, Intent, Put

_FIXED_BYTES = 128
"""What one intent weighs besides its keys and values: op_id, hash, outcome, the frame
around them.
"""


class Mark(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A place in one exact order of intents: a revision, and the digest rolled up to it."""

    revision: int = 0
    digest: bytes = GENESIS_DIGEST

    def agrees(self, other: Mark) -> bool:
        """Say whether both are the same place in the same order.

        Revisions alone do not tell: after a log has lost what the ledger has, the same revision is
        given to another intent. The digest does.
        """
        return self == other


class Pending(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An intent that has a revision, and whose commit is not known yet."""

    revision: int
    intent: Intent | Cancel
    body_hash: bytes
    digest: bytes
    """Rolled up to and with this intent."""
    ordered_ms: int
    """Log time at which it was ordered: a ttl counts from here."""
    late: bool
    """Its deadline had passed by then: it will be recorded expired."""
    size: int
    """Bytes that it adds to a group and to a Settle, about."""

    @property
    def mark(self) -> Mark:
        """The place in the order that it takes."""
        return Mark(self.revision, self.digest)


def size_of(intent: Intent | Cancel) -> int:
    """Return about how many bytes an intent adds to a command or a group."""
    if type(intent) is Cancel:
        return _FIXED_BYTES
    assert isinstance(intent, Intent)
    total = _FIXED_BYTES
    for write in intent.writes:
        total += 64 + len(write.key)
        if type(write) is Put and type(write.value) is bytes:
            total += len(write.value)
    if intent.otherwise:
        for write in intent.otherwise:
            total += 64 + len(write.key)
            if type(write) is Put and type(write.value) is bytes:
                total += len(write.value)
    return total + 64 * (len(intent.guards) + len(intent.reads))


def size_of_all(intents: Iterable[Intent | Cancel]) -> int:
    """Return about how many bytes a Submit of these intents takes."""
    return sum(map(size_of, intents))
