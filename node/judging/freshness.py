"""Judge whether what is at hand may be served (INV-5). Pure: it trusts no invalidation, expiry or
fail-over.

A cached entry holds at the machine's present position iff no intent touched its key after the
entry's `as_of`. A snapshot of the store may be served iff it contains all that this node knows to
be settled.
"""

from __future__ import annotations

from kv.model import Digest, Entry, Head


def entry_holds(entry: Entry, touched: int) -> bool:
    """Say whether the entry is the key's newest version. `touched`: max(last[key], floor) at the
    read position.
    """
    return touched <= entry.as_of


def explained(entry: Entry, ordered: int) -> bool:
    """Say whether this node knows of everything up to the entry's `as_of`: what claims to be from
    later is not judged, for whatever it is, it was not read in an order that this node can compare
    it with.
    """
    return entry.as_of <= ordered


def snapshot_serves(settled: Head, head: Head, digest_at: Digest | None) -> bool:
    """Say whether a snapshot with this `head` holds what was settled here when it began.

    `digest_at`: digest that the snapshot's ledger has at `settled.last`. A store that was restored,
    or a stale copy of it, fails: its head is below, or its ledger differs there.
    """
    if head.last < settled.last:
        return False
    return settled.last == 0 or digest_at == settled.digest


def age_s(
    now: float, holds: bool, confirmed_at: float | None, proved_at: float | None
) -> float | None:
    """Bound how long ago an entry was certainly the newest; None: no bound is known.

    `confirmed_at`: when the newest successful ReadIndex round began. What holds at this node's own
    position was the newest then. `proved_at`: when this very entry was last proved to be the
    newest.
    """
    times = [at for at in (confirmed_at if holds else None, proved_at) if at is not None]
    return max(0.0, now - max(times)) if times else None
