"""Name the exchanges and queues of a cluster on a broker that it may share with others.

Pure. No two cluster ids have a name in common.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

UNNAMED: Final = "acordo"
"""The name of a cluster without a cluster_id."""
PLAIN_BYTES_MAX: Final = 64
"""A longer cluster_id is replaced by its hash, because names of exchanges and queues are limited to
255 bytes.
"""


def channels(cluster_id: str) -> Mapping[str, str]:
    """Return the names of the exchange of changes, the queue of asynchronous writes, and the queue
    of dead letters.

    They are `acordo.<cluster_id>.changes`, and so on; without a cluster_id `acordo.changes`.
    """
    raw = cluster_id.encode("utf-8", "surrogatepass")
    if cluster_id in {"", UNNAMED}:
        stem = UNNAMED
    elif len(raw) <= PLAIN_BYTES_MAX:
        stem = f"{UNNAMED}.{cluster_id}"
    else:
        stem = f"{UNNAMED}.{hashlib.blake2b(raw, digest_size=16).hexdigest()}"
    return {what: f"{stem}.{what}" for what in ("changes", "async", "dead")}
