"""Publish committed changes to subscribers in the same process: the default when there is no
broker.

It keeps nothing for later subscribers, and a slow subscriber never delays the publisher.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from kv.errors import BackendUnavailable
from kv.ports import Change

BACKLOG_MAX: Final = 10_000
"""The number of changes that may wait for one subscriber. One that falls further behind is cut off,
and must start again from the ledger.
"""
SUBSCRIBERS_MAX: Final = 1_000


class LocalSubscription:
    """The changes published since the subscription began, in order. Iterate with `async for`, and
    leave the `with` block to end it.
    """

    def __init__(self, owner: LocalBroadcast, backlog_max: int) -> None:
        self._owner, self._backlog_max = owner, backlog_max
        self._backlog: deque[Change] = deque()
        self._arrived = asyncio.Event()
        self._ended: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._owner.leave(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        """Return the next change. Raises BackendUnavailable once the subscription was cut off,
        StopAsyncIteration once it ended.
        """
        while not self._backlog:
            if self._ended == "closed":
                raise StopAsyncIteration
            if self._ended is not None:
                raise BackendUnavailable("local", self._ended)
            self._arrived.clear()
            await self._arrived.wait()
        return self._backlog.popleft()

    def take(self, changes: Sequence[Change]) -> bool:
        """Queue the changes. Return False when the subscriber has fallen too far behind and is cut
        off.
        """
        if len(self._backlog) + len(changes) > self._backlog_max:
            self.end(f"the subscriber fell more than {self._backlog_max} changes behind")
            return False
        self._backlog.extend(changes)
        self._arrived.set()
        return True

    def end(self, why: str) -> None:
        """End the subscription after the changes that are queued."""
        self._ended = why
        self._arrived.set()


class LocalBroadcast:
    """The Broadcast port within one process."""

    def __init__(self, *, backlog_max: int = BACKLOG_MAX) -> None:
        self._backlog_max = backlog_max
        self._subscriptions: list[LocalSubscription] = []
        self._open = False

    async def __aenter__(self) -> Self:
        self._open = True
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._open = False
        for subscription in self._subscriptions:
            subscription.end("closed")
        self._subscriptions.clear()

    async def publish(self, changes: Sequence[Change], *, timeout_s: float) -> None:
        if not self._open:
            raise BackendUnavailable("local", "not open")
        self._subscriptions = [each for each in self._subscriptions if each.take(changes)]

    def subscribe(self) -> LocalSubscription:
        """Subscribe to every change published from now on. Raises BackendUnavailable when there are
        too many subscribers.
        """
        if not self._open or len(self._subscriptions) >= SUBSCRIBERS_MAX:
            raise BackendUnavailable("local", f"not open, or {SUBSCRIBERS_MAX} subscribers already")
        subscription = LocalSubscription(self, self._backlog_max)
        self._subscriptions.append(subscription)
        return subscription

    def leave(self, subscription: LocalSubscription) -> None:
        """End a subscription. Ending it again changes nothing."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
        subscription.end("closed")

    def healthy(self) -> bool:
        return self._open
