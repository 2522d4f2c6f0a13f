"""Listen, find the handler of a request, bound what is worked on, and answer every failure as a
problem document.

Built on aiohttp's low-level server: no router and no middleware stand between a request and its
handler, and the path is taken as it was sent. A request that goes away never cancels a commit.
Stopping drains.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeAlias

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry

from kv.errors import BadRequest, InvariantViolated, KvError, NotApplied, OutcomeUnknown
from kv.ports import Broadcast, Cache, Clock, Consensus, Store
from node.api import (
    asynchronous,
    batch,
    cluster,
    health,
    keys,
    leader,
    ledger,
    legacy,
    listing,
    openapi,
    operations,
    page,
    txn,
    watch,
)
from node.api import scrape as metrics
from node.exchange.exchange import AsyncWrites, Check, Exchange, Load, Rooms, StoreProbe
from node.http.acceptor import Door
from node.http.bodies import Bodies
from node.http.connections import Connection, Connections, body_bytes
from node.http.origin import names_of
from node.http.request_metrics import Metrics
from node.http.turns import Turns
from node.reads.reads import Reads
from node.service_metrics import figures
from node.settings import Settings
from node.watching.watches import Watches
from node.wire.problems import problem_of
from node.writes.lookups import Lookups
from node.writes.writes import Writes

_METHODS: Final = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH"})

REQUESTS_PER_PASS: Final = 256
"""Requests begun in a pass of the loop: however many come at once, liveness is not behind all of
them. Fewer would also cut into what is queued for one Raft command: the groups of writes get
smaller, and each write dearer.
"""

Handler: TypeAlias = Callable[[Exchange], Awaitable[web.StreamResponse]]

log = structlog.get_logger("acordo.node")


@dataclass(frozen=True, slots=True)
class Route:
    """Handlers of one path by method. `always`: also while draining or overloaded. `long`: a
    stream, counted apart.

    `conditions`: conditional headers that its writes heed; with any other they are refused, for a
    condition that is passed over is a write that its client did not ask for.
    """

    template: str
    handlers: dict[str, Handler]
    always: bool = False
    long: bool = False
    conditions: frozenset[str] = frozenset()

    @property
    def allow(self) -> str:
        head = ["HEAD"] if "GET" in self.handlers and not self.long else []
        return ", ".join([*self.handlers, *head, "OPTIONS"])


ONE_KEY: Final = frozenset({"If-Match", "If-None-Match"})
READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})

WHOLE: Final = (
    Route("/v1/kv", {"GET": listing.get}),
    Route("/v1/txn", {"POST": txn.post}),
    Route("/v1/batch", {"POST": batch.post}),
    Route("/v1/async", {"POST": asynchronous.post}),
    Route("/v1/watch", {"GET": watch.get}, long=True),
    Route("/v1/leader", {"GET": leader.get}, always=True),
    Route("/v1/ledger", {"GET": ledger.get}),
    Route("/v1/cluster", {"GET": cluster.get}, always=True),
    Route("/v1/cluster/transfer", {"POST": cluster.transfer}, always=True),
    Route("/v1/cluster/members", {"POST": cluster.add}, always=True),
    Route("/v1/cluster/limits", {"POST": cluster.amend}, always=True),
    Route("/v1/cluster/adopt", {"POST": cluster.adopt}, always=True),
    Route(
        "/kv", {"GET": legacy.get, "PUT": legacy.put, "DELETE": legacy.delete}, conditions=ONE_KEY
    ),
    Route("/health", {"GET": health.health}, always=True),
    Route("/livez", {"GET": health.livez}, always=True),
    Route("/readyz", {"GET": health.readyz}, always=True),
    Route("/metrics", {"GET": metrics.get}, always=True),
    Route("/openapi.json", {"GET": openapi.get}, always=True),
)
"""Routes of one path each."""
BEGUN: Final = (
    (
        "/v1/kv/",
        "",
        Route(
            "/v1/kv/{key}",
            {"GET": keys.get, "PUT": keys.put, "DELETE": keys.delete},
            conditions=ONE_KEY,
        ),
    ),
    (
        "/v1/operations/",
        "",
        Route("/v1/operations/{op_id}", {"GET": operations.get, "POST": operations.post}),
    ),
    (
        "/v1/cluster/members/",
        "/promote",
        Route("/v1/cluster/members/{id}/promote", {"POST": cluster.promote}, always=True),
    ),
    (
        "/v1/cluster/members/",
        "",
        Route("/v1/cluster/members/{id}", {"DELETE": cluster.remove}, always=True),
    ),
)
"""Routes by how their paths begin and end; the first that fits is taken."""
UNKNOWN: Final = Route("(unknown)", {})


class Server:
    """The HTTP side of one node.

    `async with` runs its background work (in the caller's task: a crash there ends the caller),
    `start` listens, `drain` stops admitting and waits for what is held, leaving the block closes
    everything.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        consensus: Consensus,
        store: Store,
        cache: Cache,
        broadcast: Broadcast,
        clock: Clock,
        async_writes: AsyncWrites | None = None,
        checks: Sequence[Check] = (),
        registry: CollectorRegistry | None = None,
    ) -> None:
        """Put the rooms together over ports that the caller opens and closes. `checks` show on
        /readyz too, and what is in `registry` on /metrics.
        """
        reads = Reads(consensus, store, cache, clock, settings)
        writes = Writes(consensus, store, clock, settings)
        self.rooms = Rooms(
            consensus=consensus,
            store=store,
            cache=cache,
            broadcast=broadcast,
            clock=clock,
            settings=settings,
            reads=reads,
            writes=writes,
            lookups=Lookups(consensus, store, clock, settings, reads=reads, writes=writes),
            watches=Watches(consensus, store, settings),
            metrics=Metrics(registry),
            store_probe=StoreProbe(store, consensus, clock),
            load=Load(
                Bodies(
                    settings.body_bytes_held_max, settings.connections_max, settings.body_timeout_s
                )
            ),
            names=names_of(settings.advertised_url, settings.http_names),
            openapi=openapi.document(settings.version, settings.advertised_url),
            async_writes=async_writes,
            checks=checks,
        )
        self.rooms.metrics.add(lambda: figures(self.rooms))
        self._whole = {route.template: route for route in WHOLE}
        page_dir = settings.page_dir or Path(__file__).parent / "page"
        for path, handler in page.files(page_dir).items():
            self._whole[path] = Route(
                "/" if path == "/" else "/page/{file}", {"GET": handler}, always=True
            )
        self._tasks = asyncio.TaskGroup()
        self._opened = AsyncExitStack()
        self._low: Connections | None = None
        self._runner: web.ServerRunner | None = None
        self._door: Door | None = None
        self._turns = Turns(REQUESTS_PER_PASS)
        self._idle = asyncio.Event()
        self._idle.set()
        self.port = 0
        """Where it listens, once started."""

    async def __aenter__(self) -> Self:
        await self._opened.enter_async_context(self._tasks)
        await self._opened.enter_async_context(self.rooms.reads)
        self._low = self.rooms.load.connections = Connections(self.handle, self.rooms.settings)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.rooms.load.draining = True
        self.rooms.watches.close()
        if self._door is not None:
            self._door.close()
        if self._runner is not None:
            # first of all: nobody asks the rooms any more
            self._opened.push_async_callback(self._runner.cleanup)
        await self._opened.__aexit__(kind, error, trace)

    async def start(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        sock: socket.socket | None = None,
        tls: ssl.SSLContext | None = None,
        backlog: int = 1024,
    ) -> None:
        """Listen. Raises BadRequest("port_in_use") when the address is taken."""
        assert self._low is not None, "enter the server first"
        self._runner = web.ServerRunner(self._low, shutdown_timeout=1.0)
        await self._runner.setup()
        if sock is None:
            try:
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                sock = socket.create_server((host, port), family=family, backlog=backlog)
            except OSError as exc:
                told = f"cannot listen on {host}:{port}: {exc}"
                raise BadRequest("port_in_use", told, allowed="a free port") from exc
        self.port = sock.getsockname()[1]
        self._door = self._low.door = Door(sock, self._low, tls=tls)
        self._door.open()

    async def drain(self, *, notice_s: float = 0.0, timeout_s: float = 15.0) -> bool:
        """Turn unready, wait `notice_s` for balancers to see it, refuse new work (503), finish what
        is held.

        Return whether all of it was finished within `timeout_s`.
        """
        load = self.rooms.load
        load.leaving = True
        if notice_s > 0:
            await asyncio.sleep(notice_s)
        load.draining = True
        self.rooms.watches.close()
        if self._door is not None:
            self._door.close()
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    # ------------------------------------------------------------------------------------- requests

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        rooms = self.rooms
        began = rooms.clock.monotonic()
        method = request.method
        target = request.raw_path
        path, _, query = (target if target[:1] == "/" else _origin_form(target)).partition("?")
        route, rest = self._find(path)
        x = Exchange(rooms, request, method, path, rest, query, began)
        if isinstance(request.protocol, Connection):
            request.protocol.connections.busy(request.protocol)
        response = await self._answer(x, route)
        if (
            not x.mutation
            and self._low is not None
            and not self._low.has_room(body_bytes(response))
        ):
            response = self._unread(x)
        timing = rooms.metrics.timing(route.template, method if method in _METHODS else "other")
        timing.note(response.status, None if route.long else rooms.clock.monotonic() - began)
        return response

    async def _answer(self, x: Exchange, route: Route) -> web.StreamResponse:
        load = self.rooms.load
        handler = route.handlers.get(x.method) or self._unhandled(route, x.method)
        if not route.always and (load.draining or load.at_work >= self.rooms.settings.requests_max):
            return self._full(x)
        x.always = route.always
        if not route.long:
            load.requests += 1
            self._idle.clear()
        try:
            if not route.always and not self._turns.taken():
                await self._turns.wait()
            x.heed_framing()
            x.heed_origin(reads=x.method in READING, always=route.always)
            x.heed_timeout()
            if x.method not in READING:
                x.refuse_conditions(route.conditions)
            return await handler(x)
        except KvError as exc:
            return self._failed(x, exc)
        except TimeoutError:
            return self._failed(x, OutcomeUnknown("no answer in time", op_id=x.op_id))
        except ConnectionError:
            return x.problem("bad_http", "the connection was lost")
        except Exception as exc:  # whatever it is, the client gets a problem document, and an unknown one if need be
            log.exception("request failed", method=x.method, path=x.path[:200], error=repr(exc))
            return x.refuse(
                problem_of(KvError("an error inside"), mutation=x.mutation, op_id=x.op_id)
            )
        finally:
            x.release()
            if not route.long:
                load.requests -= 1
                if load.requests == 0:
                    self._idle.set()

    def _find(self, path: str) -> tuple[Route, str]:
        """Return the route of a raw path, and what stands in the place of its parameter."""
        for begin, end, route in BEGUN:
            if path.startswith(begin) and path.endswith(end):
                return route, path[len(begin) :]
        return self._whole.get(path, UNKNOWN), ""

    def _unhandled(self, route: Route, method: str) -> Handler:
        """Return what answers a path or method that nobody serves."""
        if route is UNKNOWN:
            return _no_such_path
        get = route.handlers.get("GET")
        if method == "HEAD" and get is not None and not route.long:
            return get

        async def refuse(x: Exchange) -> web.Response:
            more = {"Allow": route.allow}
            if method == "OPTIONS":
                return x.reply(204, b"", "text/plain", more=more)
            detail = f"{method[:20]} does not work on {route.template}"
            return x.problem("method_not_allowed", detail, more=more, allowed=route.allow)

        return refuse

    def _full(self, x: Exchange) -> web.Response:
        load = self.rooms.load
        load.refused += 1
        if load.draining:
            response = x.problem("draining", "this node is stopping")
            response.force_close()
            return response
        return x.problem("overloaded", f"{load.at_work} requests are being worked on")

    def _unread(self, x: Exchange) -> web.Response:
        """Refuse a read whose answer would wait beside too many that nobody takes."""
        self.rooms.load.refused += 1
        return x.problem("overloaded", "too many bytes of answers wait for their readers")

    def _failed(self, x: Exchange, error: KvError) -> web.Response:
        document = problem_of(error, mutation=x.mutation, op_id=x.op_id)
        if isinstance(error, InvariantViolated):
            log.error("invariant violated", error=str(error))
            self._tasks.create_task(_crash(error))
        return x.refuse(
            document, retry_after_s=error.retry_after_s if isinstance(error, NotApplied) else 1.0
        )


def _origin_form(target: str) -> str:
    """Return path and query of a target that names scheme and host too (RFC 9112 section 3.2.2)."""
    _, scheme, rest = target.partition("://")
    _, slash, path = rest.partition("/")
    return slash + path if scheme else target


async def _no_such_path(x: Exchange) -> web.Response:
    return x.problem(
        "unknown_path", f"{x.path[:200]!r} is no path of this server", allowed="see /openapi.json"
    )


async def _crash(error: InvariantViolated) -> None:
    """End the process by the task group: the supervisor starts it anew."""
    raise error
