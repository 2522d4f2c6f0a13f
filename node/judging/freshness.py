"""Judge whether a cached entry or a store snapshot may be served (INV-5). Pure: it trusts no
invalidation, expiry or failover.

A cached entry holds at the machine's present position iff no intent touched its key after the
entry's `as_of`. A store snapshot may be served iff it contains everything that this node knows to
be settled.
"""

from __future__ import annotations

from kv.model import Digest, Entry, Head


def entry_holds(entry: Entry, touched: int) -> bool:
    """Return whether the entry is the key's newest version. `touched`: max(last[key], floor) at the
    read position.
    """
    return touched <= entry.as_of


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
