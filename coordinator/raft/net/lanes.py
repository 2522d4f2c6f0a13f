"""Keep the connections that carry only what need not keep its order with anything else: the chunks
of a state (R6). So heartbeats and entries never wait behind a chunk.

The member that needs a state dials such a connection, in the same handshake as any other, and it is
closed when nothing more comes. Nothing of the protocol is told when it begins or ends.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

from coordinator.raft.net.connection import Connection
from coordinator.raft.net.outbound import Connect
from coordinator.raft.net.security import split_address
from kv.errors import BadRequest

IDLE_S: Final = 10.0
"""Seconds without a byte from the other end after which such a connection is closed."""


class Lanes:
    """The connections of one transport that are apart: one that this member dialled, and one that
    the other dialled, for each peer.
    """

    def __init__(
        self,
        *,
        connect: Connect,
        new_connection: Callable[[Lanes, str], Connection],
        judge: Callable[[Connection, str], tuple[str, str] | None],
        take: Callable[[Connection, memoryview], None],
        wake: Callable[[], None],
        handshake_s: float,
        counters: Counter[str],
        on_task_done: Callable[[asyncio.Task[None]], None],
    ) -> None:
        """`judge` returns why a peer that has proved itself is refused; `take` is given each frame;
        `wake` is called when a connection can be used.
        """
        self._connect, self._new_connection, self._judge = connect, new_connection, judge
        self._take, self._wake, self._handshake_s = take, wake, handshake_s
        self._counters, self._on_task_done = counters, on_task_done
        self._loop = asyncio.get_running_loop()
        self._ready: dict[tuple[str, bool], Connection] = {}
        """By (peer, whether this member dialled): the connection, once it can be used."""
        self._dialling: dict[str, asyncio.Task[None]] = {}
        self._over = False
        self._timer = self._loop.call_later(IDLE_S / 4, self._look)

    def connections(self) -> list[Connection]:
        """Return the connections that can be used."""
        return list(self._ready.values())

    def send(self, peer: str, content: bytes, *, dialled: bool) -> bool:
        """Send a frame on the connection that this member dialled, or on the other one. Return
        False if there is none.
        """
        connection = self._ready.get((peer, dialled))
        return connection is not None and connection.send(content)

    def reach(self, peer: str, address: str) -> None:
        """Dial a peer, unless there is a connection or this is under way."""
        if (peer, True) in self._ready or peer in self._dialling or self._over:
            return
        task = self._dialling[peer] = self._loop.create_task(self._dial(peer, address))
        task.add_done_callback(self._on_task_done)

    async def _dial(self, peer: str, address: str) -> None:
        connection = self._new_connection(self, peer)
        try:
            async with asyncio.timeout(self._handshake_s):
                await self._connect(lambda: connection, *split_address(address))
                await connection.settled
        except (OSError, UnicodeError, BadRequest):
            connection.close("unreachable")
        except asyncio.CancelledError:
            connection.close("dropped")
            raise
        finally:
            del self._dialling[peer]

    def accept(self, connection: Connection, peer: str) -> None:
        """Take over a connection that a peer has dialled to be apart, and that is ready."""
        connection.hand_to(self)
        self.on_ready(connection, peer)

    def drop(self, peer: str) -> None:
        """Close the connections with a peer, because it is removed."""
        task = self._dialling.get(peer)
        if task is not None:
            task.cancel()
        for key in ((peer, True), (peer, False)):
            connection = self._ready.get(key)
            if connection is not None:
                connection.close("dropped")

    def close(self) -> list[asyncio.Task[None]]:
        """Close everything; return the tasks that are to be awaited."""
        self._over = True
        self._timer.cancel()
        for peer in {*self._dialling, *(peer for peer, _ in self._ready)}:
            self.drop(peer)
        return list(self._dialling.values())

    def _look(self) -> None:
        self._timer = self._loop.call_later(IDLE_S / 4, self._look)
        for connection in list(self._ready.values()):
            if self._loop.time() - connection.last_received_s > IDLE_S:
                connection.close("idle")

    # -------------------------------------------------------------------- what a connection reports

    def on_proved(self, connection: Connection, peer: str) -> None:
        """Admit or refuse a peer that has proved itself."""
        refusal = self._judge(connection, peer)
        if refusal is None:
            connection.admit()
        else:
            connection.refuse(*refusal)

    def on_ready(self, connection: Connection, peer: str) -> None:
        """Use a connection in place of an earlier one of the same direction."""
        old = self._ready.pop((peer, connection.dialer), None)
        self._ready[peer, connection.dialer] = connection
        if old is not None:
            old.close("replaced")
        self._counters["connected_apart"] += 1
        self._wake()

    def on_frame(self, connection: Connection, content: memoryview) -> None:
        """Pass a message on."""
        self._take(connection, content)

    def on_closed(self, connection: Connection, reason: str) -> None:
        """Forget a connection."""
        self._counters[f"closed_apart_{reason}"] += 1
        key = connection.session.peer or "", connection.dialer
        if self._ready.get(key) is connection:
            del self._ready[key]
