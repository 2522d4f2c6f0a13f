"""Serve HTTP: listen, route each request to its handler, bound the work in progress, and answer
every failure with a problem document.

It is built on aiohttp's low-level server: no router and no middleware run between a request and its
handler, and the path is used as it was sent. A client that disconnects never cancels a commit.
Stopping drains first.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry

from kv.errors import (
    BadRequest,
    InvariantViolated,
    KvError,
    NotAllowed,
    NotApplied,
    NotSignedIn,
    OutcomeUnknown,
)
from kv.ports import Broadcast, Cache, Clock, Consensus, MemberStore, Store
from node.access.access import Access, Need
from node.access.audit import Audit
from node.access.changes import Changes
from node.access.granted import gate
from node.access.sessions import Sessions
from node.access.webhooks import WebhookRecords
from node.api.openapi import document as openapi
from node.api.operating.service_metrics import service_metrics
from node.api.routes import READING, Route, Routes
from node.exchange.exchange import Exchange
from node.http.acceptor import Acceptor
from node.http.allowances import Allowances, RateLimited
from node.http.bodies import Bodies
from node.http.connections import HttpConnection, HttpConnections, refusal
from node.http.handshakes import Handshakes
from node.http.load import NodeLoad
from node.http.origin import names_of, of_this_machine
from node.http.request_metrics import RequestMetrics
from node.http.turns import Turns
from node.http.whole import body_bytes
from node.judging.store_kind import reader_of
from node.readiness.readiness import NodeReadiness, ReadinessCheck
from node.readiness.store_probe import StoreProbe
from node.reads.reads import Reads
from node.services import AsyncWrites, NodeServices
from node.settings import ServerSettings
from node.watching.watches import Watches
from node.wire.problems import problem, problem_of
from node.writes.leases import Leases
from node.writes.lookups import Lookups
from node.writes.take_backs import TakeBacks
from node.writes.writes import Writes

_METHODS: Final = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH"})

REQUESTS_PER_PASS: Final = 256
"""Requests started per pass of the event loop. The bound keeps a burst of requests from delaying
the liveness endpoints. A smaller bound would also shrink what is queued for one Raft command: write
groups would become smaller and each write more expensive.
"""

log = structlog.get_logger("acordo.node")


def services_of(
    settings: ServerSettings,
    *,
    consensus: Consensus,
    store: Store | None,
    own: MemberStore | None,
    cache: Cache,
    broadcast: Broadcast,
    clock: Clock,
    async_writes: AsyncWrites | None,
    checks: Sequence[ReadinessCheck],
    registry: CollectorRegistry | None,
) -> NodeServices:
    """Build the services of a node on ports that the caller opens and closes."""
    reader = reader_of(store, own)
    reads = Reads(consensus, store, cache, clock, settings, own=own)
    writes = Writes(consensus, store, clock, settings)
    lookups = Lookups(consensus, store, clock, settings, reads=reads, writes=writes, own=own)
    leases = Leases(consensus, reader, clock, settings, reads=reads, writes=writes)
    bodies = Bodies(settings.body_bytes_held_max, settings.connections_max, settings.body_timeout_s)
    load = NodeLoad(bodies)
    access = Access(consensus, reader, clock, settings, shared=store is not None)
    changes = Changes(consensus, access, writes)
    probe = StoreProbe(reader, consensus, clock)
    return NodeServices(
        consensus=consensus,
        store=reader,
        shared=store,
        own=own,
        cache=cache,
        broadcast=broadcast,
        clock=clock,
        settings=settings,
        reads=reads,
        writes=writes,
        lookups=lookups,
        leases=leases,
        take_backs=TakeBacks(clock, settings, writes=writes, lookups=lookups, leases=leases),
        watches=Watches(consensus, store, settings, own=own),
        metrics=RequestMetrics(registry, slow_s=settings.slow_request_s),
        readiness=NodeReadiness(consensus, probe, cache, broadcast, load, checks=checks),
        load=load,
        allowances=Allowances(settings),
        host_names=names_of(settings.advertised_url, settings.http_names),
        openapi=openapi.document(settings.version, settings.advertised_url),
        access=access,
        changes=changes,
        audit=Audit(access, writes, settings.node_id),
        webhooks=WebhookRecords(access, changes),
        sessions=Sessions(access, changes),
        async_writes=async_writes,
    )


class Server:
    """The HTTP server of one node.

    `async with` runs its background work in the caller's task group, so a crash there ends the
    caller. `start` listens, `drain` stops admitting requests and waits for those in progress, and
    leaving the block closes everything.
    """

    def __init__(
        self,
        settings: ServerSettings,
        *,
        consensus: Consensus,
        store: Store | None = None,
        own: MemberStore | None = None,
        cache: Cache,
        broadcast: Broadcast,
        clock: Clock,
        async_writes: AsyncWrites | None = None,
        checks: Sequence[ReadinessCheck] = (),
        registry: CollectorRegistry | None = None,
    ) -> None:
        """Build the services on ports that the caller opens and closes: either the `store` that
        members share or this member's `own`. `checks` also appear on /readyz, and the metrics in
        `registry` on /metrics.
        """
        self.services = services_of(
            settings,
            consensus=consensus,
            store=store,
            own=own,
            cache=cache,
            broadcast=broadcast,
            clock=clock,
            async_writes=async_writes,
            checks=checks,
            registry=registry,
        )
        self.services.metrics.add(lambda: service_metrics(self.services))
        self._routes = Routes(
            settings.page_dir or Path(__file__).parent / "page", etcd=settings.etcd
        )
        self._tasks = asyncio.TaskGroup()
        self._opened = AsyncExitStack()
        self._low: HttpConnections | None = None
        self._runner: web.ServerRunner | None = None
        self._acceptor: Acceptor | None = None
        self._turns = Turns(REQUESTS_PER_PASS)
        self._idle = asyncio.Event()
        self._idle.set()
        self._knowing: asyncio.Task[None] | None = None
        self.port = 0
        """The port it listens on; 0 until `start` returns."""

    async def __aenter__(self) -> Self:
        await self._opened.enter_async_context(self._tasks)
        await self._opened.enter_async_context(self.services.reads)
        await self._opened.enter_async_context(self.services.take_backs)
        await self.services.access.load()
        self._knowing = self._tasks.create_task(self.services.access.run())
        self._low = self.services.load.connections = HttpConnections(
            self.handle,
            self.services.settings,
            self.services.allowances.connections,
            self._routes.may_be_direct,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.services.load.draining = True
        self.services.watches.close()
        if self._acceptor is not None:
            self._acceptor.close()
        if self._runner is not None:
            # The runner is pushed last so that it is closed first. Otherwise a request that still
            # arrives would find its services closed.
            self._opened.push_async_callback(self._runner.cleanup)
        self.services.access.close()
        if self._knowing is not None:
            self._knowing.cancel()
        await self._opened.__aexit__(kind, error, trace)

    async def start(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        sock: socket.socket | None = None,
        tls: Callable[[], ssl.SSLContext] | None = None,
        backlog: int = 1024,
    ) -> None:
        """Start listening. `tls` returns the context of the next connection; None: plain HTTP.

        Raises BadRequest("port_in_use") when the address is taken.
        """
        assert self._low is not None, "enter the server first"
        self._runner = web.ServerRunner(self._low, shutdown_timeout=1.0)
        await self._runner.setup()
        if sock is None:
            try:
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                sock = socket.create_server((host, port), family=family, backlog=backlog)
            except OSError as exc:
                detail = f"cannot listen on {host}:{port}: {exc}"
                raise BadRequest("port_in_use", detail, allowed="a free port") from exc
        self.port = sock.getsockname()[1]
        handshakes = None
        if tls is not None:
            plain = problem("bad_http", "this port speaks TLS", allowed="https:// in the URL")
            handshakes = Handshakes(tls, refusal(self.services.settings.node_id, plain))
        self._acceptor = self._low.acceptor = Acceptor(sock, self._low, handshakes=handshakes)
        self._acceptor.open()

    async def drain(self, *, notice_s: float = 0.0, timeout_s: float = 15.0) -> bool:
        """Report not ready, wait `notice_s` seconds so that load balancers notice, then refuse new
        work (503) and finish the requests in progress.

        Returns whether all of them finished within `timeout_s` seconds.
        """
        load = self.services.load
        load.leaving = True
        if notice_s > 0:
            await asyncio.sleep(notice_s)
        load.draining = True
        self.services.watches.close()
        if self._acceptor is not None:
            self._acceptor.close()
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
                await self.services.take_backs.wait_done()
        except TimeoutError:
            return False
        return True

    # ------------------------------------------------------------------------------------- requests

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        services = self.services
        began = services.clock.monotonic()
        method = request.method
        target = request.raw_path
        path, _, query = (target if target[:1] == "/" else _origin_form(target)).partition("?")
        route, rest = self._routes.find(path)
        x = Exchange(services, request, method, path, rest, query, began)
        x.gateway, x.shared = route.gateway, route.shared and method == "GET"
        if isinstance(request.protocol, HttpConnection):
            request.protocol.connections.busy(request.protocol)
        response = await self._answer(x, route)
        if (
            not x.mutation
            and self._low is not None
            and not self._low.has_room(body_bytes(response))
        ):
            response = self._refuse_unread(x)
        timing = services.metrics.timing(route.template, method if method in _METHODS else "other")
        took_s = None if route.long else services.clock.monotonic() - began
        timing.note(response.status, took_s, x)
        return response

    async def _answer(self, x: Exchange, route: Route) -> web.StreamResponse:
        load = self.services.load
        if not route.always and (
            load.draining or load.at_work >= self.services.settings.requests_max
        ):
            return self._refuse_new(x)
        x.always = route.always
        if not route.long:
            load.requests += 1
            self._idle.clear()
        try:
            if not route.always and not self._turns.taken():
                await self._turns.wait()
            await self._admit(x, route)
            return await self._handled(x, route)
        except KvError as exc:
            return self._failed(x, exc)
        except TimeoutError:
            return self._failed(x, OutcomeUnknown("no answer in time", op_id=x.op_id))
        except ConnectionError:
            return x.problem("bad_http", "the connection was lost")
        except Exception as exc:
            # Every failure ends in a problem document that says "unknown" where it has to. After an
            # empty 500 the client would have to guess whether its write took effect.
            log.exception(
                "request failed",
                method=x.method,
                path=x.path[:200],
                error=repr(exc),
                request_id=x.request_id,
            )
            return x.refuse(
                problem_of(KvError("an error inside"), mutation=x.mutation, op_id=x.op_id)
            )
        finally:
            x.release()
            self._leave(x, route)
            if not route.long:
                load.requests -= 1
                if load.requests == 0:
                    self._idle.set()

    async def _admit(self, x: Exchange, route: Route) -> None:
        """Screen a request and count it against what its client may have. Whoever tries to sign in
        and fails, or asks for what it may not, is counted too, by address. Raises BadRequest,
        NotApplied.
        """
        try:
            await self._screen(x, route)
        except (NotSignedIn, NotAllowed):
            self._enter(x, route)
            raise
        self._enter(x, route)
        if x.services.grant is not None and route.recorded(x.method):
            await self.services.audit.record(
                x.services.grant.rights,
                x.method,
                x.path,
                request_id=x.request_id,
                left_s=x.left_s,
            )

    async def _screen(self, x: Exchange, route: Route) -> None:
        """Refuse what must not be worked on, and give the request the services that its caller may
        use. Raises BadRequest, among them NotSignedIn and NotAllowed, and NotApplied.
        """
        x.screen(reads=x.method in READING, always=route.always, conditions=route.conditions)
        if self.services.settings.closed:
            await self._refuse_stranger(x, route)
        access = self.services.access
        if not access.guards and not route.long:
            if access.current or x.method in READING or route.needs is Need.NOTHING:
                return
            await access.wait_current(x.left_s)
            if not access.guards:
                return
        if route.needs is not Need.NOTHING:
            await access.wait_known(x.left_s)
        given = x.request.headers.get("Authorization")
        session = x.session(reads=x.method in READING) if route.needs is not Need.NOTHING else None
        x.services = gate(self.services, route.needs, given, certificate_names(x.request), session)

    async def _handled(self, x: Exchange, route: Route) -> web.StreamResponse:
        """Return the handler's answer. What was read for whoever came before anything of access
        stood is not told if it stands by now. Raises KvError.
        """
        response = await route.handler(x.method)(x)
        access = self.services.access
        if access.guards and x.services.grant is None and route.needs is not Need.NOTHING:
            await access.wait_known(x.left_s)
            if access.guards and not x.mutation:
                raise NotApplied("starting", "access was changed meanwhile: ask again")
        return response

    async def _refuse_stranger(self, x: Exchange, route: Route) -> None:
        """Refuse a request of another machine while nobody has to sign in. Raises BadRequest,
        NotApplied.
        """
        transport = x.request.transport
        local = None if transport is None else transport.get_extra_info("sockname")
        if route.needs is Need.NOTHING or of_this_machine(
            x.request.remote or "", str(local[0]) if isinstance(local, tuple) else ""
        ):
            return
        access = self.services.access
        if access.guards:
            await access.wait_known(x.left_s)
        if access.policy is None or not access.policy.on:
            raise BadRequest(
                "not_open",
                "access is not controlled here yet, and this comes from another machine",
                allowed="tokens, certificates of clients, or ACORDO_HTTP_OPEN",
            )

    def _enter(self, x: Exchange, route: Route) -> None:
        """Count a request against what its client may have. Raises RateLimited."""
        allowances = self.services.allowances
        if allowances.bounded and not route.always:
            client, now_s = x.client, self.services.clock.monotonic()
            allowances.enter(client, stream=route.long, now_s=now_s)
            x.entered_as = client

    def _leave(self, x: Exchange, route: Route) -> None:
        if x.entered_as is not None:
            self.services.allowances.leave(x.entered_as, stream=route.long)

    def _refuse_new(self, x: Exchange) -> web.Response:
        load = self.services.load
        load.refused += 1
        if load.draining:
            response = x.problem("draining", "this node is stopping")
            response.force_close()
            return response
        return x.problem("overloaded", f"{load.at_work} requests are being worked on")

    def _refuse_unread(self, x: Exchange) -> web.Response:
        """Refuse a read because too many bytes of answers already wait for slow readers."""
        self.services.load.refused += 1
        return x.problem("overloaded", "too many bytes of answers wait for their readers")

    def _failed(self, x: Exchange, error: KvError) -> web.Response:
        document = problem_of(error, mutation=x.mutation, op_id=x.op_id)
        if isinstance(error, InvariantViolated):
            log.error("invariant violated", error=str(error))
            self._tasks.create_task(_crash(error))
        return x.refuse(
            document,
            retry_after_s=error.retry_after_s if isinstance(error, NotApplied) else 1.0,
            more=error.headers if isinstance(error, RateLimited) else None,
        )


def certificate_names(request: web.BaseRequest) -> tuple[str, ...]:
    """Return the names in the certificate that the client of a request proved to have."""
    protocol = request.protocol
    return protocol.certificate_names if isinstance(protocol, HttpConnection) else ()


def _origin_form(target: str) -> str:
    """Return the path and query of a target in absolute form, with scheme and host (RFC 9112
    section 3.2.2).
    """
    _, scheme, rest = target.partition("://")
    _, slash, path = rest.partition("/")
    return slash + path if scheme else target


async def _crash(error: InvariantViolated) -> None:
    """End the process by failing its task group; the supervisor restarts it."""
    raise error
