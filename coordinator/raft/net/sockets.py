"""Open the sockets of a member's port and of its peers': listen, accept, look names up, connect.

It never decides who may come in, and never keeps what a name stood for longer than one dial.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

BACKLOG: Final = 128
ACCEPT_PAUSE_S: Final = 0.1
"""Pause after an accept that failed: without descriptors every one fails, and at once."""
ADDRESSES_MAX: Final = 8
"""Of what a name stands for, so many are tried."""


class Doorway:
    """Listening sockets and the tasks that accept on them."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: list[socket.socket],
        knocked: Callable[[socket.socket, str], None],
        refuse: Callable[[str, str, str], None],
        on_done: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self.sockets, self._loop, self._knocked, self._refuse = sockets, loop, knocked, refuse
        self.tasks = [loop.create_task(self._accept(listening)) for listening in sockets]
        for task in self.tasks:
            task.add_done_callback(on_done)

    def close(self) -> None:
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
                # No descriptors, no memory, or a peer that was gone again: it passes, and must not
                # spin.
                self._refuse("", "accept_failed", str(exc))
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            self._knocked(accepted, str(address[0]))


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


class Dialler:
    """Connect to one peer after another. A name is looked up at every dial: its owner may have
    moved.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        """`timeout_s`: what a dial has in all; each address of a name gets its share."""
        self._loop, self._timeout_s = loop, timeout_s
        self._lookups: dict[str, asyncio.Future[Any]] = {}

    async def connect(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        host: str,
        port: int,
        context: ssl.SSLContext | None,
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """Raises OSError, of the last address that was tried."""
        found = await self._look_up(host)
        share_s = self._timeout_s / len(found)
        refused: OSError = OSError(f"{host} stands for no address")
        for numeric in found:
            try:
                async with asyncio.timeout(share_s):
                    return await self._loop.create_connection(factory, numeric, port, ssl=context)
            except OSError as exc:  # a TimeoutError is one
                refused = exc
        raise refused

    async def _look_up(self, host: str) -> list[str]:
        """Return the addresses of a name.

        A resolver that hangs outlasts our patience: its answer is then for the next dial, which
        asks no second time.
        """
        with contextlib.suppress(ValueError):
            return [str(ipaddress.ip_address(host))]
        lookup = self._lookups.get(host)
        if lookup is None:
            lookup = asyncio.ensure_future(
                self._loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            )
            self._lookups[host] = lookup
            lookup.add_done_callback(lambda ended: self._looked_up(host, ended))
        found = await asyncio.shield(lookup)
        return list(dict.fromkeys(str(address[0]) for _, _, _, _, address in found))[:ADDRESSES_MAX]

    def _looked_up(self, host: str, ended: asyncio.Future[Any]) -> None:
        self._lookups.pop(host, None)
        if not ended.cancelled():
            ended.exception()  # whoever waited has heard it; if nobody did, nobody wants to

    def close(self) -> list[asyncio.Future[Any]]:
        """Give up what is being looked up; return it, to be awaited."""
        for lookup in (left := list(self._lookups.values())):
            lookup.cancel()
        return left
