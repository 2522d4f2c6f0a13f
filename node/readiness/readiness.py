"""Check every part of a node that its readiness depends on, or that an operator wants to see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from kv.ports import Broadcast, Cache, Consensus, Status
from node.http.load import NodeLoad
from node.readiness.findings import ReadinessFinding, findings, own_store_findings
from node.readiness.store_probe import StoreProbe


class ReadinessCheck(NamedTuple):
    """A readiness check added by the caller. `probe` returns None if all is well, otherwise what is
    wrong.
    """

    name: str
    required: bool
    probe: Callable[[], str | None]


class NodeReadiness:
    """The readiness of one node. /readyz, /health, /metrics and /v1/cluster all use it, so that
    they never contradict each other.
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
        """Probe the store and return every finding, required ones first."""
        await self.store_probe.ask()
        return self.known()

    def known(self) -> list[ReadinessFinding]:
        """Return every finding, with the store's state as of the last probe."""
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
        found += own_store_findings(status)
        return found + [
            ReadinessFinding(check.name, check.required, check.probe()) for check in self._checks
        ]


def _lag(status: Status) -> str:
    """Describe how far the broadcast is behind; empty if it is not, or if another node
    publishes.
    """
    return f"{status.broadcast_lag} revisions behind" if status.broadcast_lag else ""
