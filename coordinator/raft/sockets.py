"""Define what a member needs of a transport, and make a factory of transports over sockets.

Never opens anything itself: the member that is given the factory does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Final, Protocol

from pysyncobj.node import Node

from coordinator.raft.core.messages import ALL, STATE_APART, STATE_ASKS
from coordinator.raft.net.codec import Codec
from coordinator.raft.net.connection import TransportLimits
from coordinator.raft.net.peer_identity import PeerIdentity
from coordinator.raft.net.security import Security
from coordinator.raft.net.transport import AsyncioTransport

REDIAL_S_MAX: Final = 0.25
"""The longest pause before a peer is dialled again. It is short because a member that has come back
must be connected before the next failure.
"""


class MemberTransport(Protocol):
    """The interface that a member needs of a transport, beyond the library's own."""

    async def start(self) -> None:
        """Start to listen and dial."""
        ...

    def flush(self) -> None:
        """Write what was queued now; nothing more will be sent in this turn of the loop."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...

    identity: Callable[[], PeerIdentity]
    """Returns the identity to send with our hello."""
    judge: Callable[[str, PeerIdentity], tuple[str, str] | None]
    """(peer that has proved itself, its identity) -> (reason, detail) for refusing it, or None."""
    on_refused: Callable[[str, str], None]
    """Called with (peer, the reason it gave) when a peer refuses our connection."""


TransportFactory = Callable[[Node, Callable[[], None], Callable[[BaseException], None]], Any]
"""(own node, wake, on_fatal) -> a `pysyncobj.transport.Transport` that is a MemberTransport too."""


def over_sockets(
    cluster: str,
    listen: str,
    security: Security,
    *,
    rng: Random,
    entropy: Callable[[int], bytes],
    limits: TransportLimits | None = None,
    routes: Mapping[str, str] | None = None,
) -> TransportFactory:
    """Return a factory of transports with authenticated connections over sockets.

    `routes` overrides the addresses at which this member dials others.
    """

    def make(
        node: Node, wake: Callable[[], None], on_fatal: Callable[[BaseException], None]
    ) -> AsyncioTransport:
        return AsyncioTransport(
            cluster,
            node,
            listen,
            Codec(*ALL),
            rng=rng,
            entropy=entropy,
            security=security,
            wake=wake,
            on_fatal=on_fatal,
            limits=limits or TransportLimits(retry_max_s=REDIAL_S_MAX),
            routes=routes,
            apart=STATE_APART,
            asks=STATE_ASKS,
        )

    return make
