"""Check that a store belongs to this cluster while no settled revision can prove it.

Once something is settled here, the store's digest at that revision is the proof (freshness.py).
Before that, any store would pass. A member's own store needs no check: only this member's log fills
it.
"""

from __future__ import annotations

from kv.errors import BackendUnavailable, NotApplied, OutcomeUnknown, store_refused
from kv.model import Head
from kv.ports import Consensus, Identity, Store


async def check_store_identity(
    consensus: Consensus, shared: Store | None, settled: Head, *, timeout_s: float
) -> None:
    """Raise NotApplied unless the store that was just read belongs to this cluster and this
    history. `shared`: the store that members share; None: the member has its own.

    The store is asked only while nothing is settled here. The question changes nothing in the
    store, which was claimed for a cluster when it was opened. Also raises BackendUnavailable.
    """
    if shared is None or settled.last:
        return
    if consensus.space is None:
        raise NotApplied(
            "starting", "this node does not know yet which history the store must be of"
        )
    status = consensus.status()
    try:
        held = await shared.claim(Identity(status.cluster_id), timeout_s=timeout_s)
    except OutcomeUnknown as exc:
        raise BackendUnavailable("store", "it did not say whose it is") from exc
    if held.cluster_id != status.cluster_id:
        raise store_refused("store_foreign")
    if held.history and held.history.hex() != status.history:
        raise store_refused("store_history")
