"""Grant leases, let them live, look at them and end them, for this node's clients.

Never keeps a deadline: the leader's memory alone does. A grant and a revocation are intents like
any other; a keep-alive is none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, TypeVar

from kv.errors import BackendUnavailable, NotApplied
from kv.leases import (
    LEASE_KEYS_MAX,
    LEASES_MAX,
    LEASES_PREFIX,
    lease_for,
    lease_key,
    lease_of,
    ttl_of,
    ttl_value,
)
from kv.model import Absent, Answer, EndLease, Exists, Intent, Put
from kv.ports import Clock, Consensus, LeaseTime, Listing, StoreReader
from node.reads.reads import Reads
from node.reads.store_reads import check_snapshot
from node.settings import ServerSettings
from node.writes.writes import Writes

TIME_S_MIN: Final = 0.001
ENDING_WAIT_S: Final = 1.0
"""How long it is waited until a lease whose end is ordered has ended."""
ENDING_PAUSE_S: Final = 0.05
COUNT_AGAIN_S: Final = 10.0
COUNT_SELDOM_S: Final = 60.0
"""How long a count of all leases is used: near the bound, and far from it."""
COUNTED: Final = 1_000
"""Leases counted in one read."""

T = TypeVar("T")


class Leases:
    """The leases as one node serves them. Times are loop times, in seconds."""

    def __init__(
        self,
        consensus: Consensus,
        store: StoreReader,
        clock: Clock,
        settings: ServerSettings,
        *,
        reads: Reads,
        writes: Writes,
    ) -> None:
        self._consensus, self._store, self._clock = consensus, store, clock
        self._settings, self._reads, self._writes = settings, reads, writes
        self._count, self._counted_at = 0, float("-inf")
        """About how many leases there are, and when they were counted last."""

    @staticmethod
    def new_id(op_id: str) -> int:
        """Return the id of the lease that an operation grants."""
        return lease_for(op_id)

    async def grant(
        self, lease: int, ttl_ms: int, op_id: str, *, deadline: float, lifetime_s: float = 0.0
    ) -> Answer:
        """Grant a lease. It is refused (by its only guard) if the id is in use. Raises NotApplied,
        also when there are LEASES_MAX of them, and OutcomeUnknown.
        """
        await self._admit(deadline)
        key = lease_key(lease)
        intent = Intent(op_id, 0, (Absent(key),), (Put(key, ttl_value(ttl_ms)),))
        return await self._writes.one(intent, deadline=deadline, lifetime_s=lifetime_s, system=True)

    async def _admit(self, deadline: float) -> None:
        """Raise NotApplied when there are too many leases already, as far as this node knows: it
        counts them now and then, and what it grants meanwhile. Those that end are not counted off,
        so they are counted again soon once there seem to be many.
        """
        now = self._clock.monotonic()
        near = self._count > LEASES_MAX // 2
        if now >= self._counted_at + (COUNT_AGAIN_S if near else COUNT_SELDOM_S):
            self._counted_at = now
            with suppress(BackendUnavailable, NotApplied):
                self._count = await self._counted(deadline)
        if self._count >= LEASES_MAX:
            raise NotApplied("too_many_leases", f"there are {LEASES_MAX} leases or more")
        self._count += 1

    async def _counted(self, deadline: float) -> int:
        count, after, more = 0, b"", True
        while more and count < LEASES_MAX:
            start = after
            listing: Listing = await self._in_time(
                lambda left_s, start=start: self._store.list(  # type: ignore[misc]  # its own start
                    LEASES_PREFIX, after=start, limit=COUNTED, keys_only=True, timeout_s=left_s
                ),
                deadline,
            )
            count += len(listing.versions)
            more = listing.more and bool(listing.versions)
            after = listing.versions[-1].key if listing.versions else b""
        return count

    async def revoke(
        self, lease: int, op_id: str, *, deadline: float, lifetime_s: float = 0.0
    ) -> Answer:
        """End a lease with all its keys. It is refused (by its only guard) if there is no such
        lease. Raises NotApplied, OutcomeUnknown.
        """
        intent = Intent(op_id, 0, (Exists(lease_key(lease)),), (EndLease(lease),))
        return await self._writes.one(intent, deadline=deadline, lifetime_s=lifetime_s, system=True)

    async def time(self, lease: int, *, renew: bool, deadline: float) -> LeaseTime | None:
        """Return how long a lease lives, renewed if asked for; None: there is no such lease. Raises
        NotApplied.
        """
        return await self._consensus.lease_time(
            lease, renew=renew, timeout_s=self._left_s(deadline)
        )

    async def renewed(
        self, leases: Sequence[int], *, deadline: float
    ) -> list[LeaseTime | NotApplied | None]:
        """Let leases live their whole ttl from now on; return what became of each: None where there
        is none, and a refusal where it may or may not live on. Raises NotApplied when nothing is
        known of any.

        A lease whose end is ordered is asked for again until it has ended, or lives on because the
        leader changed.
        """
        found = await self._asked(leases, deadline)
        wait_until = min(deadline, self._clock.monotonic() + ENDING_WAIT_S)
        while ending := [n for n, each in enumerate(found) if _ends(each)]:
            if self._clock.monotonic() >= wait_until:
                break
            await asyncio.sleep(ENDING_PAUSE_S)
            again = await self._asked([leases[n] for n in ending], deadline)
            for n, each in zip(ending, again, strict=True):
                found[n] = each
        for each in found:
            if not isinstance(each, NotApplied):
                return found
        for each in found:
            assert isinstance(each, NotApplied)
            raise each
        return found

    async def _asked(
        self, leases: Sequence[int], deadline: float
    ) -> list[LeaseTime | NotApplied | None]:
        found = await asyncio.gather(
            *(self.time(lease, renew=True, deadline=deadline) for lease in leases),
            return_exceptions=True,
        )
        for each in found:
            if isinstance(each, BaseException) and not isinstance(each, NotApplied):
                raise each
        return found  # type: ignore[return-value]  # checked above

    async def keys(self, lease: int, *, deadline: float) -> tuple[bytes, ...]:
        """Return the keys attached to a lease, in byte order: those at some moment after the call.
        Raises NotApplied, BackendUnavailable.
        """
        await self._reads.confirm_store(deadline)
        self._reads.store.check_refusal()
        return await self._in_time(
            lambda left_s: self._store.attached(lease, limit=LEASE_KEYS_MAX, timeout_s=left_s),
            deadline,
        )

    async def page(
        self, after: int, limit: int, *, deadline: float
    ) -> tuple[list[tuple[int, int]], bool]:
        """Return (lease, ttl in milliseconds) of leases with higher ids, by id, and whether there
        are more. Raises NotApplied, BackendUnavailable.
        """
        await self._reads.confirm_store(deadline)
        self._reads.store.check_refusal()
        settled = self._consensus.settled
        listing: Listing = await self._in_time(
            lambda left_s: self._store.list(
                LEASES_PREFIX,
                after=lease_key(after) if after else b"",
                limit=limit,
                settled=settled.last,
                timeout_s=left_s,
            ),
            deadline,
        )
        check_snapshot(settled, listing.head, listing.digest_at)
        found = [
            (lease_of(version.key), ttl_of(version.value))
            for version in listing.versions
            if isinstance(version.value, bytes)
        ]
        return found, listing.more

    async def _in_time(self, work: Callable[[float], Awaitable[T]], deadline: float) -> T:
        left_s = min(self._left_s(deadline), self._settings.store_timeout_s)
        try:
            async with asyncio.timeout(left_s):
                return await work(left_s)
        except TimeoutError as exc:
            raise BackendUnavailable("store", f"no answer within {left_s:.1f} s") from exc

    def _left_s(self, deadline: float) -> float:
        return max(deadline - self._clock.monotonic(), TIME_S_MIN)


def _ends(found: LeaseTime | NotApplied | None) -> bool:
    """Return whether it is said of a lease that its end is ordered, and not known yet."""
    return isinstance(found, NotApplied) and found.reason == "lease_ending"
