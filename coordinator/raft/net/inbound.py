"""Accept connections, limit those that have proved nothing, and set up TLS before the first byte.

This is the listening half of a transport. It trusts no connection: it handles each one until that
has proved itself or is closed.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

from coordinator.raft.net.admission import Admission
from coordinator.raft.net.connection import Connection
from coordinator.raft.net.refusals import Refusals

BACKLOG: Final = 128
ACCEPT_PAUSE_S: Final = 0.1
"""Seconds to pause after a failed accept: without free descriptors every accept fails at once."""


class Inbound:
    """The listening half of a transport: its port, and the connections that are not proved yet.

    It accepts sockets itself, so that a connection that is not admitted costs one accept and one
    close. asyncio's own server would first do a TLS handshake with everyone.
    """

    def __init__(
        self,
        new_connection: Callable[[], Connection],
        refusals: Refusals,
        handshake_s: float,
        on_task_done: Callable[[asyncio.Task[None]], None],
    ) -> None:
        """`handshake_s` is the time after which an unproved connection is closed."""
        self._new_connection, self._refusals = new_connection, refusals
        self._handshake_s, self._on_task_done = handshake_s, on_task_done
        self.admission: Admission[Connection] = Admission()
        self._timers: dict[Connection, asyncio.TimerHandle] = {}
        """The timer that closes each unproved connection."""
        self.handshakes: dict[Connection, asyncio.Task[None]] = {}
        """The tasks that turn accepted sockets into connections, including the TLS handshake."""
        self._listener: Listener | None = None
        self.tls: ssl.SSLContext | None = None
        """The context of the next handshakes; None: connections are plain."""
        self._over = False

    async def open(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        """Start to listen. Raises OSError."""
        self.tls = tls
        loop = asyncio.get_running_loop()
        sockets = await bind(loop, host, port)
        self._listener = Listener(
            loop, sockets, self._accepted, self._refusals.refuse, self._on_task_done
        )

    @property
    def port(self) -> int | None:
        """The port that is listened on; None while there is no listener."""
        for listening in self._listener.sockets if self._listener is not None else ():
            return int(listening.getsockname()[1])
        return None

    @property
    def unproved(self) -> int:
        """The number of accepted connections that have not proved themselves."""
        return len(self._timers)

    def proved(self, connection: Connection) -> None:
        """Stop the time-out of a connection that has proved itself."""
        self.admission.leave(connection)
        timer = self._timers.pop(connection, None)
        if timer is not None:
            timer.cancel()

    def ended(self, connection: Connection) -> None:
        """Forget a closed connection."""
        self.proved(connection)
        handshake = self.handshakes.pop(connection, None)
        if handshake is not None:
            handshake.cancel()

    def close(self) -> None:
        """Stop listening, and close the connections that have not proved themselves."""
        self._over = True
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._timers):
            connection.close("closing")

    def tasks(self) -> list[asyncio.Future[Any]]:
        """Return the tasks under way, to be awaited after `close`."""
        accepting = self._listener.tasks if self._listener is not None else []
        return [*self.handshakes.values(), *accepting]

    def _accepted(self, accepted: socket.socket, host: str) -> None:
        connection = self._new_connection()
        connection.host = host
        if not self._admit(connection, host):
            accepted.close()
            return
        task = asyncio.get_running_loop().create_task(self._shake_hands(connection, accepted))
        self.handshakes[connection] = task
        task.add_done_callback(self._on_task_done)

    def _admit(self, connection: Connection, host: str) -> bool:
        """Say whether an unknown peer may try to prove itself, and start its time-out."""
        self._refusals.counters["accepted"] += 1
        loop = asyncio.get_running_loop()
        verdict = self.admission.admit(connection, host, loop.time())
        if verdict == "too_often" or self._over:
            self._refusals.refuse(host, "too_often")
            connection.close("too_often")
            return False
        if isinstance(verdict, Connection):
            verdict.close("crowded")
        self._timers[connection] = loop.call_later(
            self._handshake_s, connection.close, "handshake_timeout"
        )
        return True

    async def _shake_hands(self, connection: Connection, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            if self.tls is None:
                await loop.connect_accepted_socket(lambda: connection, accepted)
            else:
                await loop.connect_accepted_socket(
                    lambda: connection,
                    accepted,
                    ssl=self.tls,
                    ssl_handshake_timeout=self._handshake_s,
                )
        except OSError as exc:
            connection.close("tls" if isinstance(exc, (ssl.SSLError, ConnectionError)) else "lost")
        finally:
            self.handshakes.pop(connection, None)


class Listener:
    """The listening sockets of a port, with one accepting task for each."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: list[socket.socket],
        accepted: Callable[[socket.socket, str], None],
        refuse: Callable[[str, str, str], None],
        on_done: Callable[[asyncio.Task[None]], None],
    ) -> None:
        """Start to accept.

        `accepted` is called with each socket and its peer's host, `refuse` with (host, reason,
        detail).
        """
        self.sockets = sockets
        self._loop, self._accepted, self._refuse = loop, accepted, refuse
        self.tasks = [loop.create_task(self._accept(listening)) for listening in sockets]
        for task in self.tasks:
            task.add_done_callback(on_done)

    def close(self) -> None:
        """Stop accepting; the tasks end soon after."""
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
                # Descriptors or memory ran out, or the peer is gone already. That passes, but until
                # then every accept fails at once: without the pause the event loop would do nothing
                # else.
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
