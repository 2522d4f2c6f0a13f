"""Create the back ends and the Raft transport that a node's settings name."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from backends import by_url
from backends.local.cache import MemoryCache
from cluster.settings.node import NodeSettings
from coordinator.raft.net.security import Certificates, Open, Security, read_secret
from coordinator.raft.sockets import TransportFactory, over_sockets
from kv.ports import Broadcast, Cache, MemberStore, Store
from node.http.tls import HttpTls, TlsFiles

if TYPE_CHECKING:  # loaded only when the settings name a broker
    from backends.rabbitmq.async_writes import RabbitAsyncWrites

_log = structlog.get_logger("acordo.node")


class SystemClock:
    """The Clock of a real node. `monotonic` is the event loop's time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.monotonic = loop.time

    def wall_ms(self) -> int:
        """Return the wall clock in milliseconds since 1970."""
        return time.time_ns() // 1_000_000


def new_rng() -> random.Random:
    """Return a new random number generator. Each part gets its own, so that a part that draws more
    or less often does not change what another one draws.
    """
    return random.Random(secrets.randbits(256))


@dataclass(frozen=True, slots=True)
class Backends:
    """The back ends of one node, not opened yet."""

    store: Store | None
    """The store that all members share, if there is one."""
    own: MemberStore | None
    """This member's own store, if there is no shared one."""
    cache: Cache
    broadcast: Broadcast
    async_writes: RabbitAsyncWrites | None
    """The broker in its role for asynchronous writes, where there is one."""


def backends_of(settings: NodeSettings, cluster: str) -> Backends:
    """Return the back ends that the settings name. Raises BadRequest."""
    return Backends(
        None if settings.replicated else by_url.store(settings.store_url),
        by_url.own_store(settings.own_file) if settings.replicated else None,
        shared_cache(settings),
        by_url.broadcast(settings.broadcast, cluster),
        by_url.async_writes(settings.broadcast, cluster),
    )


def shared_cache(settings: NodeSettings) -> Cache:
    """Return the shared cache. With memory:// that is an empty one, because it would only be a
    second copy of the node's own cache.
    """
    return (
        MemoryCache(bytes_max=0) if settings.cache == "memory://" else by_url.cache(settings.cache)
    )


class MemberNetwork:
    """What creates a member's transport once the member knows its own node, and renews what that
    proves its identity by.
    """

    def __init__(self, settings: NodeSettings, cluster: str, rng: random.Random) -> None:
        """Read the files of the settings. Raises BadRequest for unusable ones."""
        self._settings = settings
        routes = {member.id: member.raft_address for member in settings.raft_routes}
        self._make: TransportFactory = over_sockets(
            cluster,
            settings.raft_bind,
            _security(settings),
            rng=rng,
            entropy=os.urandom,
            routes=routes,
        )
        self._made: Any = None

    def __call__(self, *given: Any) -> Any:
        """Return the transport of this member, as a TransportFactory does."""
        self._made = self._make(*given)
        return self._made

    @property
    def certificates(self) -> tuple[Path, ...]:
        """Return the files of certificates."""
        given = (self._settings.tls_cert_file, self._settings.tls_ca_file)
        return tuple(file for file in given if file is not None)

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the files that prove this member's identity."""
        given = (self._settings.secret_file, self._settings.tls_key_file)
        return (*self.certificates, *(file for file in given if file is not None))

    def renew(self) -> None:
        """Read the files again, and use them from now on. Raises BadRequest, and changes nothing,
        for unusable ones.
        """
        security = _security(self._settings)
        if self._made is not None:
            self._made.renew(security)


def _security(settings: NodeSettings) -> Security:
    if settings.secret_file is not None:
        return read_secret(settings.secret_file)
    if settings.tls_cert_file is not None:
        return Certificates(
            str(settings.tls_cert_file), str(settings.tls_key_file), str(settings.tls_ca_file)
        )
    _log.warning(
        "members prove nothing to each other: Raft listens on loopback only",
        address=settings.raft_bind,
    )
    return Open()


def http_tls(settings: NodeSettings) -> HttpTls | None:
    """Return what the node serves HTTPS with; None: it serves plain HTTP. Raises BadRequest for
    unusable files.
    """
    cert, key = settings.http_tls_cert_file, settings.http_tls_key_file
    if cert is None or key is None:
        return None
    must = settings.http_tls_client_auth == "required"
    return HttpTls(TlsFiles(cert, key, settings.http_tls_client_ca_file, must))


class BackendMetrics(Collector):
    """The metrics of back ends. They are registered in their libraries' default registry, beside
    process metrics that a node already exposes itself.
    """

    def collect(self) -> Iterable[Metric]:
        """Return the product's own metrics, without those of the process."""
        return (metric for metric in REGISTRY.collect() if metric.name.startswith("acordo_"))


def registry_of_backends() -> CollectorRegistry:
    """Return a registry with the metrics of the back ends."""
    registry = CollectorRegistry()
    registry.register(BackendMetrics())
    return registry
