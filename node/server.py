"""Listen, find the handler of a request, bound what is worked on, and answer every failure as a problem document.

Built on aiohttp's low-level server: no router and no middleware stand between a request and its handler, and the path
is taken as it was sent. A request that goes away never cancels a commit. Stopping drains.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeAlias

import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from kv.errors import AcordoError, BadRequest, InvariantViolated, NotApplied
from kv.ports import Broadcast, Cache, Clock, Consensus, Store
from node.api import health, keys, leader, legacy
from node.exchange import AsyncWrites, Check, Exchange, Rooms, StoreProbe
from node.problems import CONTENT_TYPE, problem, problem_of
from node.reads import Reads
from node.settings import Settings
from node.wire import encode
from node.writes import Writes

HEAD_BYTES_MAX: Final = 16 * 1024
"""Of one line of a request's head: a key of 1 KB is 3 KB percent-encoded, a page token as much again."""
LINGER_S: Final = 2.0
"""How long an unwanted body is read and thrown away, so that its sender sees the answer."""

Handler: TypeAlias = Callable[[Exchange], Awaitable[web.StreamResponse]]

log = structlog.get_logger("acordo.node")


class Route(NamedTuple):
    """Handlers of one path by method. `always`: also while draining or overloaded."""

    template: str
    handlers: dict[str, Handler]
    always: bool = False

    @property
    def allow(self) -> str:
        return ", ".join([*self.handlers, *(["HEAD"] if "GET" in self.handlers else []), "OPTIONS"])


def routes() -> tuple[dict[str, Route], tuple[tuple[str, Route], ...]]:
    """Return the routes by whole path, and by beginning."""
    whole = (
        Route("/kv", {"GET": legacy.get, "PUT": legacy.put, "DELETE": legacy.delete}),
        Route("/health", {"GET": health.health}, always=True),
        Route("/livez", {"GET": health.livez}, always=True),
        Route("/readyz", {"GET": health.readyz}, always=True),
        Route("/v1/leader", {"GET": leader.get}, always=True),
    )
    begun = (("/v1/kv/", Route("/v1/kv/{key}", {"GET": keys.get, "PUT": keys.put, "DELETE": keys.delete})),)
    return {route.template: route for route in whole}, begun


class Server:
    """The HTTP side of one node.

    `async with` runs its background work (in the caller's task: a crash there ends the caller), `start` listens,
    `drain` stops admitting and waits for what is held, leaving the block closes everything.
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
    ) -> None:
        """Put the rooms together over ports that the caller opens and closes."""
        self.rooms = Rooms(
            consensus=consensus,
            store=store,
            cache=cache,
            broadcast=broadcast,
            clock=clock,
            settings=settings,
            reads=Reads(consensus, store, cache, clock, settings),
            writes=Writes(consensus, store, clock, settings),
            store_probe=StoreProbe(store, clock),
            async_writes=async_writes,
            checks=checks,
        )
        self._whole, self._begun = routes()
        self._tasks = asyncio.TaskGroup()
        self._low: _LowServer | None = None
        self._runner: web.ServerRunner | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self.port = 0
        """Where it listens, once started."""

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        await self.rooms.reads.__aenter__()
        settings = self.rooms.settings
        self._low = _LowServer(
            self.handle,
            node_id=settings.node_id,
            access_log=None,
            keepalive_timeout=settings.keepalive_timeout_s,
            max_line_size=HEAD_BYTES_MAX,
            max_field_size=HEAD_BYTES_MAX,
            lingering_time=LINGER_S,
            auto_decompress=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._runner is not None:
                await self._runner.cleanup()
        finally:
            await self.rooms.reads.__aexit__(kind, error, trace)
            await self._tasks.__aexit__(kind, error, trace)

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
        runner = web.ServerRunner(self._low, shutdown_timeout=1.0)
        await runner.setup()
        self._runner = runner
        site: web.BaseSite
        if sock is not None:
            site = web.SockSite(runner, sock, ssl_context=tls, backlog=backlog)
        else:
            site = web.TCPSite(runner, host, port, ssl_context=tls, backlog=backlog, reuse_address=True)
        try:
            await site.start()
        except OSError as exc:
            raise BadRequest("port_in_use", f"cannot listen on {host}:{port}: {exc}", allowed="a free port") from exc
        self.port = runner.addresses[0][1]

    async def drain(self, *, notice_s: float = 0.0, timeout_s: float = 15.0) -> bool:
        """Turn unready, wait `notice_s` for balancers to see it, refuse new work (503), finish what is held.

        Return whether all of it was finished within `timeout_s`.
        """
        load = self.rooms.load
        load.leaving = True
        if notice_s > 0:
            await asyncio.sleep(notice_s)
        load.draining = True
        if self._runner is not None:
            for site in list(self._runner.sites):
                await site.stop()
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    # ----------------------------------------------------------------------------------------------------- requests

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        rooms, load = self.rooms, self.rooms.load
        method = request.method
        path, _, query = request.raw_path.partition("?")
        route, rest = self._find(path)
        x = Exchange(rooms, request, method, path, rest, query, rooms.clock.monotonic())
        handler = route.handlers.get(method) if route is not None else None
        if route is None or handler is None:
            handler = self._unhandled(route, method)
        elif not route.always and (load.draining or load.requests >= rooms.settings.requests_max):
            return self._full(x)
        load.requests += 1
        self._idle.clear()
        try:
            x.heed_timeout()
            return await handler(x)
        except AcordoError as exc:
            return self._failed(x, exc)
        except ConnectionError:
            return x.problem("bad_http", "the connection was lost")
        except Exception as exc:  # whatever it is, the client gets a problem document, and an unknown one if need be
            log.exception("request failed", method=method, path=path[:200], error=repr(exc))
            return x.refuse(problem_of(AcordoError("an error inside"), mutation=x.mutation, op_id=x.op_id))
        finally:
            x.release()
            load.requests -= 1
            if load.requests == 0:
                self._idle.set()

    def _find(self, path: str) -> tuple[Route | None, str]:
        """Return the route of a raw path, and what follows its own part."""
        for begin, route in self._begun:
            if path.startswith(begin):
                return route, path[len(begin) :]
        return self._whole.get(path), ""

    def _unhandled(self, route: Route | None, method: str) -> Handler:
        """Return what answers a path or method that nobody serves."""
        if route is None:
            return _no_such_path
        get = route.handlers.get("GET")
        if method == "HEAD" and get is not None:
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
        return x.problem("overloaded", f"{load.requests} requests are being worked on")

    def _failed(self, x: Exchange, error: AcordoError) -> web.Response:
        document = problem_of(error, mutation=x.mutation, op_id=x.op_id)
        if isinstance(error, InvariantViolated):
            log.error("invariant violated", error=str(error))
            self._tasks.create_task(_crash(error))
        return x.refuse(document, retry_after_s=error.retry_after_s if isinstance(error, NotApplied) else 1.0)


async def _no_such_path(x: Exchange) -> web.Response:
    return x.problem("unknown_path", f"{x.path[:200]!r} is no path of this server", allowed="see /openapi.json")


async def _crash(error: InvariantViolated) -> None:
    """End the process by the task group: the supervisor starts it anew."""
    raise error


class _LowServer(web.Server):
    """aiohttp's server, with connections that speak problem documents also about requests that are no HTTP."""

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], node_id: str, **more: Any):
        super().__init__(handler, **more)
        self.node_id = node_id

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    __slots__ = ()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer what never reached a handler; the connection is closed after it."""
        server = self._manager
        node_id = server.node_id if isinstance(server, _LowServer) else ""
        if status >= 500:
            log.error("request failed outside its handler", error=repr(exc))
        code = "internal" if status >= 500 else "header_too_large" if isinstance(exc, LineTooLong) else "bad_http"
        detail = "an error inside" if status >= 500 else (message or str(exc) or "not HTTP").split("\n")[0][:300]
        body = encode(problem(code, detail))
        headers = {"Acordo-Node": node_id, "Content-Type": CONTENT_TYPE}
        response = web.Response(status=problem(code, detail).status, body=body, headers=headers)
        response.force_close()
        return response
