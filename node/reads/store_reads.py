"""Read the store, and refuse a snapshot that lacks what this node knows to be settled."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from kv.errors import BackendUnavailable, NotApplied, store_refused
from kv.model import Head, Reference, Version
from kv.ports import Clock, Consensus, MemberStore, Read, Store
from node.http.steps import in_task
from node.judging.freshness import snapshot_serves
from node.judging.positions import check_given
from node.judging.store_identity import check_store_identity
from node.judging.store_kind import reader_of
from node.reads.memory import MemoryTier
from node.settings import ServerSettings


class StoreReads:
    """The store as the reads of one node see it: judged snapshots, and large values."""

    def __init__(
        self,
        consensus: Consensus,
        store: Store | None,
        memory: MemoryTier,
        clock: Clock,
        settings: ServerSettings,
        *,
        own: MemberStore | None = None,
    ) -> None:
        self._consensus, self._memory = consensus, memory
        self._shared, self._store = store, reader_of(store, own)
        self._clock, self._settings = clock, settings

    async def snapshot(
        self,
        keys: Sequence[bytes],
        *,
        at: int | None = None,
        settled: Head | None = None,
        timeout_s: float,
    ) -> Read:
        """Read many keys in one store snapshot that begins now.

        With a shared store the result is linearizable by itself (INV-2). With the member's own it
        is so if a quorum confirmed this node's position before the call.

        `at`: the revision to read at; None: the newest. `settled`: the head that the snapshot must
        contain, by default this node's.

        Raises NotApplied("store_refused"), BackendUnavailable, Pruned,
        BadRequest("future_revision").
        """
        self.check_refusal()
        await in_task()
        settled = settled or self._consensus.settled
        try:
            async with asyncio.timeout(timeout_s):
                read = await self._store.read(
                    keys, at=at, settled=settled.last, timeout_s=timeout_s
                )
        except TimeoutError as exc:
            raise BackendUnavailable("store", f"no answer within {timeout_s:.1f} s") from exc
        check_snapshot(settled, read.head, read.digest_at)
        await check_store_identity(self._consensus, self._shared, settled, timeout_s=timeout_s)
        if at is not None:
            check_given(at, read.head.last, "revision")
        return read

    def check_refusal(self) -> None:
        """Raise NotApplied (store_refused, store_foreign) while the store does not match what was
        settled.
        """
        refusal = self._consensus.refusal
        if refusal is not None:
            raise store_refused(refusal)

    async def value_of(self, version: Version, *, deadline: float) -> bytes | None:
        """Return the value of a version, fetching it from the store when it is a reference to a
        large value; None for a tombstone.

        Raises BackendUnavailable, also when the large value is no longer kept.
        """
        value = version.value
        if not isinstance(value, Reference):
            return value
        held = self._memory.blob(value)
        if held is not None:
            return held
        await in_task()
        left = min(deadline - self._clock.monotonic(), self._settings.store_timeout_s)
        fetched = await self._store.blob(value, timeout_s=max(left, 0.001))
        if fetched is None:
            raise BackendUnavailable(
                "store", f"the large value of revision {version.revision} is not there"
            )
        self._memory.keep_blob(value, fetched)
        return fetched


def check_snapshot(settled: Head, head: Head, digest_at: bytes | None) -> None:
    """Raise NotApplied("store_refused") unless the snapshot contains what was settled when it
    began.
    """
    if not snapshot_serves(settled, head, digest_at):
        raise NotApplied(
            "store_refused",
            f"the store ends at revision {head.last} and is not what was settled up to "
            f"{settled.last}",
            retry_after_s=5,
        )
