"""Serve the control port of a local cluster: it kills, pauses, cuts off and heals members.

It listens on loopback alone, and every request needs the random token of `control.json`, which
only its owner reads. It never touches a process that the runner did not start.
"""

from __future__ import annotations

import hmac
import os
import secrets
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol, Self
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from cluster.local.links import Links
from cluster.local.process import NodeProcess, NodeState

LEADER: Final = "leader"
"""In a path, instead of an id: whoever leads now."""
HERE: Final = ("127.0.0.1", "localhost")
BODY_BYTES_MAX: Final = 1024


class Runner(Protocol):
    """What the port asks of the runner."""

    nodes: dict[str, NodeProcess]

    async def leader(self) -> str | None:
        """Return who leads, as the nodes report it."""
        ...

    def start_node(self, node_id: str) -> None:
        """Let a node start again."""
        ...


class ControlFile(msgspec.Struct, frozen=True):
    """The content of `control.json`: where the port listens, and its token."""

    url: str
    token: str


class Refused(Exception):
    """A request that is not carried out: nothing was done."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class ControlPort:
    """The control port of one runner. Used as an async context manager: it listens within it."""

    def __init__(self, runner: Runner, path: Path, links: Links | None) -> None:
        self._runner, self._path, self._links = runner, path, links
        self._token = secrets.token_urlsafe(32)
        self.port = 0
        app = web.Application(middlewares=[self._guard], client_max_size=BODY_BYTES_MAX)
        app.router.add_get("/v1/members", self._list)
        app.router.add_post("/v1/members/{id}/{action}", self._act)
        self._serving = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)

    async def __aenter__(self) -> Self:
        await self._serving.setup()
        await web.TCPSite(self._serving, HERE[0], 0).start()
        self.port = self._serving.addresses[0][1]
        file = ControlFile(f"http://{HERE[0]}:{self.port}", self._token)
        new = self._path.with_suffix(".new")
        new.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(new, flags, 0o600), "wb") as stream:
            stream.write(msgspec.json.encode(file))
        new.replace(self._path)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._serving.cleanup()
        self._path.unlink(missing_ok=True)

    # --------------------------------------------------------------------------------- who may ask

    def _origins(self) -> set[str]:
        """Return the origins of the nodes' pages."""
        found = set()
        for node in self._runner.nodes.values():
            url = urlsplit(node.url)
            for name in (*HERE, url.hostname):
                found.add(f"{url.scheme}://{name}:{url.port}")
        return found

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Let in who knows the token, under a name of loopback, and no page but the nodes' own: a
        page of another origin may make its own name lead here (DNS rebinding).
        """
        origin = request.headers.get("Origin")
        shared: dict[str, str] = {"Vary": "Origin", "Cache-Control": "no-store"}
        try:
            if request.headers.get("Host", "") not in {f"{name}:{self.port}" for name in HERE}:
                raise Refused(421, "this port is asked by a loopback address alone")
            if origin is not None:
                if origin not in self._origins():
                    raise Refused(403, "only the pages of this cluster's nodes ask this port")
                shared["Access-Control-Allow-Origin"] = origin
            if request.method == "OPTIONS":
                shared["Access-Control-Allow-Methods"] = "GET, POST"
                shared["Access-Control-Allow-Headers"] = "Authorization"
                return web.Response(status=204, headers=shared)
            given = request.headers.get("Authorization", "").encode()
            if not hmac.compare_digest(given, f"Bearer {self._token}".encode()):
                raise Refused(401, "the token of control.json is missing or wrong")
            response: web.StreamResponse = await handler(request)
        except Refused as exc:
            response = _json({"detail": exc.detail, "outcome": "not_applied"}, exc.status)
        except web.HTTPException as exc:
            response = _json({"detail": exc.reason, "outcome": "not_applied"}, exc.status)
        response.headers.update(shared)
        return response

    # ----------------------------------------------------------------------------- what it does

    async def _list(self, request: web.Request) -> web.Response:
        del request
        members = [self._view(node) for node in self._runner.nodes.values()]
        return _json({"members": members, "links": self._links is not None})

    def _view(self, node: NodeProcess) -> dict[str, object]:
        return {
            "id": node.id,
            "url": node.url,
            "pid": node.pid,
            "state": node.state.value,
            "paused": node.paused,
            "down": not node.wanted.is_set(),
            "cut": self._links is not None and node.id in self._links.cut,
        }

    async def _act(self, request: web.Request) -> web.Response:
        name, action = request.match_info["id"], request.match_info["action"]
        if name == LEADER:
            leader = await self._runner.leader()
            if leader is None:
                raise Refused(503, "no node knows a leader now: ask again, or name a member")
            name = leader
        node = self._runner.nodes.get(name)
        if node is None:
            raise Refused(404, f"{name[:64]!r} is no member that this runner keeps")
        acts: Mapping[str, Any] = {
            "kill": self._kill,
            "stop": self._stop,
            "pause": self._pause,
            "cut": self._cut,
            "heal": self._heal,
        }
        act = acts.get(action)
        if act is None:
            raise Refused(404, f"{action[:64]!r} is none of {', '.join(acts)}")
        act(node)
        return _json(self._view(node) | {"action": action})

    def _kill(self, node: NodeProcess) -> None:
        """Kill the process; the runner starts it again."""
        node.paused = False
        if not node.signal(signal.SIGKILL):
            raise Refused(409, f"{node.id} has no process now")

    def _stop(self, node: NodeProcess) -> None:
        """Kill the process, and keep it down until it is healed."""
        node.wanted.clear()
        node.paused = False
        node.signal(signal.SIGKILL)

    def _pause(self, node: NodeProcess) -> None:
        """Stop the process where it stands, until it is healed."""
        if not node.signal(signal.SIGSTOP):
            raise Refused(409, f"{node.id} has no process now")
        node.paused = True

    def _cut(self, node: NodeProcess) -> None:
        """Cut all links between the member and the others, until it is healed."""
        if self._links is None:
            raise Refused(
                409, "links cannot be cut: start the cluster with --relay-links true for that"
            )
        if not self._links.lead_to(node.id):
            raise Refused(409, f"{node.id} came after the start: start the cluster again to cut it")
        self._links.cut_off(node.id)

    def _heal(self, node: NodeProcess) -> None:
        """Undo whatever was done to the member."""
        node.signal(signal.SIGCONT)
        node.paused = False
        if self._links is not None:
            self._links.heal(node.id)
        if node.state is not NodeState.FAILED:
            self._runner.start_node(node.id)


def _json(answer: object, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(answer), status=status, content_type="application/json"
    )
