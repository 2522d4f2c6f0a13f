"""Define every route of the API: path, methods, handlers, what it needs of who calls it, and the
conditional headers that its writes support.

Paths are matched as they were sent. A key may contain `%2F`, `..` and `//`, which a router that
normalises paths would change.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from aiohttp import web

from node.access.access import Need
from node.api import (
    asynchronous,
    backup,
    batch,
    cluster,
    health,
    keys,
    leases,
    legacy,
    listing,
    operations,
    page,
    txn,
)
from node.api.openapi import document as openapi
from node.api.operating import access, ledger, sessions, verify, webhooks
from node.api.watching import stream as watching
from node.etcd.call import Identity
from node.etcd.cluster import version as etcd_version
from node.etcd.routes import PREFIXES as ETCD_PREFIXES
from node.etcd.routes import served, spoken_paths
from node.exchange.exchange import Exchange

Handler: TypeAlias = Callable[[Exchange], Awaitable[web.StreamResponse]]


READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""
_WRITING: Final = ("/v1/access", "/v1/webhooks")
"""What admins do here is a write, which the ledger has with its principal."""
_HANDED_OUT: Final = frozenset({"/v1/backup", "/v3/maintenance/snapshot"})
_ETCD_READING: Final = frozenset({"/v3/maintenance/hash", "/v3/maintenance/hashkv"})


@dataclass(frozen=True, slots=True)
class Route:
    """One path with its handlers by method. `always`: it is served also while draining or
    overloaded. `long`: it is a stream, which is counted apart.

    `conditions`: the conditional headers that its writes support. A write with any other is
    refused, because ignoring the condition would execute a write that the client did not ask for.
    """

    template: str
    handlers: dict[str, Handler]
    needs: Need
    """What it asks of who calls it. Handlers of KEYS judge nothing themselves: the services that
    they get do no more than the caller may.
    """
    always: bool = False
    long: bool = False
    conditions: frozenset[str] = frozenset()
    shared: bool = False
    """The pages of the other members may read its answers to GET too, to show all of them."""
    gateway: bool = False
    """It is a path of etcd's JSON gateway: errors are told in its form."""

    def recorded(self, method: str) -> bool:
        """Return whether an admin's use of it is recorded: it does something, and is no write of
        its own, or hands everything out.
        """
        if self.needs is not Need.ADMIN or self.template.startswith(_WRITING):
            return False
        return self.template in _HANDED_OUT or (
            method not in READING and self.template not in _ETCD_READING
        )

    @property
    def allow(self) -> str:
        """Return the supported methods as the value of the header Allow."""
        head = ["HEAD"] if "GET" in self.handlers and not self.long else []
        return ", ".join([*self.handlers, *head, "OPTIONS"])

    def handler(self, method: str) -> Handler:
        """Return the handler of a method; for an unsupported method, one that refuses it."""
        found = self.handlers.get(method)
        if found is not None:
            return found
        if self is UNKNOWN:
            return _no_such_path
        get = self.handlers.get("GET")
        if method == "HEAD" and get is not None and not self.long:
            return get
        return self._refuse

    async def _refuse(self, x: Exchange) -> web.Response:
        if self.gateway:
            return x.refuse_as(405, b"Method Not Allowed\n", "text/plain; charset=utf-8")
        more = {"Allow": self.allow}
        if x.method == "OPTIONS":
            return x.reply(204, b"", "text/plain", more=more)
        detail = f"{x.method[:20]} does not work on {self.template}"
        return x.problem("method_not_allowed", detail, more=more, allowed=self.allow)


async def _no_such_path(x: Exchange) -> web.Response:
    return x.problem(
        "unknown_path", f"{x.path[:200]!r} is no path of this server", allowed="see /openapi.json"
    )


ONE_KEY: Final = frozenset({"If-Match", "If-None-Match"})
DIRECT: Final = frozenset({"GET", "PUT", "DELETE"})
DIRECT_ETCD: Final = frozenset({"/v3/kv/put", "/v3/kv/range"})

WHOLE: Final = (
    Route("/v1/kv", {"GET": listing.get}, Need.KEYS),
    Route("/v1/txn", {"POST": txn.post}, Need.KEYS),
    Route("/v1/batch", {"POST": batch.post}, Need.KEYS),
    Route("/v1/async", {"POST": asynchronous.post}, Need.KEYS),
    Route("/v1/watch", {"GET": watching.get}, Need.KEYS, long=True),
    Route("/v1/leases", {"GET": leases.listing, "POST": leases.grant}, Need.KEYS),
    Route("/v1/keep-alive", {"POST": leases.keep_many_alive}, Need.KEYS),
    Route("/v1/leader", {"GET": cluster.leader}, Need.SIGNED_IN, always=True),
    Route("/v1/ledger", {"GET": ledger.get}, Need.ADMIN),
    Route("/v1/verify", {"GET": verify.get}, Need.ADMIN, long=True),
    Route("/v1/backup", {"GET": backup.get}, Need.ADMIN, long=True),
    Route("/v1/cluster", {"GET": cluster.get}, Need.SIGNED_IN, always=True, shared=True),
    Route("/v1/activity", {"GET": cluster.activity}, Need.SIGNED_IN, always=True, shared=True),
    Route("/v1/control", {"GET": cluster.control}, Need.ADMIN),
    Route("/v1/cluster/transfer", {"POST": cluster.transfer}, Need.ADMIN, always=True),
    Route("/v1/cluster/members", {"POST": cluster.add}, Need.ADMIN, always=True),
    Route("/v1/cluster/limits", {"POST": cluster.amend}, Need.ADMIN, always=True),
    Route("/v1/cluster/adopt", {"POST": cluster.adopt}, Need.ADMIN, always=True),
    Route("/v1/access", {"GET": access.get}, Need.SIGNED_IN),
    Route("/v1/access/enable", {"POST": access.enable}, Need.ADMIN),
    Route("/v1/access/disable", {"POST": access.disable}, Need.ADMIN),
    Route(
        "/v1/access/tokens",
        {"GET": access.tokens, "POST": access.create_token},
        Need.ADMIN,
    ),
    Route("/v1/access/roles", {"GET": access.roles}, Need.ADMIN),
    Route("/v1/access/certificates", {"GET": access.certificates}, Need.ADMIN),
    Route("/v1/session", {"POST": sessions.begin, "DELETE": sessions.end}, Need.SIGNED_IN),
    Route("/v1/webhooks", {"GET": webhooks.listing, "POST": webhooks.create}, Need.SIGNED_IN),
    Route(
        "/kv",
        {"GET": legacy.get, "PUT": legacy.put, "DELETE": legacy.delete},
        Need.KEYS,
        conditions=ONE_KEY,
    ),
    Route("/health", {"GET": health.health}, Need.NOTHING, always=True),
    Route("/livez", {"GET": health.livez}, Need.NOTHING, always=True),
    Route("/readyz", {"GET": health.readyz}, Need.NOTHING, always=True),
    Route("/metrics", {"GET": health.metrics}, Need.METRICS, always=True),
    Route("/openapi.json", {"GET": openapi.get}, Need.NOTHING, always=True),
)
"""Routes with a fixed path."""
BEGUN: Final = (
    (
        "/v1/kv/",
        "",
        Route(
            "/v1/kv/{key}",
            {"GET": keys.get, "PUT": keys.put, "DELETE": keys.delete},
            Need.KEYS,
            conditions=ONE_KEY,
        ),
    ),
    ("/v1/history/", "", Route("/v1/history/{key}", {"GET": keys.history}, Need.KEYS)),
    (
        "/v1/leases/",
        "/keep-alive",
        Route("/v1/leases/{id}/keep-alive", {"POST": leases.keep_alive}, Need.KEYS),
    ),
    (
        "/v1/leases/",
        "",
        Route("/v1/leases/{id}", {"GET": leases.get, "DELETE": leases.revoke}, Need.KEYS),
    ),
    (
        "/v1/operations/",
        "",
        Route(
            "/v1/operations/{op_id}", {"GET": operations.get, "POST": operations.post}, Need.KEYS
        ),
    ),
    (
        "/v1/access/tokens/",
        "",
        Route("/v1/access/tokens/{id}", {"DELETE": access.revoke_token}, Need.ADMIN),
    ),
    (
        "/v1/access/roles/",
        "",
        Route(
            "/v1/access/roles/{name}",
            {"PUT": access.put_role, "DELETE": access.delete_role},
            Need.ADMIN,
        ),
    ),
    (
        "/v1/access/certificates/",
        "",
        Route(
            "/v1/access/certificates/{name}",
            {"PUT": access.put_certificate, "DELETE": access.delete_certificate},
            Need.ADMIN,
        ),
    ),
    (
        "/v1/webhooks/",
        "/owner",
        Route("/v1/webhooks/{name}/owner", {"PUT": webhooks.give}, Need.ADMIN),
    ),
    (
        "/v1/webhooks/",
        webhooks.SIGN,
        Route("/v1/webhooks/{name}/sign", {"POST": webhooks.sign}, Need.ADMIN),
    ),
    (
        "/v1/webhooks/",
        "",
        Route(
            "/v1/webhooks/{name}",
            {"GET": webhooks.get, "DELETE": webhooks.remove},
            Need.SIGNED_IN,
        ),
    ),
    (
        "/v1/cluster/members/",
        "/promote",
        Route(
            "/v1/cluster/members/{id}/promote", {"POST": cluster.promote}, Need.ADMIN, always=True
        ),
    ),
    (
        "/v1/cluster/members/",
        "",
        Route("/v1/cluster/members/{id}", {"DELETE": cluster.remove}, Need.ADMIN, always=True),
    ),
)
"""(beginning, end, route) of paths with a parameter; the first match wins."""
UNKNOWN: Final = Route("(unknown)", {}, Need.NOTHING)
ANY_METHOD: Final = ("GET", "HEAD", "PUT", "POST", "DELETE", "PATCH")


async def _no_such_path_of_etcd(x: Exchange) -> web.Response:
    return x.refuse_as(404, b"Not Found\n", "text/plain; charset=utf-8")


def etcd_routes() -> dict[str, Route]:
    """Return the routes of etcd's JSON gateway by their paths."""
    identity = Identity()
    routes = {
        path: Route(
            path,
            {"POST": served(identity, spoken)},
            spoken.needs,
            always=spoken.always,
            long=spoken.long,
            gateway=True,
        )
        for path, spoken in spoken_paths().items()
    }
    return routes | {
        "/version": Route("/version", {"GET": etcd_version}, Need.NOTHING, always=True)
    }


class Routes:
    """The routes of one node, with those of the page's files."""

    def __init__(self, page_dir: Path, *, etcd: bool = False) -> None:
        self._whole = {route.template: route for route in WHOLE}
        self._unknown_etcd = UNKNOWN
        self._direct_etcd = DIRECT_ETCD if etcd else frozenset[str]()
        if etcd:
            self._whole |= etcd_routes()
            self._unknown_etcd = Route(
                "/v3/(unknown)",
                dict.fromkeys(ANY_METHOD, _no_such_path_of_etcd),
                Need.NOTHING,
                gateway=True,
            )
        for path, handler in page.files(page_dir).items():
            template = path if path in page.DOCUMENTS.values() else "/page/{file}"
            self._whole[path] = Route(template, {"GET": handler}, Need.NOTHING, always=True)

    def may_be_direct(self, method: str, target: str) -> bool:
        """Return whether a request is one of those that most are: it is served without a task, so
        its handler awaits `in_task` before whatever needs one.
        """
        if method == "POST":
            return target in self._direct_etcd
        return method in DIRECT and target.startswith("/v1/kv/")

    def find(self, path: str) -> tuple[Route, str]:
        """Return the route of a raw path, and the value of its path parameter."""
        for begin, end, route in BEGUN:
            if path.startswith(begin) and path.endswith(end):
                return route, path[len(begin) :]
        found = self._whole.get(path)
        if found is None:
            found = self._unknown_etcd if path.startswith(ETCD_PREFIXES) else UNKNOWN
        return found, ""
