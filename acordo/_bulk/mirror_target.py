"""Write to a mirror's target, each time together with the position, guarded by it.

Every transaction puts the position key anew, and holds only if that is as this mirror left it. So
a transaction takes effect once, whatever became of its answer, and none of an earlier or another
mirror does in between.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import msgspec

from acordo import _intents as intents
from acordo._bulk.mirror_point import Excluded, MirrorPoint, read_point
from acordo._client import Client
from acordo._errors import (
    AcordoError,
    NotApplied,
    OutcomeUnknown,
    Pruned,
    ReadFailed,
    TransactionRefused,
)
from acordo._intents import Guard, Write
from acordo._results import Found

GIVE_UP_S: Final = 60.0
"""Seconds without an answer after which a mirror ends."""
PAUSE_FIRST_S: Final = 0.1
PAUSE_MAX_S: Final = 5.0
CLAIMS_MAX: Final = 16
RUN_AGAIN: Final = "run the same command again: it goes on where it was, nothing is applied twice"

T = TypeVar("T")


class Patience:
    """How long failures in a row are put up with."""

    def __init__(self, give_up_s: float) -> None:
        self._give_up_s = give_up_s
        self._since, self._pause_s = time.monotonic(), PAUSE_FIRST_S

    async def pause(self, why: AcordoError) -> None:
        """Wait a little longer than the last time; raise `why` once it is over."""
        if time.monotonic() - self._since >= self._give_up_s:
            why.advice = RUN_AGAIN
            raise why
        await asyncio.sleep(self._pause_s * (0.5 + random.random() / 2))
        self._pause_s = min(self._pause_s * 2, PAUSE_MAX_S)


async def answered(ask: Callable[[], Awaitable[T]], give_up_s: float) -> T:
    """Return the answer to a read that is repeated until there is one. Raises ReadFailed or
    Unreachable after `give_up_s` seconds, BadRequest, Pruned.
    """
    patience = Patience(give_up_s)
    while True:
        try:
            return await ask()
        except (ReadFailed, NotApplied) as exc:
            await patience.pause(exc)


class Target:
    """The target of one mirror, and the position that it holds."""

    def __init__(
        self, client: Client, prefix: bytes, state_key: bytes, *, give_up_s: float = GIVE_UP_S
    ) -> None:
        self.client: Final = client
        self.state_key: Final = state_key
        self.give_up_s: Final = give_up_s
        self._prefix = prefix
        self._at = 0
        """The revision of the position key, as this mirror left it; 0: absent."""
        self.begun = 0
        """The target's revision at which the first mirror began."""
        self.point: MirrorPoint | None = None

    @property
    def stored(self) -> MirrorPoint:
        """The position that the target holds."""
        assert self.point is not None
        return self.point

    async def read(self) -> MirrorPoint | None:
        """Return the position that is there, and take it as the one to go on from. Raises
        BadRequest, ReadFailed, Unreachable.
        """
        found = await self._found()
        self._at = found.revision if found else 0
        self.begun = found.create_revision if found else 0
        self.point = read_point(found.value, self._prefix) if found else None
        return self.point

    async def claim(self, make: Callable[[MirrorPoint | None], MirrorPoint]) -> MirrorPoint | None:
        """Take the place of whoever wrote before; return the position that was there. Raises
        Excluded if others go on writing.
        """
        for left in reversed(range(CLAIMS_MAX)):
            before = await self.read()
            try:
                await self.commit(make(before))
            except Excluded:
                if not left:
                    raise
            else:
                self.begun = self.begun or self._at
                return before
        raise AssertionError("unreachable")

    async def commit(
        self, point: MirrorPoint, writes: Sequence[Write] = (), guards: Sequence[Guard] = ()
    ) -> None:
        """Apply writes together with a position. On return they are applied, once.

        Raises Excluded if the position key is another mirror's now, TransactionRefused if one of
        `guards` did not hold, BadRequest; NotApplied or OutcomeUnknown after `give_up_s` seconds.
        """
        count = self.point.writes + 1 if self.point else 1
        point = msgspec.structs.replace(point, writes=count)
        content, patience = msgspec.json.encode(point), Patience(self.give_up_s)
        every = [intents.at_revision(self.state_key, self._at), *guards]
        while True:
            try:
                done = await self.client.txn(
                    guards=every, writes=[*writes, intents.put(self.state_key, content)]
                )
            except TransactionRefused as exc:
                if exc.guard:
                    exc.guard -= 1
                    raise
                if await self._is_in(content):
                    break
                await patience.pause(exc)
            except OutcomeUnknown as exc:
                # One that is still on its way is refused once another of ours is in.
                if await self._is_in(content):
                    break
                await patience.pause(exc)
            except NotApplied as exc:
                await patience.pause(exc)
            else:
                self._at = done.revision
                break
        self.point = point

    async def wrote(self, revision: int) -> bool:
        """Return whether a mirror made this revision of the target, or may have: what is older
        than the target's history, or than the first mirror, counts as its own.
        """
        if revision <= self.begun:
            return True
        try:
            found = await answered(
                lambda: self.client.get(self.state_key, at_revision=revision), self.give_up_s
            )
        except Pruned:
            return True
        return found is not None and found.revision == revision

    async def _is_in(self, content: bytes) -> bool:
        """Return whether the position key holds this content; False: it is as we left it. Raises
        Excluded if it is neither.
        """
        found = await self._found()
        if found is not None and found.value == content:
            self._at = found.revision
            return True
        if (found.revision if found else 0) == self._at:
            return False
        raise Excluded(_excluded(found, self.point), code="mirror_excluded")

    async def _found(self) -> Found | None:
        return await answered(
            lambda: self.client.get(self.state_key, level="linearizable"), self.give_up_s
        )


def _excluded(found: Found | None, ours: MirrorPoint | None) -> str:
    if found is None:
        return "the position in the target was deleted: this mirror ends, and nothing was written"
    try:
        other = msgspec.json.decode(found.value, type=MirrorPoint).mirror
    except (msgspec.MsgspecError, ValueError, RecursionError):
        other = "unknown"
    if ours is not None and other == ours.mirror:
        return "the target was set back, to an earlier position of this mirror: this one ends"
    return (
        f"another mirror ({other[:40]}) writes to this target: this one ends, and has not written "
        "since"
    )
