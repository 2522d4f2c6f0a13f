"""Judge whether a cached entry or a store snapshot may be served (INV-5). Pure: it trusts no
invalidation, expiry or failover.

A cached entry holds at the machine's present position iff no intent touched its key after the
entry's `as_of`. A store snapshot may be served iff it contains everything that this node knows to
be settled.
"""

from __future__ import annotations

from collections.abc import Callable

from kv.leases import lease_key
from kv.model import Digest, Entry, Head


def entry_holds(entry: Entry, touched: int) -> bool:
    """Return whether the entry is the key's newest version. `touched`: max(last[key], floor) at the
    read position.
    """
    return touched <= entry.as_of


def touched_by(touched: Callable[[bytes], int], entry: Entry) -> int:
    """Return the revision that an entry's `as_of` has to reach for the entry to hold. `touched`:
    that of a key alone.

    The end of a lease takes keys that nobody knew when it was ordered. It touches the key of the
    lease, so an entry that says that its key is attached to the lease goes by that key too. One
    that says something else is older than the write that attached the key, which touched it.
    """
    at, version = touched(entry.key), entry.version
    if version is not None and version.lease:
        at = max(at, touched(lease_key(version.lease)))
    return at


def explained(entry: Entry, ordered: int) -> bool:
    """Return whether this node has ordered everything up to the entry's `as_of`.

    An entry that claims a later revision cannot be judged: it does not come from any order that
    this node can compare it with.
    """
    return entry.as_of <= ordered


def snapshot_serves(settled: Head, head: Head, digest_at: Digest | None) -> bool:
    """Return whether a snapshot with this `head` contains what was settled here when it began.

    `digest_at`: the digest that the snapshot's ledger has at `settled.last`. A restored store, or a
    stale copy, fails: its head is lower, or its ledger has another digest there.
    """
    if head.last < settled.last:
        return False
    return settled.last == 0 or digest_at == settled.digest


def age_s(
    now: float, holds: bool, confirmed_at: float | None, proved_at: float | None
) -> float | None:
    """Return an upper bound in seconds on how long ago an entry was certainly the newest; None: no
    bound is known.

    `confirmed_at`: when the newest successful ReadIndex round began. An entry that holds at this
    node's own position was the newest at that time. `proved_at`: when this very entry was last
    proved to be the newest.
    """
    times = [at for at in (confirmed_at if holds else None, proved_at) if at is not None]
    return max(0.0, now - max(times)) if times else None
