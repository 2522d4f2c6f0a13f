"""Answer requests while a node waits for its store: alive, not ready, and why. It knows nothing of
keys.
"""

from __future__ import annotations

import socket
import ssl
from typing import Final, Self

from aiohttp import web

from node.wire.documents import encode
from node.wire.problems import CONTENT_TYPE, problem

TEXT: Final = "text/plain"


class UnreadyListener:
    """A listener on the node's own socket, used until the server takes the socket over."""

    def __init__(self, node_id: str, tls: ssl.SSLContext | None = None) -> None:
        self._node_id, self._tls = node_id, tls
        self._runner: web.ServerRunner | None = None
        self.reason = "the store does not answer yet"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def listen(self, listening: socket.socket) -> None:
        """Start answering; further calls do nothing. Connections still in the socket's queue when
        this listener ends are answered by the server.
        """
        if self._runner is None:
            self._runner = web.ServerRunner(
                web.Server(self._answer, access_log=None), shutdown_timeout=0.5
            )
            await self._runner.setup()
            await web.SockSite(self._runner, listening.dup(), ssl_context=self._tls).start()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {"Acordo-Node": self._node_id, "Connection": "close"}
        if request.path == "/livez":
            return web.Response(text="ok\n", headers=headers)
        headers["Retry-After"] = "1"
        if request.path in ("/readyz", "/health"):
            text = f"[-]store failed: {self.reason}\nreadyz check failed\n"
            return web.Response(status=503, text=text, content_type=TEXT, headers=headers)
        document = problem("store_away", f"this node waits for its store: {self.reason}")
        headers["Content-Type"] = CONTENT_TYPE
        return web.Response(status=503, body=encode(document), headers=headers)
