"""Take connections from a listening socket: many in a pass of the loop, and none for a while when
descriptors run out.

The loop's own server takes one in a pass: behind a flood of connections everybody else waited for
hundreds of passes.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from typing import Final

import structlog

TAKEN_PER_PASS: Final = 64
"""Connections taken in a pass of the loop."""
PAUSE_S: Final = 0.2
"""How long none is taken after the system had no descriptor or memory for one; they wait in the
kernel's queue.
"""
TOLD_EVERY_S: Final = 10.0
"""That is logged no more often."""
_SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

log = structlog.get_logger("acordo.node")


class Door:
    """One listening socket, which it owns. `open` it once, `close` it; connections that were taken
    live on.
    """

    def __init__(
        self,
        listening: socket.socket,
        make: Callable[[], asyncio.BaseProtocol],
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._listening, self._make, self._tls = listening, make, tls
        self._loop = asyncio.get_running_loop()
        self._coming: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._told_at: float | None = None
        self._open = False
        self.short_total = 0
        """Times that the system had no descriptor or memory for a connection."""

    def open(self) -> None:
        """Begin to take connections."""
        self._listening.setblocking(False)
        self._open = True
        self._loop.add_reader(self._listening.fileno(), self._knocked)

    def close(self) -> None:
        """Take none any more; what waits in the kernel's queue is reset. Once is enough."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._listening.fileno())
            if self._pause is not None:
                self._pause.cancel()
            self._listening.close()

    def _knocked(self) -> None:
        for _ in range(TAKEN_PER_PASS):
            try:
                taken, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                if exc.errno in _SHORT:
                    self._rest(exc)
                    return
                continue  # of that one connection alone: it was reset while it waited (accept(2))
            taken.setblocking(False)
            task = self._loop.create_task(self._take(taken))
            self._coming.add(task)
            task.add_done_callback(self._coming.discard)

    async def _take(self, taken: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make, taken, ssl=self._tls)
        except (OSError, ssl.SSLError, asyncio.CancelledError):
            taken.close()

    def _rest(self, exc: OSError) -> None:
        """Take none for a moment: the socket stays readable, and the loop would do nothing else."""
        self.short_total += 1
        now = self._loop.time()
        if self._told_at is None or now - self._told_at >= TOLD_EVERY_S:
            self._told_at = now
            log.error(
                "no connection can be taken",
                reason=exc.strerror,
                again_in_s=PAUSE_S,
                times=self.short_total,
            )
        self._loop.remove_reader(self._listening.fileno())
        self._pause = self._loop.call_later(PAUSE_S, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        if self._open:
            self._loop.add_reader(self._listening.fileno(), self._knocked)
