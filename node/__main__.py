"""Run `python -m node`: read the settings, build the parts, serve, drain. Together with
`node/startup` it is the composition root of a node.

It makes no decision that belongs to a part.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

import structlog
import uvloop

from cluster import logs
from cluster.directory import claim_node, locked
from cluster.settings.loading import load, redacted
from cluster.settings.node import NodeSettings
from cluster.settings.values import PREFIX
from coordinator.consensus import Coordinator
from coordinator.log import Log, Replica
from coordinator.machine.book import LEVEL
from coordinator.raft.member import Member
from coordinator.raft.sockets import TransportFactory
from coordinator.raft.storage.real_disk import RealDisk
from kv.errors import BadRequest, KvError
from kv.names import UNNAMED
from node.http.tls import HttpTls
from node.readiness.readiness import ReadinessCheck
from node.server import Server
from node.startup import verifying
from node.startup.backends import (
    Backends,
    MemberNetwork,
    SystemClock,
    backends_of,
    http_tls,
    new_rng,
    registry_of_backends,
)
from node.startup.process import (
    exit_code_of,
    raise_descriptors,
    refuse_to_start,
    stop_on_signals,
    take_port,
    tune_interpreter,
)
from node.startup.renewal import Renewable, Renewal
from node.startup.restoring import command as restoring
from node.startup.settings import (
    coordinator_settings,
    first_members,
    first_members_digest,
    raft_settings,
    server_settings,
)
from node.startup.store_wait import open_claimed, store_opened

TRANSFER_TIMEOUT_S: Final = 2.0
"""How long a stopping leader tries to transfer its leadership."""
CLOSE_TIMEOUT_S: Final = 10
"""How long the parts may take to close after the drain; then the process is killed."""

_log = structlog.get_logger("acordo.node")


def main(argv: list[str]) -> int:
    """Run a node until it is asked to stop; return its exit code."""
    if restoring.asked(argv):
        return restored(argv)
    if verifying.OPTION in argv:
        return verified(argv)
    shown = "--print-config" in argv
    try:
        settings = load(
            NodeSettings, [a for a in argv if a != "--print-config"], prog="python -m node"
        )
    except BadRequest as exc:
        return refuse_to_start(exc)
    if shown:
        print(json.dumps(redacted(settings), indent=2))
        return 0
    # Stored values and logs stay private even if the data directory is readable by others.
    os.umask(0o077)
    faulthandler.enable()
    logs.configure(settings.log_format, settings.log_level, node=settings.node_id)
    # aiormq's errors reach us as exceptions; its own log lines would report each of them twice.
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)
    if settings.exposed and settings.http_open:
        _log.warning(
            "HTTP is open to other machines, by ACORDO_HTTP_OPEN: what keeps strangers out stands "
            "elsewhere, unless access is controlled",
            host=settings.http_host, https=settings.http_tls_cert_file is not None,
        )  # fmt: skip
    try:
        descriptors = raise_descriptors()
        listening = take_port(settings.http_host, settings.http_port)
        cluster = (
            claim_node(
                settings.data_dir, settings.cluster_id, settings.node_id, settings.kind
            ).cluster_id
            or UNNAMED
        )
        if cluster == UNNAMED and not settings.broadcast.startswith("local"):
            _log.warning(
                "this cluster has no name, and another one without a name at the same broker "
                "would hear its messages",
                setting="ACORDO_CLUSTER_ID",
            )
        with locked(settings.data_dir, "node"):
            uvloop.run(_serve(settings, cluster, listening, descriptors))
    except Exception as exc:  # noqa: BLE001 - the last place: whatever it is ends the process, with its name
        return exit_code_of(exc, settings)
    return 0


def verified(argv: list[str]) -> int:
    """Check this node's directory at rest; return 1 if it is not sound."""
    try:
        return 0 if asyncio.run(verifying.verify(argv)) else 1
    except BadRequest as exc:
        return refuse_to_start(exc)
    except KvError as exc:
        return refuse_to_start(BadRequest("bad_store", str(exc)))


def restored(argv: list[str]) -> int:
    """Make this node's directory out of a backup; return the exit code."""
    os.umask(0o077)
    try:
        restoring.main(argv)
    except BadRequest as exc:
        return refuse_to_start(exc)
    except OSError as exc:
        detail = f"{exc.filename or 'the backup'}: {exc.strerror or exc}"
        return refuse_to_start(BadRequest("bad_file", detail))
    return 0


async def _serve(
    settings: NodeSettings, cluster: str, listening: socket.socket, descriptors: int
) -> None:
    """Open the parts from the lowest layer to the highest, serve until a signal or a failure, and
    close them in reverse order.
    """
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[bool] = loop.create_future()
    died: asyncio.Future[None] = loop.create_future()
    stop_on_signals(settings, stop)
    backends = backends_of(settings, cluster)
    network = MemberNetwork(settings, cluster, new_rng())

    def fatal(exc: BaseException) -> None:
        if not died.done():
            died.set_exception(exc)

    tls = http_tls(settings)
    renewal = _renewal_of(network, tls)

    async with AsyncExitStack() as stack:
        if not await store_opened(
            lambda: open_claimed(stack, backends, settings, cluster),
            settings,
            listening,
            stop,
            None if tls is None else tls.context,
        ):
            return
        await stack.enter_async_context(backends.cache)
        await stack.enter_async_context(backends.broadcast)
        if backends.async_writes is not None:
            await stack.enter_async_context(backends.async_writes)
        disk = RealDisk(settings.data_dir / "raft")
        stack.callback(disk.close)
        member = _member_of(settings, cluster, disk, network, fatal)
        coordinator = _coordinator_of(settings, cluster, member, backends)
        await stack.enter_async_context(coordinator)
        server = _server_of(settings, descriptors, coordinator, backends, renewal)
        await stack.enter_async_context(server)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        stack.callback(tasks.create_task(renewal.run()).cancel)
        await server.start(sock=listening, tls=None if tls is None else lambda: tls.context)
        tune_interpreter()
        _log.info("serving", **_shown(settings, server.services.settings.version))
        await asyncio.wait((stop, died), return_when=asyncio.FIRST_COMPLETED)
        if died.done():
            died.result()
        # From here on the alarm ends the process even if something hangs, such as a part that does
        # not close or a client that never reads its answer.
        signal.alarm(int(settings.drain_notice_s + settings.drain_timeout_s) + CLOSE_TIMEOUT_S)
        await _drain(settings, server, coordinator, hand_on=stop.result())
    _log.info("stopped")


def _renewal_of(network: MemberNetwork, tls: HttpTls | None) -> Renewal:
    """Return what takes changed certificates and secrets over while the node runs."""
    renewal = Renewal()
    if network.files:
        renewal.add(Renewable("members", network.files, network.renew), network.certificates)
    if tls is not None:
        files = [file for file in tls.files[:3] if file is not None]
        renewal.add(Renewable("HTTPS", files, tls.renew), (tls.files.cert, tls.files.client_ca))
    return renewal


def _shown(settings: NodeSettings, version: str) -> dict[str, object]:
    """Return what the line says with which a node begins to serve: its version, and every setting
    that was given. Passwords are hidden.
    """
    shown = redacted(settings)
    return {
        "url": settings.url,
        "version": version,
        "feature_level": LEVEL,
        "kind": settings.kind,
        "store": shown["ACORDO_STORE"],
        "fsync": settings.fsync,
        "settings": {
            name: value
            for name, value in shown.items()
            if name.removeprefix(PREFIX).lower() in settings.model_fields_set
        },
    }


def _member_of(
    settings: NodeSettings,
    cluster: str,
    disk: RealDisk,
    transport: TransportFactory,
    fatal: Callable[[BaseException], None],
) -> Callable[[Replica], Log]:
    """Return a function that creates the member of the replicated log once the coordinator
    exists.
    """

    def member(replica: Replica) -> Log:
        return Member(
            settings.node_id,
            first_members(settings),
            cluster=cluster,
            replica=replica,
            disk=disk,
            transport=transport,
            clock=SystemClock(asyncio.get_running_loop()),
            rng=new_rng(),
            on_fatal=fatal,
            settings=raft_settings(settings),
        )

    return member


def _coordinator_of(
    settings: NodeSettings, cluster: str, member: Callable[[Replica], Log], backends: Backends
) -> Coordinator:
    return Coordinator(
        node=settings.node_id,
        url=settings.url,
        log=member,
        store=backends.store,
        own=backends.own,
        broadcasts=not settings.broadcast.startswith("local"),
        broadcast=backends.broadcast,
        clock=SystemClock(asyncio.get_running_loop()),
        rng=new_rng(),
        settings=coordinator_settings(settings),
        entropy=os.urandom,
        members=first_members_digest(settings),
        cluster=cluster,
    )


def _server_of(
    settings: NodeSettings,
    descriptors: int,
    coordinator: Coordinator,
    backends: Backends,
    renewal: Renewal,
) -> Server:
    broker = backends.async_writes
    checks = [ReadinessCheck("credentials", False, renewal.trouble)]
    if broker is not None:
        checks.append(ReadinessCheck("async", False, broker.trouble))
    registry = registry_of_backends()
    registry.register(renewal)
    return Server(
        server_settings(settings, descriptors),
        consensus=coordinator,
        store=backends.store,
        own=backends.own,
        cache=backends.cache,
        broadcast=backends.broadcast,
        clock=SystemClock(asyncio.get_running_loop()),
        async_writes=broker,
        checks=checks,
        registry=registry,
    )


async def _drain(
    settings: NodeSettings, server: Server, coordinator: Coordinator, *, hand_on: bool
) -> None:
    """Report not ready, transfer the leadership, and finish the requests in progress."""
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
