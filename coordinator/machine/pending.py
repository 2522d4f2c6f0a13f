"""Define an ordered intent whose commit is not known yet, and a place in the order.

Pure, immutable data.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kv.branches import every_guard, every_write
from kv.model import GENESIS_DIGEST, Cancel, Compare, Delete, DeleteRange, EndLease, Intent, Put

_FIXED_BYTES = 128
"""The weight of an intent besides its keys and values: op_id, hash, outcome and framing."""
RANGE_BYTES = 64 * 1024
"""What a delete of a range, and the end of a lease, count for, so that few of them are in one
group: each may remove RANGE_KEYS_MAX keys, which its record names.
"""


class Mark(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A place in one exact order of intents: a revision, and the digest rolled up to it."""

    revision: int = 0
    digest: bytes = GENESIS_DIGEST

    def agrees(self, other: Mark) -> bool:
        """Return whether both are the same place in the same order.

        Revisions alone cannot tell: after a log has lost what the ledger has, the same revision is
        given to another intent. The digest can.
        """
        return self == other


class Pending(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An intent that has a revision, and whose commit is not known yet."""

    revision: int
    intent: Intent | Cancel
    body_hash: bytes
    digest: bytes
    """The digest rolled up to and including this intent."""
    ordered_ms: int
    """The log time at which it was ordered."""
    late: bool
    """Whether its deadline had passed by then; if so it will be recorded as expired."""
    size: int
    """The approximate number of bytes that it adds to a group and to a Settle."""

    @property
    def mark(self) -> Mark:
        """The intent's place in the order."""
        return Mark(self.revision, self.digest)


def size_of(intent: Intent | Cancel) -> int:
    """Return the approximate number of bytes that an intent adds to a command or a group."""
    if type(intent) is Cancel:
        return _FIXED_BYTES
    assert isinstance(intent, Intent)
    total = _FIXED_BYTES
    if len(intent.writes) == 1 and type(write := intent.writes[0]) is Put:  # for most intents
        total += 64 + len(write.key) + (len(write.value) if type(write.value) is bytes else 0)
        if not intent.otherwise and not intent.guards:
            return total + 64 * len(intent.reads)
    for each in every_write(intent):
        total += 64 + len(each.key)
        if isinstance(each, DeleteRange | EndLease):
            total += RANGE_BYTES
        elif not isinstance(each, Delete) and type(each.value) is bytes:
            total += len(each.value)
    for guard in every_guard(intent):
        total += 64 + (
            len(guard.operand)
            if isinstance(guard, Compare) and isinstance(guard.operand, bytes)
            else 0
        )
    return total + 64 * len(intent.reads)


def size_of_all(intents: Iterable[Intent | Cancel]) -> int:
    """Return the approximate number of bytes of a Submit with these intents."""
    return sum(map(size_of, intents))
