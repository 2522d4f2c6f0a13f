"""Resolve host names of targets, only to addresses that deliveries may go to.

The connection uses exactly the addresses that were checked here, so a name that resolves
differently a moment later (DNS rebinding) cannot redirect it.
"""

from __future__ import annotations

import asyncio
import socket

from aiohttp.abc import AbstractResolver, ResolveResult

from cluster.workers.addresses import forbidden


class Forbidden(OSError):
    """A target has an address that deliveries may not go to."""


class CheckedResolver(AbstractResolver):
    """A resolver that refuses a name if any of its addresses is not public."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return every IPv4 and IPv6 address of a name. Raises Forbidden if one is not allowed."""
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, family=socket.AF_UNSPEC, flags=socket.AI_ADDRCONFIG
        )
        allowed: list[ResolveResult] = []
        for kind, _, proto, _, address in found:
            ip = str(address[0])
            if not self._allow_private and (why := forbidden(ip)):
                # One forbidden address is enough to refuse the name, because DNS may return the
                # addresses in any order and aiohttp might connect to that one.
                raise Forbidden(f"{host}: {why}")
            allowed.append(
                ResolveResult(
                    hostname=host,
                    host=ip,
                    port=port,
                    family=kind,
                    proto=proto,
                    flags=socket.AI_NUMERICHOST,
                )
            )
        return allowed

    async def close(self) -> None:
        """Do nothing: lookups go through the machine's own resolver."""
