"""Draw the random values of a new history, and the namespaces of its caches.

Pure: random bytes come from the caller.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from coordinator.machine.commands import (
    CACHE_KEY_BYTES,
    HISTORY_BYTES,
    NAMESPACE_MAX,
    NAMESPACE_MIN,
    Found,
)
from coordinator.machine.limits import Limits


def found(
    entropy: Callable[[int], bytes], limits: Limits, members: bytes, *, level: int = 0
) -> Found:
    """Return the command that founds a history. `entropy` returns the given number of unpredictable
    bytes. `level` is the feature level at which a replicated store begins.
    """
    limits = msgspec.structs.replace(limits, level=level)
    return Found(
        entropy(HISTORY_BYTES), namespace(entropy), entropy(CACHE_KEY_BYTES), limits, members
    )


def namespace(entropy: Callable[[int], bytes]) -> int:
    """Draw a namespace out of about 2^53, so that no other history, and no earlier period of this
    one, has the same.
    """
    return NAMESPACE_MIN + int.from_bytes(entropy(16)) % (NAMESPACE_MAX - NAMESPACE_MIN + 1)


def namespace_in(namespace: int, term: int) -> int:
    """Return the namespace that belongs to one term of a history."""
    return NAMESPACE_MIN + (namespace - NAMESPACE_MIN + term) % (NAMESPACE_MAX - NAMESPACE_MIN + 1)
