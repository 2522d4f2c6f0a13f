"""Bind the sockets of a member's port, and accept on them.

It never decides who may come in.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

BACKLOG: Final = 128
ACCEPT_PAUSE_S: Final = 0.1
"""Pause after an accept that failed: without descriptors every one fails, and at once."""


class Listener:
    """Listening sockets, and one task for each that accepts on it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: list[socket.socket],
        accepted: Callable[[socket.socket, str], None],
        refuse: Callable[[str, str, str], None],
        on_done: Callable[[asyncio.Task[None]], None],
    ) -> None:
        """`accepted` gets each socket and its peer's host; `refuse` (host, reason, detail)."""
        self.sockets = sockets
        self._loop, self._accepted, self._refuse = loop, accepted, refuse
        self.tasks = [loop.create_task(self._accept(listening)) for listening in sockets]
        for task in self.tasks:
            task.add_done_callback(on_done)

    def close(self) -> None:
        """Accept no more; the tasks end soon after."""
        for task in self.tasks:
            task.cancel()
        for listening in self.sockets:
            self._loop.remove_reader(listening)
            listening.close()

    async def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                accepted, address = await self._loop.sock_accept(listening)
            except OSError as exc:
                # Descriptors or memory ran out, or the peer was gone again. It passes; until then
                # each try would fail at once, and the loop would do nothing else.
                self._refuse("", "accept_failed", str(exc))
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            self._accepted(accepted, str(address[0]))


async def bind(loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[socket.socket]:
    """Return listening sockets, one for each address of the host. Raises OSError."""
    sockets: list[socket.socket] = []
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listening = socket.socket(family, kind, protocol)
            sockets.append(listening)
            listening.setblocking(False)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
    except OSError:
        for listening in sockets:
            listening.close()
        raise
    return sockets
