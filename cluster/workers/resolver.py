"""Resolve the names of targets to addresses that deliveries may go to, and to no others.

The connection goes to what was judged here: a name that answers otherwise a moment later leads
nowhere else.
"""

from __future__ import annotations

import asyncio
import socket

from aiohttp.abc import AbstractResolver, ResolveResult

from cluster.workers.addresses import forbidden


class Forbidden(OSError):
    """A target lies where deliveries may not go."""


class CheckedResolver(AbstractResolver):
    """A resolver that refuses a name if any of its addresses is not public."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return every address of a name, v4 and v6. Raises Forbidden."""
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, family=socket.AF_UNSPEC, flags=socket.AI_ADDRCONFIG
        )
        allowed: list[ResolveResult] = []
        for kind, _, proto, _, address in found:
            ip = str(address[0])
            if not self._allow_private and (why := forbidden(ip)):
                # One bad address is enough: names may answer in any order.
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
        """Close nothing: the machine's own resolver is asked."""
