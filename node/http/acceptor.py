"""Accept connections from a listening socket: many per pass of the event loop, and none for a while
when file descriptors run out.

The loop's own server accepts one connection per pass. During a flood of connections every other
client then waited for hundreds of passes.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final

import structlog

from node.http.handshakes import Handshakes

ACCEPTED_PER_PASS: Final = 64
"""Connections accepted per pass of the event loop."""
PAUSE_S: Final = 0.2
"""Pause after the system had no descriptor or memory for a connection; new ones wait in the
kernel's queue.
"""
LOG_EVERY_S: Final = 10.0
"""Least time between two log lines about such pauses."""
ROOM_S: Final = 0.02
"""Pause while as many TLS handshakes are under way as may be."""
_SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

log = structlog.get_logger("acordo.node")


class Acceptor:
    """The acceptor of one listening socket, which it owns. Call `open` once, then `close`; accepted
    connections stay open.
    """

    def __init__(
        self,
        listening: socket.socket,
        make: Callable[[], asyncio.BaseProtocol],
        *,
        handshakes: Handshakes | None = None,
    ) -> None:
        """`handshakes`: does the TLS handshakes; None: connections are plain."""
        self._listening, self._make, self.handshakes = listening, make, handshakes
        self._loop = asyncio.get_running_loop()
        self._connecting: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._logged_at: float | None = None
        self._open = False
        self.short_total = 0
        """Times that the system had no descriptor or memory for a connection."""

    def open(self) -> None:
        """Start accepting connections."""
        self._listening.setblocking(False)
        self._open = True
        self._loop.add_reader(self._listening.fileno(), self._on_readable)

    def close(self) -> None:
        """Stop accepting; connections in the kernel's queue are reset. Calling it again does
        nothing.
        """
        if self._open:
            self._open = False
            self._loop.remove_reader(self._listening.fileno())
            if self._pause is not None:
                self._pause.cancel()
            if self.handshakes is not None:
                self.handshakes.close()
            self._listening.close()

    def _on_readable(self) -> None:
        for _ in range(ACCEPTED_PER_PASS):
            if self.handshakes is not None and not self.handshakes.has_room():
                self._rest(ROOM_S)
                return
            try:
                taken, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                if exc.errno in _SHORT:
                    self._pause_accepting(exc)
                    return
                # The error concerns only that connection: it was reset while it waited (accept(2)).
                continue
            taken.setblocking(False)
            if self.handshakes is not None:
                self.handshakes.begin(taken, self._make)
                continue
            task = self._loop.create_task(self._connect(taken))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, taken: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make, taken)
        except (OSError, asyncio.CancelledError):
            taken.close()

    def _pause_accepting(self, exc: OSError) -> None:
        """Stop accepting for PAUSE_S. The socket stays readable while nothing can be accepted, so
        without the pause the loop would spin on it.
        """
        self.short_total += 1
        now = self._loop.time()
        if self._logged_at is None or now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            log.error(
                "no connection can be taken",
                reason=exc.strerror,
                again_in_s=PAUSE_S,
                times=self.short_total,
            )
        self._rest(PAUSE_S)

    def _rest(self, pause_s: float) -> None:
        self._loop.remove_reader(self._listening.fileno())
        self._pause = self._loop.call_later(pause_s, self._resume_accepting)

    def _resume_accepting(self) -> None:
        self._pause = None
        if self._open:
            self._loop.add_reader(self._listening.fileno(), self._on_readable)
