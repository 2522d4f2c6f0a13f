"""Run `python -m node`: read the settings, put the parts together, serve, drain. The composition
root of a node.

It decides nothing that the parts decide. How it ends tells its supervisor what to do
(docs/adr/0003).
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import logging
import os
import random
import resource
import secrets
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import structlog
import uvloop
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from backends import by_url
from backends.memory import MemoryCache
from cluster import logs
from cluster.directory import claim_node, locked
from cluster.settings.loading import load, redacted
from cluster.settings.node import NodeSettings
from coordinator.consensus import Coordinator
from coordinator.log import Log, PeerAddress, Replica
from coordinator.machine.limits import Limits
from coordinator.raft.member import Member, TransportFactory, over_sockets
from coordinator.raft.member import Settings as RaftSettings
from coordinator.raft.net.security import Certificates, Open, Security, read_secret
from coordinator.raft.storage.real_disk import RealDisk
from coordinator.settings import Settings as CoordinatorSettings
from kv.errors import BackendUnavailable, BadRequest, KvError, OutcomeUnknown
from kv.names import UNNAMED
from kv.ports import Cache, Identity, Store
from node.readiness.readiness import ReadinessCheck
from node.server import Server
from node.settings import ServerSettings
from node.startup.waiting import Waiting

EX_UNAVAILABLE: Final = 69
EX_SOFTWARE: Final = 70
EX_CONFIG: Final = 78
TRANSFER_TIMEOUT_S: Final = 2.0
"""How long a stopping leader tries to hand its leadership on."""
CLOSE_TIMEOUT_S: Final = 10
"""How long the parts may take to close after the drain; then the process is ended."""
DESCRIPTORS_MAX: Final = 1 << 20
"""No more files and sockets are asked for."""

SERVED_STORES: Final = ("postgres", "cockroach")
"""Stores that come and go without the node: it waits for them. A file is there or is not."""
STORE_BACKOFF_S: Final = (0.25, 5.0)
STORE_SILENCE_S: Final = 1.0
"""After so long without an answer the node says that it waits."""

_log = structlog.get_logger("acordo.node")


def _chance() -> random.Random:
    """Return a source of chance that nobody else draws from."""
    return random.Random(secrets.randbits(256))


class SystemClock:
    """The Clock of a real node. `monotonic` is the event loop's."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.monotonic = loop.time

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


def main(argv: list[str]) -> int:
    """Run a node until it is told to stop; return its exit code."""
    shown = "--print-config" in argv
    try:
        settings = load(
            NodeSettings, [a for a in argv if a != "--print-config"], prog="python -m node"
        )
    except BadRequest as exc:
        return _refuse(exc)
    if shown:
        print(json.dumps(redacted(settings), indent=2))
        return 0
    os.umask(0o077)  # values and logs are nobody else's, also in a directory that is open
    faulthandler.enable()
    logs.configure(settings.log_format, settings.log_level, node=settings.node_id)
    # what it has to say comes as errors, and is logged once
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)
    try:
        descriptors = _most_descriptors()
        listening = _listen(settings.http_host, settings.http_port)
        cluster = (
            claim_node(settings.data_dir, settings.cluster_id, settings.node_id).cluster_id
            or UNNAMED
        )
        if cluster == UNNAMED and not settings.broadcast.startswith("local"):
            _log.warning(
                "this cluster has no name, and another one without a name at the same broker would hear its messages",
                setting="ACORDO_CLUSTER_ID",
            )
        with locked(settings.data_dir, "node"):
            uvloop.run(_serve(settings, cluster, listening, descriptors))
    except Exception as exc:  # noqa: BLE001 - the last place: whatever it is ends the process, with its name
        return _ended_by(exc, settings)
    return 0


async def _serve(
    settings: NodeSettings, cluster: str, listening: socket.socket, descriptors: int
) -> None:
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[bool] = loop.create_future()
    died: asyncio.Future[None] = loop.create_future()
    _stop_on_signals(settings, stop)
    clock = SystemClock(loop)
    store = by_url.store(settings.store_url)
    broadcast = by_url.broadcast(settings.broadcast, cluster)
    cache = _shared_cache(settings)
    transport = _transport(settings, cluster, _chance())

    def fatal(exc: BaseException) -> None:
        if not died.done():
            died.set_exception(exc)

    async with AsyncExitStack() as stack:
        if not await _opened(
            lambda: _enter(stack, store, settings, cluster), settings, listening, stop
        ):
            return
        await stack.enter_async_context(cache)
        await stack.enter_async_context(broadcast)
        async_writes = by_url.async_writes(settings.broadcast, cluster)
        if async_writes is not None:
            await stack.enter_async_context(async_writes)
        disk = RealDisk(settings.data_dir / "raft")
        stack.callback(disk.close)

        def log(replica: Replica) -> Log:
            return Member(
                settings.node_id,
                [PeerAddress(m.id, m.raft_address, m.voter) for m in settings.first_members],
                cluster=cluster,
                replica=replica,
                disk=disk,
                transport=transport,
                clock=clock,
                chance=_chance(),
                on_fatal=fatal,
                settings=_raft_settings(settings),
            )

        coordinator = Coordinator(
            node=settings.node_id,
            url=settings.url,
            log=log,
            store=store,
            broadcast=broadcast,
            clock=clock,
            rng=_chance(),
            settings=_coordinator_settings(settings),
            entropy=os.urandom,
            cluster=cluster,
        )
        await stack.enter_async_context(coordinator)
        server = Server(
            _server_settings(settings, descriptors),
            consensus=coordinator,
            store=store,
            cache=cache,
            broadcast=broadcast,
            clock=clock,
            async_writes=async_writes,
            checks=[ReadinessCheck("async", False, async_writes.trouble)]
            if async_writes is not None
            else [],
            registry=_counted_by_backends(),
        )
        await stack.enter_async_context(server)
        await server.start(sock=listening)
        _log.info(
            "serving",
            url=settings.url,
            store=redacted(settings)["ACORDO_STORE"],
            fsync=settings.fsync,
        )
        await asyncio.wait((stop, died), return_when=asyncio.FIRST_COMPLETED)
        if died.done():
            died.result()
        # whatever hangs from here on
        signal.alarm(int(settings.drain_notice_s + settings.drain_timeout_s) + CLOSE_TIMEOUT_S)
        await _drain(settings, server, coordinator, hand_on=stop.result())
    _log.info("stopped")


async def _drain(
    settings: NodeSettings, server: Server, coordinator: Coordinator, *, hand_on: bool
) -> None:
    """Turn unready, hand the leadership on, finish what is held."""
    server.services.load.leaving = True
    status = coordinator.status()
    _log.info("draining", role=status.role, requests=server.services.load.requests)
    if hand_on and status.role == "leader" and len([m for m in status.members if m.voter]) > 1:
        try:
            leader = await coordinator.transfer(
                None, timeout_s=min(TRANSFER_TIMEOUT_S, settings.drain_timeout_s)
            )
            _log.info("leadership handed on", to=leader)
        except (KvError, TimeoutError) as exc:
            _log.warning("leadership not handed on", reason=str(exc))
    if not await server.drain(notice_s=settings.drain_notice_s, timeout_s=settings.drain_timeout_s):
        _log.warning("requests were cut off", requests=server.services.load.requests)


async def _opened(
    entering: Callable[[], Awaitable[None]],
    settings: NodeSettings,
    listening: socket.socket,
    stop: asyncio.Future[bool],
) -> bool:
    """Open the store, trying again while its server does not answer; meanwhile /livez is ok and all
    else says why not.

    Return whether it is open: False when the node was told to stop first. Raises BadRequest for
    what must be mended, and BackendUnavailable for a store that is no server.
    """
    if not settings.store_url.startswith(SERVED_STORES):
        await entering()
        return True
    waiting = Waiting(settings.node_id)
    async with waiting:
        backoff_s = STORE_BACKOFF_S[0]
        while True:
            opening = asyncio.ensure_future(entering())
            await asyncio.wait(
                (opening, stop), timeout=STORE_SILENCE_S, return_when=asyncio.FIRST_COMPLETED
            )
            if not opening.done():
                await waiting.listen(listening)
            await asyncio.wait((opening, stop), return_when=asyncio.FIRST_COMPLETED)
            if stop.done():
                opening.cancel()
                await asyncio.wait((opening,))
                return False
            try:
                opening.result()
                return True
            except (BackendUnavailable, OutcomeUnknown) as exc:
                _log.warning("the store does not answer yet", reason=str(exc), again_in_s=backoff_s)
                waiting.reason = str(exc)
                await waiting.listen(listening)
            await asyncio.wait((stop,), timeout=backoff_s * random.uniform(0.75, 1.25))
            backoff_s = min(backoff_s * 2, STORE_BACKOFF_S[1])
            if stop.done():
                return False


async def _enter(stack: AsyncExitStack, store: Store, settings: NodeSettings, cluster: str) -> None:
    """Open the store and claim it for this cluster, before anything of Raft. Raises
    BadRequest("foreign_store").
    """
    async with AsyncExitStack() as opening:
        await opening.enter_async_context(store)
        held = await store.claim(Identity(cluster), timeout_s=settings.store_timeout_s)
        if held.cluster_id != cluster:
            shown = redacted(settings)["ACORDO_STORE"]
            raise BadRequest(
                "foreign_store",
                f"{shown} is the store of cluster {held.cluster_id!r}; this is {cluster!r}",
                allowed=f"a store of its own; one restored from a backup goes on with --cluster-id {held.cluster_id}, "
                "and `acordo adopt` once it is up",
            )
        stack.push_async_exit(opening.pop_all())


# ---------------------------------------------------------------------------- settings of the parts


def _raft_settings(settings: NodeSettings) -> RaftSettings:
    return RaftSettings(
        fsync=settings.fsync,
        election_min_s=settings.election_timeout_s,
        election_max_s=settings.election_timeout_s * 2,
        heartbeat_s=settings.election_timeout_s / 6,
        propose_timeout_s=settings.request_timeout_s,
    )


def _coordinator_settings(settings: NodeSettings) -> CoordinatorSettings:
    return CoordinatorSettings(
        limits=Limits(
            window_ms=int(settings.operation_retention_s * 1000),
            retention_revisions=settings.history_retention_revisions,
            retention_ms=int(settings.history_retention_s * 1000),
        ),
        store_timeout_s=settings.store_timeout_s,
        sweep_interval_s=settings.sweep_interval_s,
    )


def _server_settings(settings: NodeSettings, descriptors: int) -> ServerSettings:
    page = Path(__file__).parent / "page"
    return ServerSettings(
        node_id=settings.node_id,
        advertised_url=settings.url,
        incarnation=secrets.token_hex(6),
        http_names=settings.http_names,
        page_dir=page if page.is_dir() else None,
        request_timeout_s=settings.request_timeout_s,
        body_timeout_s=settings.body_timeout_s,
        store_timeout_s=settings.store_timeout_s,
        requests_max=settings.requests_max,
        connections_max=settings.connections_max,
        descriptors_max=descriptors,
        watchers_max=settings.watchers_max,
        memory_cache_bytes=settings.memory_cache_bytes,
    )


class _Backends(Collector):
    """Show what back ends count: they register where their libraries do, beside figures of the
    process.
    """

    def collect(self) -> Iterable[Metric]:
        return (metric for metric in REGISTRY.collect() if metric.name.startswith("acordo_"))


def _counted_by_backends() -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_Backends())
    return registry


def _shared_cache(settings: NodeSettings) -> Cache:
    """Return the cache behind the node's own; with memory:// that would only be a second copy of
    it, so: none.
    """
    return (
        MemoryCache(bytes_max=0) if settings.cache == "memory://" else by_url.cache(settings.cache)
    )


def _transport(settings: NodeSettings, cluster: str, chance: random.Random) -> TransportFactory:
    """Return what makes the transport once the member knows its own node. Raises BadRequest for
    unusable files.
    """
    security = _security(settings)
    routes = {member.id: member.raft_address for member in settings.raft_routes}
    return over_sockets(
        cluster, settings.raft_bind, security, chance=chance, entropy=os.urandom, routes=routes
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


# -------------------------------------------------------------------------- process and its signals


def _most_descriptors() -> int:
    """Raise how many files and sockets this process may open as far as it may, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return DESCRIPTORS_MAX if soft == resource.RLIM_INFINITY else soft


def _listen(host: str, port: int) -> socket.socket:
    """Take the HTTP port before anything else is done. Raises BadRequest("port_in_use" |
    "bad_address").
    """
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(found[0], found[1])
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(found[4])
        listening.listen(1024)  # two processes may bind, only one may listen
    except OSError as exc:
        code = "port_in_use" if isinstance(exc, OSError) and exc.errno == 98 else "bad_address"
        detail = f"HTTP cannot listen on {host}:{port}: {exc.strerror or exc}"
        raise BadRequest(code, detail, allowed="a free port on an address of this machine") from exc
    listening.setblocking(False)
    return listening


def _stop_on_signals(settings: NodeSettings, stop: asyncio.Future[bool]) -> None:
    """Let a signal or the end of standard input begin the drain; a second signal ends the process
    at once.

    `stop` says whether to hand the leadership on: SIGTERM means that this node stops, SIGINT
    (Ctrl-C) and the end of standard input (the runner is gone) that all of them do, and nobody is
    left to take it.
    """
    loop = asyncio.get_running_loop()

    def told(hand_on: bool) -> None:
        if stop.done():
            os._exit(1)
        stop.set_result(hand_on)

    loop.add_signal_handler(signal.SIGTERM, told, True)
    loop.add_signal_handler(signal.SIGINT, told, False)
    if settings.stop_with_stdin:

        def readable() -> None:
            if not os.read(0, 4096):
                loop.remove_reader(0)
                if not stop.done():
                    stop.set_result(False)

        loop.add_reader(0, readable)


def _ended_by(exc: BaseException, settings: NodeSettings) -> int:
    """Say in the log's last line what ended the process; return the exit code that tells the
    supervisor.
    """
    first = exc
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    if isinstance(first, BadRequest):
        return _refuse(first)
    if isinstance(first, BackendUnavailable):
        shown = redacted(settings)
        where = ", ".join(
            f"{name}={shown[name]}" for name in ("ACORDO_STORE", "ACORDO_CACHE", "ACORDO_BROADCAST")
        )
        print(f"error: {first} ({where})", file=sys.stderr)
        return EX_UNAVAILABLE
    _log.critical("a background loop died", error=repr(first), exc_info=exc)
    return EX_SOFTWARE


def _refuse(exc: BadRequest) -> int:
    allowed = f" (allowed: {exc.allowed})" if exc.allowed else ""
    print(f"error: {exc.detail.replace(chr(10), '; ')}{allowed}", file=sys.stderr)
    return EX_CONFIG


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
