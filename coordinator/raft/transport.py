"""Carry messages between members on the event loop: no threads, bounded queues, authenticated frames.

Skeleton: signatures first.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

from pysyncobj.node import Node
from pysyncobj.transport import Transport

from coordinator.raft.wire import Codec


class AsyncioTransport(Transport):
    """Nodes have `.id` (member id) and `.address` ("host:port"); a node with `.readonly = True` is an observer that is
    told to the core by the readonly callbacks. The lower id dials."""

    def __init__(
        self,
        cluster: str,
        self_node: Node,
        listen_address: str,
        codec: Codec,
        *,
        random: random.Random,
        entropy: Callable[[int], bytes],
        security: Any = None,
        kick: Callable[[], None],
        on_fatal: Callable[[BaseException], None],
        nodes: Iterable[Node] = (),
    ) -> None: ...

    async def start(self) -> None:
        """Listen and begin to dial. Raises BadRequest (port in use, unprotected address)."""

    def addNode(self, node: Node) -> None: ...
    def dropNode(self, node: Node) -> None: ...
    def send(self, node: Node, message: dict[str, Any]) -> bool:
        """Queue for the peer; False: it is in no queue and never will be sent. A message is not changed afterwards."""
        ...

    def last_seen_s(self, node: Node) -> float | None:
        """Seconds since anything came from it."""
        ...

    def destroy(self) -> None: ...
    async def aclose(self) -> None: ...
