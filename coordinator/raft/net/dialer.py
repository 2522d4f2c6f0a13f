"""Look up the name of a peer and connect to it.

It never keeps what a name stood for longer than one dial, and never judges who answers.
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
"""Of what a name stands for, so many are tried."""


class Dialer:
    """Connects to one peer after another.

    A name is looked up at every dial: a peer that moved to another machine keeps its name and has
    another address.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, timeout_s: float, tls: ssl.SSLContext | None = None
    ) -> None:
        """`timeout_s`: what a dial has in all; each address of a name gets its share."""
        self._loop, self._timeout_s, self._tls = loop, timeout_s, tls
        self._lookups: dict[str, asyncio.Future[Any]] = {}

    async def connect(
        self, factory: Callable[[], asyncio.BaseProtocol], host: str, port: int
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """Connect to the first address of the host that answers.

        Raises OSError, of the last address that was tried.
        """
        found = await self._look_up(host)
        share_s = self._timeout_s / len(found)
        refused: OSError = OSError(f"{host} stands for no address")
        for numeric in found:
            try:
                async with asyncio.timeout(share_s):
                    return await self._loop.create_connection(factory, numeric, port, ssl=self._tls)
            except OSError as exc:  # a TimeoutError is one
                refused = exc
        raise refused

    async def _look_up(self, host: str) -> list[str]:
        """Return the addresses of a name.

        A resolver that hangs outlasts the patience of one dial. Its answer then serves the next
        one, which joins the look-up that is under way: else a resolver that takes a minute would
        collect a thread for every dial of that minute.
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
            # Whoever waited has got it. If nobody did, asyncio would complain of an exception that
            # was never retrieved.
            ended.exception()

    def close(self) -> list[asyncio.Future[Any]]:
        """Give up what is being looked up; return it, to be awaited."""
        for lookup in (left := list(self._lookups.values())):
            lookup.cancel()
        return left
