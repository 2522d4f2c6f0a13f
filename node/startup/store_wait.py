"""Open the store and claim it for this cluster, waiting for a server that does not answer yet."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Final

import structlog

from cluster.settings.loading import redacted
from cluster.settings.node import NodeSettings
from kv.errors import BackendUnavailable, BadRequest, OutcomeUnknown
from kv.ports import Identity
from node.startup.backends import Backends
from node.startup.unready_listener import UnreadyListener

SERVED_STORES: Final = ("postgres", "cockroach")
"""Stores that run as a server, which may be started later: the node waits for them. A file store
either exists or does not.
"""
STORE_BACKOFF_S: Final = (0.25, 5.0)
STORE_SILENCE_S: Final = 1.0
"""After this time without an answer the node starts to report that it waits."""

_log = structlog.get_logger("acordo.node")


async def store_opened(
    entering: Callable[[], Awaitable[None]],
    settings: NodeSettings,
    listening: socket.socket,
    stop: asyncio.Future[bool],
    tls: ssl.SSLContext | None = None,
) -> bool:
    """Open the store, retrying while its server does not answer; meanwhile /livez answers ok and
    every other path says what the node waits for.

    Returns whether the store is open: False when the node was asked to stop first. Raises
    BadRequest for a configuration that must be fixed, and BackendUnavailable for a store that is
    not a server.
    """
    if settings.replicated or not settings.store_url.startswith(SERVED_STORES):
        await entering()
        return True
    listener = UnreadyListener(settings.node_id, tls)
    async with listener:
        backoff_s = STORE_BACKOFF_S[0]
        while True:
            opening = asyncio.ensure_future(entering())
            await asyncio.wait(
                (opening, stop), timeout=STORE_SILENCE_S, return_when=asyncio.FIRST_COMPLETED
            )
            if not opening.done():
                await listener.listen(listening)
            await asyncio.wait((opening, stop), return_when=asyncio.FIRST_COMPLETED)
            if stop.done():
                opening.cancel()
                await asyncio.wait((opening,))
                return False
            try:
                opening.result()
                return True
            except (BackendUnavailable, OutcomeUnknown) as exc:
                _log.warning("the store does not answer yet", reason=str(exc), again_in_s=backoff_s)
                listener.reason = str(exc)
                await listener.listen(listening)
            await asyncio.wait((stop,), timeout=backoff_s * random.uniform(0.75, 1.25))
            backoff_s = min(backoff_s * 2, STORE_BACKOFF_S[1])
            if stop.done():
                return False


async def open_claimed(
    stack: AsyncExitStack, backends: Backends, settings: NodeSettings, cluster: str
) -> None:
    """Open the store before any part of Raft starts, and claim a shared one for this cluster.
    Raises BadRequest("foreign_store").

    A member's own store is not claimed: what its file holds is held against the log later (R5).
    """
    if backends.own is not None:
        await stack.enter_async_context(backends.own)
    if (store := backends.store) is None:
        return
    async with AsyncExitStack() as opening:
        await opening.enter_async_context(store)
        held = await store.claim(Identity(cluster), timeout_s=settings.store_timeout_s)
        if held.cluster_id != cluster:
            shown = redacted(settings)["ACORDO_STORE"]
            raise BadRequest(
                "foreign_store",
                f"{shown} is the store of cluster {held.cluster_id!r}; this is {cluster!r}",
                allowed="a store of its own; one restored from a backup goes on with "
                f"--cluster-id {held.cluster_id}, and `acordo adopt` once it is up",
            )
        stack.push_async_exit(opening.pop_all())
