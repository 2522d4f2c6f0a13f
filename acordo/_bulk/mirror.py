"""Keep the keys under a prefix of one cluster, the target, as they are in another, the source.

It begins with a listing of the source at one revision, and then applies each later revision's
changes in the target, in one transaction together with the position. The target alone knows how far
it is, so a mirror that was interrupted anywhere goes on from there, on any machine.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final, cast

import msgspec

from acordo import _intents as intents
from acordo._bulk.mirror_copy import Clocks, Copy, is_mirrored
from acordo._bulk.mirror_lag import Lag, MirrorProgress, OnMirrored
from acordo._bulk.mirror_parts import CHANGES_MAX, REQUEST_BYTES, parts, ttl_left_s
from acordo._bulk.mirror_point import VERSION, MirrorPoint, state_key_of
from acordo._bulk.mirror_target import GIVE_UP_S, Target, answered
from acordo._client import Client
from acordo._errors import BadRequest, Pruned
from acordo._intents import Write
from acordo._results import Bookmark, Change, Event, Page

PERSIST_S: Final = 30.0
"""How often, in seconds, a position without changes is kept in the target."""
CLOCK_S: Final = 60.0
"""Age of a reading of the source's clock after which it is read anew."""
COPIES_MAX: Final = 5
"""Listings in a row that were no longer kept before they were copied."""
INTERRUPTED: Final = "an earlier copy was interrupted"


async def mirror(
    source: Client,
    target: Client,
    prefix: bytes = b"",
    *,
    state_key: bytes | None = None,
    replace: bool = False,
    relist: bool = True,
    once: bool = False,
    give_up_s: float = GIVE_UP_S,
    on_progress: OnMirrored | None = None,
    on_copy: Callable[[str], None] = lambda why: None,
) -> MirrorProgress:
    """Mirror what is under `prefix`, forever; with `once` until the target has what the source had
    when the call began.

    `state_key` holds the position in the target. `replace`: keys of the target that are not the
    mirror's are overwritten and deleted. Without `relist` a gap in the source's history is an
    error. `on_progress` is called about once a second, `on_copy` before a listing is copied, with
    the reason. Raises Foreign, Excluded, BadRequest, Pruned; and ReadFailed, NotApplied,
    Unreachable or OutcomeUnknown when a cluster does not answer for `give_up_s` seconds. In every
    case the same call goes on where this one was.
    """
    key = state_key_of(prefix, state_key)
    lag = Lag(source, on_progress)
    at = Target(target, prefix, key, give_up_s=give_up_s)
    work = _Mirror(source, at, prefix, replace=replace, lag=lag, on_copy=on_copy)
    telling = asyncio.create_task(lag.tell())
    try:
        await work.run(relist=relist, once=once)
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
    return lag.progress()


class _Mirror:
    """One run of a mirror."""

    def __init__(
        self,
        source: Client,
        target: Target,
        prefix: bytes,
        *,
        replace: bool,
        lag: Lag,
        on_copy: Callable[[str], None],
    ) -> None:
        self._source, self._target, self._prefix = source, target, prefix
        self._replace, self._lag, self._on_copy = replace, lag, on_copy
        self._run = secrets.token_hex(6)
        self._kept_at = time.monotonic()
        self._clock: tuple[float, int] | None = None
        """When the source's clock was read, on the monotonic one, and what it said."""

    async def run(self, *, relist: bool, once: bool) -> None:
        goal = await self._newest() if once else None
        why = await self._begin(relist=relist)
        copies = 0
        while True:
            try:
                if why:
                    await self._copy(why)
                    why, copies = "", 0
                await self._follow(goal)
                return
            except Pruned as exc:
                copies += 1
                if not relist or copies > COPIES_MAX:
                    raise
                why = exc.detail

    # ------------------------------------------------------------------------------------ beginning

    async def _begin(self, *, relist: bool) -> str:
        """Take the mirror's place in the target. Return why everything has to be copied; empty: it
        goes on.
        """
        fresh = await self._fresh()
        if await self._target.read() is None and not self._replace:
            await (await self._copier(fresh.revision)).refuse_foreign()

        def ours(held: MirrorPoint | None) -> MirrorPoint:
            if held is None:
                return fresh
            self._check_source(held, fresh, relist=relist)
            return msgspec.structs.replace(held, mirror=self._run)

        before = await self._target.claim(ours)
        await self._refuse_itself()
        if before is None:
            return "the target has no position yet"
        if (before.cluster_id, before.history) != (fresh.cluster_id, fresh.history):
            return "the source has another history now"
        return INTERRUPTED if before.copying else ""

    def _check_source(self, held: MirrorPoint, fresh: MirrorPoint, *, relist: bool) -> None:
        """Raise BadRequest if the target mirrors another source, and may not become this one's."""
        if held.cluster_id != fresh.cluster_id and not self._replace:
            raise BadRequest(
                f"the target is a mirror of cluster {held.cluster_id!r}, and the source is "
                f"{fresh.cluster_id!r}",
                code="mirror_of_another",
                allowed="the source that it began with; --replace, which makes the target this "
                "one's mirror",
            )
        if held.history != fresh.history and not relist:
            raise BadRequest(
                "the source has another history than the one that the target mirrors: it was "
                "restored, or it is another cluster",
                code="mirror_of_another",
                allowed="the source that it began with; without --no-relist everything is copied",
            )

    async def _refuse_itself(self) -> None:
        """Raise BadRequest if the target is the source."""
        try:
            found = await answered(
                lambda: self._source.get(self._target.state_key, level="linearizable"),
                self._target.give_up_s,
            )
        except BadRequest:
            return  # who may not read the key there has not just written it
        if found is not None and found.value == msgspec.json.encode(self._target.stored):
            await self._target.client.delete(self._target.state_key, if_revision=found.revision)
            raise BadRequest(
                "the target is the source itself",
                code="mirror_of_itself",
                allowed="--to with the URLs of another cluster",
            )

    async def _fresh(self) -> MirrorPoint:
        """Return a point at the source's present revision, with nothing copied yet."""
        now = await self._now()
        raw = (await answered(self._source.cluster, self._target.give_up_s)).raw
        return MirrorPoint(
            version=VERSION,
            prefix=self._prefix.hex(),
            mirror=self._run,
            cluster_id=str(raw.get("cluster_id") or ""),
            history=str(raw.get("history") or ""),
            position=now.position,
            revision=now.revision,
        )

    async def _newest(self) -> int:
        """Return a revision of the source that has all that was acknowledged before the call."""

        async def ask() -> int:
            pages = self._source.pages(self._prefix, limit=1)
            async with aclosing(cast(AsyncGenerator[Page, None], pages)):
                return (await anext(pages)).revision

        return await answered(ask, self._target.give_up_s)

    async def _now(self) -> Bookmark:
        """Return the position of one of the source's nodes, which others may be ahead of."""
        found = await answered(
            lambda: self._source.poll(self._prefix, wait_s=0), self._target.give_up_s
        )
        return Bookmark(revision=found.revision, position=found.position)

    # -------------------------------------------------------------------------------------- copying

    async def _copy(self, why: str) -> None:
        self._on_copy(why)
        fresh = await self._fresh()
        await self._target.commit(fresh)
        copier = await self._copier(fresh.revision)
        await copier.run()
        await self._commit(msgspec.structs.replace(fresh, copying=False))
        self._lag.copies += 1

    async def _copier(self, revision: int) -> Copy:
        target_ms = (await answered(self._target.client.cluster, self._target.give_up_s)).now_ms
        return Copy(
            self._source,
            self._target,
            self._prefix,
            revision=revision,
            clocks=Clocks(await self._source_ms(), target_ms),
            replace=self._replace,
            count=self._lag.count,
        )

    # ------------------------------------------------------------------------------------ following

    async def _follow(self, goal: int | None) -> None:
        """Apply the changes after the position in the target, up to a revision if there is one.
        Raises Pruned.
        """
        here = self._target.stored
        self._lag.reach(here.revision)
        if goal is not None and here.revision >= goal:
            return
        events = self._source.watch(self._prefix, after=here.position, bookmarks=True)
        changes: list[Change] = []
        async with aclosing(cast(AsyncGenerator[Event, None], events)):
            async for event in events:
                if isinstance(event, Change):
                    changes.append(event)
                    if not event.last:
                        continue
                reached = msgspec.structs.replace(
                    self._target.stored,
                    position=event.position,
                    revision=event.revision,
                    part_revision=0,
                    part_key="",
                )
                await self._apply(changes, reached, at_goal=goal is not None)
                changes.clear()
                self._lag.reach(event.revision)
                if goal is not None and event.revision >= goal:
                    return

    async def _apply(self, changes: list[Change], reached: MirrorPoint, *, at_goal: bool) -> None:
        """Apply the changes of one revision; a revision without any that concern the target only
        moves the position, and that is kept in the target now and then.
        """
        stored = self._target.stored
        done = bytes.fromhex(stored.part_key) if stored.part_revision == reached.revision else b""
        wanted = sorted(
            (
                each
                for each in changes
                if is_mirrored(each.key, self._target.state_key) and each.key > done
            ),
            key=lambda each: each.key,
        )
        if not wanted:
            if at_goal or time.monotonic() - self._kept_at >= PERSIST_S:
                await self._commit(reached)
            return
        now_ms = await self._source_ms() if any(each.expires_ms for each in wanted) else 0
        writes = [(each, _write(each, now_ms)) for each in wanted]
        whole = parts(writes, CHANGES_MAX, REQUEST_BYTES)
        by_key = {each.key: write for each, write in writes}
        for n, part in enumerate(whole, 1):
            point = reached
            if n < len(whole):
                point = msgspec.structs.replace(
                    stored, part_revision=reached.revision, part_key=part[-1].key.hex()
                )
            await self._commit(point, [by_key[each.key] for each in part])
            puts = sum(each.kind == "put" for each in part)
            self._lag.count(puts, len(part) - puts)

    async def _commit(self, point: MirrorPoint, writes: list[Write] | None = None) -> None:
        await self._target.commit(point, writes or ())
        self._kept_at = time.monotonic()

    async def _source_ms(self) -> int:
        """Return the source's log time, which expiries are of."""
        if self._clock is None or time.monotonic() - self._clock[0] > CLOCK_S:
            told = (await answered(self._source.cluster, self._target.give_up_s)).now_ms
            self._clock = time.monotonic(), told or time.time_ns() // 1_000_000
        read_at, read_ms = self._clock
        return read_ms + int((time.monotonic() - read_at) * 1000)


def _write(change: Change, now_ms: int) -> Write:
    if change.kind == "delete":
        return intents.delete(change.key)
    if change.value is None:
        raise Pruned(f"the value of revision {change.revision} is no longer kept", floor=None)
    ttl_s = ttl_left_s(change.expires_ms, change.lease, now_ms)
    return intents.put(change.key, change.value, ttl_s=ttl_s)
