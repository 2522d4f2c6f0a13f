"""Grant the leases of a load before their keys are written, and keep them alive until it is over.

Never ends a lease: afterwards its owner keeps it alive, or it ends by itself.
"""

from __future__ import annotations

import asyncio
from typing import Final

from acordo._client import Client
from acordo._errors import AcordoError, BadRequest, NotApplied

EXISTS: Final = "lease_exists"
RENEWED_AT_ONCE: Final = 16
PAUSE_S: Final = 0.5
"""How often it is looked which leases are to be kept alive. It is done at a third of their ttl."""
TRIES_MAX: Final = 5


class Leases:
    """The leases that a load has granted or found. `run` keeps them alive until it is cancelled."""

    def __init__(self, client: Client, *, timeout_s: float) -> None:
        self._client, self._timeout_s = client, timeout_s
        self._ttl_s: dict[str, float] = {}
        self._due_s: dict[str, float] = {}
        """When each is to be kept alive again, by the loop's clock."""

    @property
    def count(self) -> int:
        """Return how many leases the load has granted, or found."""
        return len(self._ttl_s)

    async def ensure(self, lease: str, ttl_s: float) -> None:
        """Return once a lease is there. Raises NotApplied, OutcomeUnknown, BadRequest."""
        if lease not in self._due_s:
            await self._grant(lease, ttl_s)
            self._ttl_s[lease] = ttl_s
            self._due_s[lease] = asyncio.get_running_loop().time() + ttl_s / 3

    def forget(self, lease: str) -> None:
        """Take a lease for ended: the next line that has it grants it again."""
        self._due_s.pop(lease, None)

    async def run(self) -> None:
        """Keep the leases alive."""
        while True:
            await asyncio.sleep(PAUSE_S)
            now_s = asyncio.get_running_loop().time()
            due = [lease for lease, at_s in self._due_s.items() if at_s <= now_s]
            for n in range(0, len(due), RENEWED_AT_ONCE):
                await asyncio.gather(*map(self._renew, due[n : n + RENEWED_AT_ONCE]))

    async def _renew(self, lease: str) -> None:
        asked_s = asyncio.get_running_loop().time()
        try:
            found = await self._client.keep_alive(lease, timeout_s=self._timeout_s)
        except AcordoError:
            return  # it stays due
        if found is None:
            self.forget(lease)
        elif lease in self._due_s:
            self._due_s[lease] = asked_s + self._ttl_s[lease] / 3

    async def _grant(self, lease: str, ttl_s: float) -> None:
        """Grant a lease, or find that it is there: an earlier run granted it."""
        for _ in range(TRIES_MAX):
            try:
                await self._client.grant_lease(ttl_s, lease=lease, timeout_s=self._timeout_s)
                return
            except BadRequest as exc:
                if exc.code != EXISTS:
                    raise
            if await self._client.keep_alive(lease, timeout_s=self._timeout_s) is not None:
                return
        raise NotApplied(f"lease {lease} ends each time it is granted", reason="lease_ends")
