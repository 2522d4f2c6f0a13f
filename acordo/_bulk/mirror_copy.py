"""Make what a mirror's target holds under a prefix the same as a listing of the source.

Both listings are read side by side, in order and in pages. Each key is written only if it differs,
and only as the target was seen: what somebody else put there meanwhile is not overwritten unseen.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final, NamedTuple, cast

from acordo import _intents as intents
from acordo._bulk.mirror_parts import GUARDED_MAX, REQUEST_BYTES, Packing, ttl_left_s
from acordo._bulk.mirror_point import SYSTEM_PREFIX, Foreign
from acordo._bulk.mirror_target import Target, answered
from acordo._client import Client
from acordo._errors import NotApplied, TransactionRefused
from acordo._intents import Write
from acordo._results import Found, Page, Reading

PAGE_KEYS: Final = 500
PAGE_TIMEOUT_S: Final = 30.0
TOLERANCE_MS: Final = 2000
"""Ends of a key that are no further apart are the same."""
NAMED_MAX: Final = 3
TRIES_MAX: Final = 8


class Clocks(NamedTuple):
    """The log times of both clusters, in milliseconds."""

    source_ms: int
    target_ms: int


class Difference(NamedTuple):
    """A key that the target does not hold as the source does."""

    key: bytes
    source: Found | None
    """None: it is to be deleted."""
    seen: int
    """The revision at which the target holds it; 0: it does not."""

    def write(self, now_ms: int) -> Write:
        """Return what makes it the same."""
        found = self.source
        if found is None:
            return intents.delete(self.key)
        ttl_s = ttl_left_s(found.expires_ms, found.lease, now_ms)
        return intents.put(self.key, found.value, ttl_s=ttl_s)


class Copy:
    """One copy of a listing into the target."""

    def __init__(
        self,
        source: Client,
        target: Target,
        prefix: bytes,
        *,
        revision: int,
        clocks: Clocks,
        replace: bool,
        count: Callable[[int, int], None] = lambda written, deleted: None,
    ) -> None:
        self._source, self._target, self._prefix = source, target, prefix
        self._revision, self._clocks, self._replace = revision, clocks, replace
        self._count = count

    async def refuse_foreign(self) -> None:
        """Raise Foreign if the target holds anything under the prefix that the source does not."""
        named: list[bytes] = []
        async with aclosing(self._differences()) as found:
            async for each in found:
                named += [each.key] if each.seen else []
                if len(named) == NAMED_MAX:
                    break
        if named:
            raise _foreign(named)

    async def run(self) -> None:
        """Write all that differs, in transactions that are as large as they may be. Raises Foreign
        for a key to be deleted that no mirror wrote; and what `Target.commit` raises.
        """
        packing = Packing[Difference](GUARDED_MAX, REQUEST_BYTES // 2)
        async with aclosing(self._differences()) as found:
            async for each in found:
                if part := packing.add(each, each.write(self._clocks.source_ms)):
                    await self._write(part)
        if part := packing.rest():
            await self._write(part)

    async def _write(self, part: list[Difference]) -> None:
        for _ in range(TRIES_MAX):
            if not self._replace:
                for each in part:
                    if each.source is None and not await self._target.wrote(each.seen):
                        raise _foreign([each.key])
            writes = [each.write(self._clocks.source_ms) for each in part]
            guards = [intents.at_revision(each.key, each.seen) for each in part]
            try:
                await self._target.commit(self._target.stored, writes, guards)
            except TransactionRefused:
                part = await self._seen_again(part)
            else:
                puts = sum(each.source is not None for each in part)
                self._count(puts, len(part) - puts)
                return
            if not part:
                return
        raise NotApplied(
            f"somebody else keeps changing {_named([each.key for each in part[:NAMED_MAX]])} in "
            "the target",
            reason="mirror_disturbed",
            advice="let nobody else write under the prefix there; then run the command again",
        )

    async def _seen_again(self, part: list[Difference]) -> list[Difference]:
        """Return what still differs, as the target is now: a key's time may have ended there."""
        again = []
        for each in part:
            key, client = each.key, self._target.client

            async def read(key: bytes = key, client: Client = client) -> Reading:
                return await client.read(key, level="linearizable")

            now = await answered(read, self._target.give_up_s)
            if not self._same(each.source, now if now.present else None):
                again.append(each._replace(seen=now.revision))
        return again

    async def _differences(self) -> AsyncGenerator[Difference, None]:
        """Iterate over the keys that differ, in order."""
        theirs = self._listed(self._source, self._revision)
        ours = self._listed(self._target.client, None)
        async with aclosing(theirs), aclosing(ours):
            left, right = await anext(theirs, None), await anext(ours, None)
            while left is not None or right is not None:
                if right is None or (left is not None and left.key < right.key):
                    assert left is not None
                    yield Difference(left.key, left, 0)
                    left = await anext(theirs, None)
                elif left is None or right.key < left.key:
                    yield Difference(right.key, None, right.revision)
                    right = await anext(ours, None)
                else:
                    if not self._same(left, right):
                        yield Difference(left.key, left, right.revision)
                    left, right = await anext(theirs, None), await anext(ours, None)

    async def _listed(self, client: Client, revision: int | None) -> AsyncGenerator[Found, None]:
        """Iterate over the keys that are mirrored."""
        token: str | None = None
        while True:
            page = await answered(
                _page(client, self._prefix, revision, token), self._target.give_up_s
            )
            for found in page.found:
                if is_mirrored(found.key, self._target.state_key):
                    yield found
            token = page.token
            if token is None:
                return

    def _same(self, source: Found | None, target: Reading | None) -> bool:
        if source is None or target is None:
            return source is None and target is None
        if source.value != target.value or target.lease is not None:
            return False
        ends = None if source.lease is not None else source.expires_ms
        if ends is None or target.expires_ms is None:
            return ends is None and target.expires_ms is None
        left_ms = ends - self._clocks.source_ms
        return abs(left_ms - (target.expires_ms - self._clocks.target_ms)) <= TOLERANCE_MS


def is_mirrored(key: bytes, state_key: bytes) -> bool:
    """Return whether a key is one to mirror: none of the system's, and not the position."""
    return not key.startswith(SYSTEM_PREFIX) and key != state_key


def _page(
    client: Client, prefix: bytes, revision: int | None, token: str | None
) -> Callable[[], Awaitable[Page]]:
    async def ask() -> Page:
        pages = client.pages(
            prefix, limit=PAGE_KEYS, revision=revision, token=token, timeout_s=PAGE_TIMEOUT_S
        )
        async with aclosing(cast(AsyncGenerator[Page, None], pages)):
            return await anext(pages)

    return ask


def _foreign(keys: list[bytes]) -> Foreign:
    return Foreign(
        f"the target holds what is not the mirror's: {_named(keys)}; nothing of that was changed",
        code="target_holds_others",
        allowed="a target without other keys under the prefix; --replace, which overwrites and "
        "deletes them",
    )


def _named(keys: list[bytes]) -> str:
    return ", ".join(repr(key)[1:] for key in keys)
