"""Draw what a history is founded with, and the namespaces of its caches.

Pure: random bytes come from the caller.
"""

from __future__ import annotations

from collections.abc import Callable

from coordinator.machine.commands import (
    CACHE_KEY_BYTES,
    HISTORY_BYTES,
    NAMESPACE_MAX,
    NAMESPACE_MIN,
    Found,
)
from coordinator.machine.limits import Limits


def found(entropy: Callable[[int], bytes], limits: Limits, members: bytes) -> Found:
    """Return the command that begins a history; `entropy` gives so many bytes that nobody can
    guess.
    """
    return Found(
        entropy(HISTORY_BYTES), namespace(entropy), entropy(CACHE_KEY_BYTES), limits, members
    )


def namespace(entropy: Callable[[int], bytes]) -> int:
    """Draw a namespace that no other history, and no time of this one, has: 2^53 of them."""
    return NAMESPACE_MIN + int.from_bytes(entropy(16)) % (NAMESPACE_MAX - NAMESPACE_MIN + 1)
