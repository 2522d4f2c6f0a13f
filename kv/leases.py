"""Name leases and their keys, and bound them. Pure.

A lease is a version under the system's prefix: its key names it, its value is its ttl. It is
granted by a write of that key, and ends with all keys that are attached to it.
"""

from __future__ import annotations

import hashlib
from typing import Final

SYSTEM_PREFIX: Final = b"acordo/"
"""The keys of the system begin so."""
SYSTEM_END: Final = b"acordo0"
"""The first key behind them."""
LEASES_PREFIX: Final = b"acordo/leases/"
"""The keys of leases begin so. No client writes such a key itself."""
LEASES_END: Final = b"acordo/leases0"
"""The first key behind them."""
LEASE_ID_MAX: Final = 2**63 - 1
LEASE_KEYS_MAX: Final = 10_000
"""The maximal number of keys attached to a lease. Beyond it an intent is refused with the reason
`lease_full`.
"""
LEASES_MAX: Final = 100_000
"""About how many leases there may be: a new leader reads all of them before it serves (half a
second), keeps a deadline for each (40 MB), and 100,000 that are renewed three times in a ttl of
30 s are 10,000 keep-alives a second.
"""
LEASE_TTL_MS_MIN: Final = 100
NO_LEASE: Final = "lease_not_found"
"""Why an intent was refused that attaches a key to a lease that is not there."""
FULL: Final = "lease_full"
_DIGITS: Final = 16


def lease_key(lease: int) -> bytes:
    """Return the key of a lease, 1 … LEASE_ID_MAX."""
    return b"%s%016x" % (LEASES_PREFIX, lease)


def lease_of(key: bytes) -> int:
    """Return the lease whose key this is; 0: it is the key of none."""
    digits = key[len(LEASES_PREFIX) :]
    if not key.startswith(LEASES_PREFIX) or len(digits) != _DIGITS:
        return 0
    try:
        lease = int(digits, 16)
    except ValueError:
        return 0
    return lease if lease <= LEASE_ID_MAX and lease_key(lease) == key else 0


def lease_for(op_id: str) -> int:
    """Return the id of the lease that a grant without an id gets: the same whenever the same
    operation is repeated.
    """
    digest = hashlib.blake2b(op_id.encode(), digest_size=8, person=b"acordo lease").digest()
    return int.from_bytes(digest, "big") % LEASE_ID_MAX + 1


def ttl_value(ttl_ms: int) -> bytes:
    """Return the value of a lease's key."""
    return b"%d" % ttl_ms


def ttl_of(value: bytes) -> int:
    """Return the ttl in the value of a lease's key, in milliseconds; 0: it is none."""
    return int(value) if value.isdigit() and len(value) <= 16 else 0
