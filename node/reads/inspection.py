"""Check all of one node's store at once: every version against its hash, every row against its
digests, the indexes, and what is present against the other members, by a digest of it.

It repairs nothing, and takes a step at a time, so that reads go on between them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from kv.errors import Pruned, StoreDamaged
from kv.ports import MemberStore, StoreReader

PAGE_KEYS: Final = 500
FLAWS_MAX: Final = 100
"""Flaws that are named; further ones are counted."""

_pack = msgspec.msgpack.Encoder().encode


class Inspected(msgspec.Struct, frozen=True, kw_only=True):
    """How far an inspection has come, and what it has found by then."""

    node: str
    revision: int
    """The revision as of which the keys are compared with other members'."""
    versions: int = 0
    """Versions whose values are what was written, as far as their hashes tell."""
    rows: int = 0
    """The newest row of the own ledger whose digests were recomputed; 0: a shared store's are
    recomputed by who asks.
    """
    keys: int = 0
    digest: str = ""
    """Over every present key with everything of its version but the value: the same on every
    member. Empty until the end.
    """
    flaws: tuple[str, ...] = ()
    flaws_total: int = 0
    done: bool = False


class Inspection:
    """One inspection. `steps` is called once."""

    def __init__(
        self,
        node: str,
        store: StoreReader,
        own: MemberStore | None,
        revision: int,
        timeout_s: float,
    ) -> None:
        self._store, self._own, self._timeout_s = store, own, timeout_s
        self.found = Inspected(node=node, revision=revision)

    async def steps(self) -> AsyncIterator[Inspected]:
        """Yield what was found after every step. Raises BackendUnavailable, Pruned."""
        for part in (self._versions, self._rows, self._indexes, self._present):
            async for _ in part():
                yield self.found
                await asyncio.sleep(0)
        self._note(done=True)
        yield self.found

    def _note(self, **found: object) -> None:
        self.found = msgspec.structs.replace(self.found, **found)

    def _flaw(self, what: str) -> None:
        flaws, total = self.found.flaws, self.found.flaws_total
        if len(flaws) < FLAWS_MAX:
            flaws += (what,)
        self._note(flaws=flaws, flaws_total=total + 1)

    async def _versions(self) -> AsyncIterator[None]:
        """Check every version that is kept against its hash, and every large value."""
        reached, more = 0, True
        while more:
            step = await self._store.scrub(reached, timeout_s=self._timeout_s)
            for key, revision in step.damaged:
                self._flaw(f"the version of {key!r} at revision {revision} is damaged")
            for reference in step.references:
                try:
                    if await self._store.blob(reference, timeout_s=self._timeout_s) is None:
                        self._flaw(f"the large value of {reference.op_id} is missing")
                except StoreDamaged as exc:
                    self._flaw(str(exc))
            self._note(versions=self.found.versions + step.versions - len(step.damaged))
            reached, more = step.reached, step.more
            yield

    async def _rows(self) -> AsyncIterator[None]:
        """Recompute the digests of the own ledger's rows, from what they made."""
        if self._own is None:
            return
        reached = 0
        while True:
            following, damaged = await self._own.damaged_rows(reached, timeout_s=self._timeout_s)
            for seq in damaged:
                self._flaw(f"row {seq} of the ledger, or what it made, is not what was written")
            newest = self._own.newest
            self._note(rows=following or (0 if newest is None else newest.seq))
            yield
            if not following:
                return
            reached = following

    async def _indexes(self) -> AsyncIterator[None]:
        """Check the pages of the own file, and its indexes against the tables."""
        if self._own is not None:
            for why in await self._own.broken_pages():
                self._flaw(f"in the file: {why}")
            yield

    async def _present(self) -> AsyncIterator[None]:
        """Roll a digest over everything that is present at the revision."""
        floor = await self._store.floor(timeout_s=self._timeout_s)
        if floor > self.found.revision:
            raise Pruned(floor)
        rolled, after = hashlib.blake2b(digest_size=16), b""
        while True:
            page = await self._store.list(
                b"",
                after=after,
                limit=PAGE_KEYS,
                at=self.found.revision,
                keys_only=True,
                timeout_s=self._timeout_s,
            )
            for each in page.versions:
                rolled.update(
                    _pack((each.key, each.revision, each.expires_ms, each.create_revision,
                           each.version, each.lease))
                )  # fmt: skip
            self._note(keys=self.found.keys + len(page.versions))
            yield
            if not page.more or not page.versions:
                break
            after = page.versions[-1].key
        self._note(digest=rolled.hexdigest())
