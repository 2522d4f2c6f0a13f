"""Look at every part of a node that its readiness depends on, or that an operator wants to see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from kv.ports import Broadcast, Cache, Consensus, Status
from node.http.load import NodeLoad
from node.readiness.findings import ReadinessFinding, findings
from node.readiness.store_probe import StoreProbe


class ReadinessCheck(NamedTuple):
    """One thing that a caller adds to readiness. `probe` returns None when it is well, else why
    not.
    """

    name: str
    required: bool
    probe: Callable[[], str | None]


class NodeReadiness:
    """What says whether one node should get traffic. /readyz, /health, /metrics and /v1/cluster
    all ask it, so that none of them tells another story.
    """

    def __init__(
        self,
        consensus: Consensus,
        store_probe: StoreProbe,
        cache: Cache,
        broadcast: Broadcast,
        load: NodeLoad,
        *,
        checks: Sequence[ReadinessCheck] = (),
    ) -> None:
        self._consensus, self._cache, self._broadcast = consensus, cache, broadcast
        self.store_probe = store_probe
        self._load, self._checks = load, checks

    async def look(self) -> list[ReadinessFinding]:
        """Look at everything, and return every finding, required ones first."""
        await self.store_probe.ask()
        return self.known()

    def known(self) -> list[ReadinessFinding]:
        """Return every finding, going by what the store said when it was last asked."""
        status, probe = self._consensus.status(), self.store_probe
        leaving = self._load.draining or self._load.leaving
        found = findings(
            status, store_trouble=probe.trouble, store_differs=probe.differs, leaving=leaving
        )
        cache = None if self._cache.healthy() else "the cache does not answer"
        broadcast = None if self._broadcast.healthy() else "the broker does not answer"
        apart = "; ".join(status.conflicts) or None
        found += [
            ReadinessFinding("members", False, apart),
            ReadinessFinding("cache", False, cache),
            ReadinessFinding("broadcast", False, broadcast, note=_lag(status)),
        ]
        return found + [
            ReadinessFinding(check.name, check.required, check.probe()) for check in self._checks
        ]


def _lag(status: Status) -> str:
    """Return how far the broadcast is behind, where this node does it and it is."""
    return f"{status.broadcast_lag} revisions behind" if status.broadcast_lag else ""
