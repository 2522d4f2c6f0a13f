"""Create the back ends and the Raft transport that a node's settings name."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

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


def transport_factory(settings: NodeSettings, cluster: str, rng: random.Random) -> TransportFactory:
    """Return a factory that creates the transport once the member knows its own node. Raises
    BadRequest for unusable files.
    """
    security = _security(settings)
    routes = {member.id: member.raft_address for member in settings.raft_routes}
    return over_sockets(
        cluster, settings.raft_bind, security, rng=rng, entropy=os.urandom, routes=routes
    )


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
