"""Keep one connection with every peer: dial, wait until it ends, pause, dial again.

This is the dialling half of a transport. It never stops dialling a peer that is still known, and
never decides whether a connection may replace another one.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from coordinator.raft.net.connection import Connection, TransportLimits
from coordinator.raft.net.peer import Peer
from coordinator.raft.net.security import split_address
from kv.errors import BadRequest

Connect: TypeAlias = Callable[
    [Callable[[], asyncio.BaseProtocol], str, int],
    Awaitable[tuple[asyncio.BaseTransport, asyncio.BaseProtocol]],
]
"""(protocol factory, host, port) -> what the loop's `create_connection` returns."""


class Outbound:
    """The dialling half of a transport, with one task for each peer.

    The lower id of a pair dials. The higher id dials too if the lower one does not connect: the
    lower one may have an old address of this member, and only this member knows its new address.
    """

    def __init__(
        self,
        member: str,
        connect: Connect,
        new_connection: Callable[[str], Connection],
        *,
        limits: TransportLimits,
        rng: random.Random,
        routes: Mapping[str, str],
        counters: Counter[str],
        on_refused: Callable[[str, str], None],
        on_task_done: Callable[[asyncio.Task[None]], None],
    ) -> None:
        """`routes` overrides the addresses at which this member dials peers.

        `on_refused` is called with (peer, the reason it gave) when a peer refuses this member.
        """
        self._member, self._connect, self._new_connection = member, connect, new_connection
        self._limits, self._rng, self._routes = limits, rng, routes
        self._counters, self._on_refused = counters, on_refused
        self._on_task_done = on_task_done

    def reach(self, peer: Peer) -> None:
        """Start to keep a connection with a peer, unless it is resting."""
        if peer.dialling is None and not peer.resting:
            peer.dialling = asyncio.get_running_loop().create_task(self._keep_connected(peer))
            peer.dialling.add_done_callback(self._on_task_done)

    async def _keep_connected(self, peer: Peer) -> None:
        first = self._member < peer.node.id
        failures = 0
        if not first:
            await self._pause(self._limits.probe_s, 1)
        while True:
            if peer.connection is not None:
                await asyncio.shield(peer.connection.closed)
                if not first:
                    await self._pause(self._limits.probe_s, 1)
                continue
            lived_s = await self._dial(peer, self.where(peer, failures))
            failures = 0 if lived_s > self._limits.retry_max_s else failures + 1
            await self._pause(self._limits.retry_s if first else self._limits.probe_s, failures)

    async def _pause(self, base_s: float, failures: int) -> None:
        longest_s = max(self._limits.retry_max_s, base_s)
        await asyncio.sleep(
            min(longest_s, base_s * 2 ** min(failures - 1, 16)) * self._rng.uniform(0.5, 1.0)
        )

    def where(self, peer: Peer, failures: int = 0) -> str:
        """Return the address to dial: the peer's route if it has one. Otherwise the address in the
        configuration, alternating after failures with the address that the peer reported itself.
        """
        route = self._routes.get(peer.node.id)
        if route is not None:
            return route
        known: str = peer.node.address  # type: ignore[attr-defined]  # the library's Node takes any attribute
        return peer.reported_address if peer.reported_address and failures % 2 else known

    async def _dial(self, peer: Peer, address: str) -> float:
        """Dial once and wait until the connection is over; return the seconds it was ready for."""
        connection = self._new_connection(peer.node.id)
        try:
            async with asyncio.timeout(self._limits.handshake_s):
                await self._connect(lambda: connection, *split_address(address))
                ready = await connection.settled
        except (OSError, UnicodeError, BadRequest) as exc:
            self._failed(peer, address, connection, exc)
            return 0.0
        except asyncio.CancelledError:
            connection.close("dropped")
            raise
        if not ready:
            if peer.connection is None:
                peer.trouble = f"{address}: {connection.detail or connection.reason}"
            if connection.reason == "turned_away":
                self._on_refused(peer.node.id, connection.detail)
            return 0.0
        await asyncio.shield(connection.closed)
        return asyncio.get_running_loop().time() - connection.ready_at_s

    def _failed(self, peer: Peer, address: str, connection: Connection, exc: Exception) -> None:
        self._counters["dial_failed"] += 1
        if isinstance(exc, TimeoutError):
            reason, why = "handshake_timeout", "no answer in time"
        else:
            reason, why = "unreachable", getattr(exc, "strerror", None) or str(exc)
        connection.close(reason)
        if peer.connection is None:
            peer.trouble = f"{address}: {why}"
