"""Hold a subscription for one worker at a time, by a key with a time to live that is renewed.

A delivery never begins if it might still be under way when another worker takes over.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import structlog

import acordo
from acordo import AcordoError, Client, PreconditionFailed, Refused
from cluster.workers import rules

RELIED_ON: Final = 0.7
"""Fraction of the lease time that the holder relies on. The cluster counts from the moment it
receives the renewal, the holder from before it sent it; the remaining fraction covers clocks that
run at different speeds.
"""
RENEWALS: Final = 5
"""Number of renewals attempted within one lease time."""
RELEASE_TIMEOUT_S: Final = 2.0

_log = structlog.get_logger("acordo.webhooks")


class Lost(Exception):
    """The lease belongs to another worker, or may do so."""


class Lease:
    """The right of one worker to serve one subscription. `as_written`: a guard that holds as long
    as nobody rewrites it, if it stands as a key.
    """

    def __init__(
        self,
        client: Client,
        *,
        worker: str,
        subscription: str,
        as_written: acordo.Guard | None,
        lease_s: float,
    ) -> None:
        self._client, self._worker = client, worker
        self._subscription = subscription
        self._as_written = () if as_written is None else (as_written,)
        self._lease_s = lease_s
        self._held_until = 0.0
        self.revision = 0
        """Revision of the lease's own key at the last renewal."""
        self.fence = 0
        """Revision at which the lease was taken. Every later holder has a higher one."""

    @property
    def guard(self) -> acordo.Guard:
        """Guard that keeps a write from being applied once another worker holds the lease."""
        return acordo.at_revision(rules.LEASES + self._subscription, self.revision)

    async def take(self) -> bool:
        """Take the lease; return False if another worker holds it."""
        asked = _now()
        try:
            written = await self._client.put(
                rules.LEASES + self._subscription, self._worker, ttl_s=self._lease_s, exists=False
            )
        except PreconditionFailed:
            return False
        self.revision = self.fence = written.revision
        self._held_until = asked + self._lease_s * RELIED_ON
        _log.info("subscription taken", subscription=self._subscription, fence=self.fence)
        return True

    async def keep(self) -> None:
        """Renew the lease repeatedly. Raises Lost if that fails or the subscription has changed."""
        while True:
            await asyncio.sleep(self._lease_s / RENEWALS)
            asked = _now()
            try:
                done = await self._client.txn(
                    guards=(self.guard, *self._as_written),
                    writes=(
                        acordo.put(
                            rules.LEASES + self._subscription, self._worker, ttl_s=self._lease_s
                        ),
                    ),
                    timeout_s=self._lease_s / 2,
                )
            except Refused as exc:
                raise Lost("the lease or the subscription changed") from exc
            except AcordoError:
                if _now() >= self._held_until:
                    raise Lost("the lease could not be renewed") from None
                continue
            self.revision, self._held_until = done.revision, asked + self._lease_s * RELIED_ON

    def check(self, need_s: float) -> None:
        """Raise Lost unless the lease is held for at least `need_s` more seconds."""
        if _now() + need_s > self._held_until:
            raise Lost("the lease may run out before the answer comes")

    async def release(self) -> None:
        """Delete the lease, so that another worker can take over at once. If that fails, it
        expires.
        """
        with contextlib.suppress(AcordoError, TimeoutError):
            async with asyncio.timeout(RELEASE_TIMEOUT_S):
                await self._client.delete(
                    rules.LEASES + self._subscription, if_revision=self.revision
                )


def _now() -> float:
    return asyncio.get_running_loop().time()
