"""Do the TLS handshakes of accepted connections: so many at a time, and each within its time.

Nothing of HTTP is read before a handshake is over. A client that speaks plain HTTP is told so.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Final

HANDSHAKES_MAX: Final = 256
"""Handshakes under way at a time; beyond, connections wait in the kernel's queue."""
HANDSHAKE_S: Final = 5.0
"""Longest time from the accept to the end of the handshake."""
SILENT_S: Final = 1.0
"""Age of the oldest handshake at which it is given up in favour of another connection. A handshake
takes milliseconds, so whoever needs longer while others wait is most likely silent.
"""
PLAIN_BYTES_MAX: Final = 64 * 1024
"""Bytes of a plain request that are read so that its sender gets to read the answer."""
_TLS: Final = 0x16
"""First byte of every TLS connection: a handshake record (RFC 8446 section 5.1)."""


class Handshakes:
    """The handshakes under way on one port."""

    def __init__(self, context: Callable[[], ssl.SSLContext], plain: bytes) -> None:
        """`context` returns the context of the next handshake; `plain` is the answer to a client
        that speaks plain HTTP.
        """
        self._context, self._plain = context, plain
        self._loop = asyncio.get_running_loop()
        self._under_way: dict[asyncio.Task[None], float] = {}
        """When each began, the oldest first."""
        self.failed_total = 0
        """Handshakes that failed, those of plain clients and of silent ones among them."""

    def __len__(self) -> int:
        return len(self._under_way)

    def has_room(self) -> bool:
        """Return whether another handshake may begin; a silent one is given up for it."""
        if len(self._under_way) < HANDSHAKES_MAX:
            return True
        oldest, began = next(iter(self._under_way.items()))
        if self._loop.time() - began < SILENT_S:
            return False
        del self._under_way[oldest]
        oldest.cancel()
        return True

    def begin(self, taken: socket.socket, make: Callable[[], asyncio.BaseProtocol]) -> None:
        """Turn an accepted socket into a connection; it is closed if that fails."""
        task = self._loop.create_task(self._shake_hands(taken, make))
        self._under_way[task] = self._loop.time()
        task.add_done_callback(lambda done: self._under_way.pop(done, None))

    def close(self) -> None:
        """Give up what is under way."""
        for task in list(self._under_way):
            task.cancel()

    async def _shake_hands(
        self, taken: socket.socket, make: Callable[[], asyncio.BaseProtocol]
    ) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_S) as limit:
                first = await self._first_byte(taken)
                if first is None or first != _TLS:
                    self.failed_total += 1
                    self._refuse_plain(taken, first)
                    return
                limit.reschedule(None)
            await self._loop.connect_accepted_socket(
                make, taken, ssl=self._context(), ssl_handshake_timeout=HANDSHAKE_S
            )
        except (OSError, TimeoutError, asyncio.CancelledError):  # an SSLError is an OSError
            self.failed_total += 1
            taken.close()

    async def _first_byte(self, taken: socket.socket) -> int | None:
        """Wait for the first byte and return it, without taking it; None: there is none."""
        readable: asyncio.Future[None] = self._loop.create_future()

        def wake() -> None:
            if not readable.done():
                readable.set_result(None)

        self._loop.add_reader(taken.fileno(), wake)
        try:
            await readable
        finally:
            self._loop.remove_reader(taken.fileno())
        found = taken.recv(1, socket.MSG_PEEK)
        return found[0] if found else None

    def _refuse_plain(self, taken: socket.socket, first: int | None) -> None:
        if first is not None and chr(first).isalpha():  # a method
            with contextlib.suppress(OSError):
                taken.recv(PLAIN_BYTES_MAX)
                taken.send(self._plain)
                taken.shutdown(socket.SHUT_WR)
        taken.close()
