"""Start transports of several members on loopback, for the tests of this directory."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from typing import Any

from pysyncobj.node import Node

from cluster.ports import free_port
from coordinator.raft.net.codec import Codec
from coordinator.raft.net.connection import TransportLimits
from coordinator.raft.net.security import Open, Security
from coordinator.raft.net.transport import AsyncioTransport
from tests.unit.raft.net.stock_messages import STOCK

QUICK = TransportLimits(
    handshake_s=0.5, keepalive_s=0.05, dead_after_s=0.4, retry_s=0.01, retry_max_s=0.05
)
PATIENCE_S = 20.0


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the bound is for a test that hangs, and asserts nothing."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)


class Member:
    """One transport and what it told its core."""

    def __init__(
        self,
        member: str,
        addresses: dict[str, str],
        *,
        security: Security | None = None,
        cluster: str = "test",
        limits: TransportLimits = QUICK,
        **options: Any,
    ) -> None:
        self.id = member
        self.received: list[tuple[str, dict[str, Any]]] = []
        self.events: list[tuple[str, str]] = []
        self.wakes = 0
        self.fatal: list[BaseException] = []
        self.nodes = {name: Node(name, address=address) for name, address in addresses.items()}
        self.transport = AsyncioTransport(
            cluster,
            self.nodes[member],
            addresses[member],
            Codec(*STOCK),
            rng=random.Random(member),
            entropy=os.urandom,
            security=security or Open(),
            wake=self._wake,
            on_fatal=self.fatal.append,
            nodes=[node for name, node in self.nodes.items() if name != member],
            limits=limits,
            **options,
        )
        self.transport.setOnMessageReceivedCallback(
            lambda node, message: self.received.append((node.id, message))
        )
        self.transport.setOnNodeConnectedCallback(lambda node: self.events.append(("up", node.id)))
        self.transport.setOnNodeDisconnectedCallback(
            lambda node: self.events.append(("down", node.id))
        )
        self.transport.setOnReadonlyNodeConnectedCallback(
            lambda node: self.events.append(("observer up", node.id))
        )
        self.transport.setOnReadonlyNodeDisconnectedCallback(
            lambda node: self.events.append(("observer down", node.id))
        )

    def _wake(self) -> None:
        self.wakes += 1

    def send(self, to: str, message: dict[str, Any]) -> bool:
        return self.transport.send(self.nodes[to], message)

    def connected(self, to: str) -> bool:
        return self.transport.connected(self.nodes[to])


async def closed(*members: Member) -> None:
    """Close them; none of them has failed."""
    for member in members:
        await member.transport.aclose()
        assert not member.fatal


def addresses(*members: str) -> dict[str, str]:
    return {member: f"127.0.0.1:{free_port()}" for member in members}


def vote(term: int) -> dict[str, Any]:
    return {"type": "response_vote", "term": term}


def command(content: bytes) -> dict[str, Any]:
    return {"type": "apply_command", "command": content}
