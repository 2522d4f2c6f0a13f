"""Resolve the name of a peer and connect to it.

It never caches an address beyond one dial, and never judges who answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

ADDRESSES_MAX: Final = 8
"""Number of addresses of one name that are tried."""


class Dialer:
    """A connector to peers.

    It resolves a name at every dial, because a peer that moved to another machine keeps its name
    but has another address.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, timeout_s: float, tls: ssl.SSLContext | None = None
    ) -> None:
        """`timeout_s` is the time for a whole dial, divided equally among the addresses tried."""
        self._loop, self._timeout_s, self.tls = loop, timeout_s, tls
        self._lookups: dict[str, asyncio.Future[Any]] = {}

    async def connect(
        self, factory: Callable[[], asyncio.BaseProtocol], host: str, port: int
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """Connect to the first address of the host that answers.

        Raises the OSError of the last address that was tried.
        """
        found = await self._look_up(host)
        share_s = self._timeout_s / len(found)
        refused: OSError = OSError(f"{host} stands for no address")
        for numeric in found:
            try:
                async with asyncio.timeout(share_s):
                    return await self._loop.create_connection(factory, numeric, port, ssl=self.tls)
            except OSError as exc:  # a TimeoutError is one
                refused = exc
        raise refused

    async def _look_up(self, host: str) -> list[str]:
        """Return the addresses of a name, at most ADDRESSES_MAX.

        A slow resolver may take longer than one dial may. The next dial therefore joins the look-up
        that is under way. Otherwise a resolver that takes a minute would occupy one more thread for
        every dial of that minute.
        """
        with contextlib.suppress(ValueError):
            return [str(ipaddress.ip_address(host))]
        lookup = self._lookups.get(host)
        if lookup is None:
            lookup = asyncio.ensure_future(
                self._loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            )
            self._lookups[host] = lookup
            lookup.add_done_callback(lambda ended: self._looked_up(host, ended))
        found = await asyncio.shield(lookup)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))[:ADDRESSES_MAX]

    def _looked_up(self, host: str, ended: asyncio.Future[Any]) -> None:
        self._lookups.pop(host, None)
        if not ended.cancelled():
            # Retrieve the exception. If no dial waits any more, asyncio would otherwise log that it
            # was never retrieved.
            ended.exception()

    def close(self) -> list[asyncio.Future[Any]]:
        """Cancel the look-ups that are under way; return them, to be awaited."""
        for lookup in (left := list(self._lookups.values())):
            lookup.cancel()
        return left
