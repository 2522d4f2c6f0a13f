"""Serve one subscription: read its changes in order, deliver them in lanes, advance its cursor.

The cursor never passes a change that is neither delivered nor kept as a dead letter, and never
moves once another worker holds the lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import zlib
from base64 import b64decode
from collections import deque
from typing import Final, NamedTuple

import aiohttp
import msgspec
import structlog

import acordo
from acordo import Bookmark, Change, Client, PreconditionFailed, Pruned, Refused, Undone
from cluster.workers import rules
from cluster.workers.lease import Lease, Lost
from cluster.workers.rules import Cursor, DeadLetter, Subscription
from cluster.workers.sender import DeliveryLimits, Sender, WebhookDelivery
from cluster.workers.signing import ClusterSigner, OwnSigner, Signer

LANES: Final = 8
"""Number of concurrent deliveries of one subscription. Changes of one key always use the same lane,
which keeps them in order.
"""
WINDOW_MAX: Final = 256
"""Most changes of one subscription that are read but neither delivered nor given up."""
CURSOR_EVERY_S: Final = 0.5
REPLAYS_EVERY_S: Final = 2.0
REPLAYS_MAX: Final = 50
"""Most replays that are read at a time."""

_log = structlog.get_logger("acordo.webhooks")


class Place(NamedTuple):
    """A place among the changes: a revision, and the position that a watch gave with it."""

    revision: int
    position: str = ""

    @property
    def after(self) -> int | str:
        """What a watch goes on after."""
        return self.position or self.revision


class ServedSubscription:
    """A subscription that this worker serves while it holds the lease."""

    def __init__(
        self,
        client: Client,
        session: aiohttp.ClientSession,
        *,
        worker: str,
        name: str,
        subscription: Subscription,
        revision: int,
        limits: DeliveryLimits,
        rng: random.Random,
        prefix: bytes | None = None,
        created_ms: int = 0,
    ) -> None:
        """`prefix` (None: the subscription says it) and `created_ms` are of one that the cluster
        keeps; its secret is empty then.
        """
        self._prefix = subscription.prefix if prefix is None else prefix
        self._client, self._created_ms = client, created_ms
        self._name, self._subscription, self._revision = name, subscription, revision
        own = bool(subscription.secret)
        signer: Signer = OwnSigner(subscription.secret) if own else ClusterSigner(client, name)
        self.lease = Lease(
            client,
            worker=worker,
            subscription=name,
            as_written=acordo.at_revision(rules.SUBSCRIPTIONS + name, revision) if own else None,
            lease_s=limits.lease_s,
        )
        self.sender = Sender(
            client,
            session,
            self.lease,
            name=name,
            url=subscription.url,
            signer=signer,
            limits=limits,
            rng=rng,
        )
        self._lanes: list[asyncio.Queue[WebhookDelivery]] = [asyncio.Queue() for _ in range(LANES)]
        self._open: deque[WebhookDelivery] = deque()
        """Deliveries that were read and are not finished, in the order of the ledger."""
        self._window = asyncio.Semaphore(WINDOW_MAX)
        self._passed = Place(0)
        """The place up to which every delivery is finished."""

    async def run(self) -> None:
        """Serve until the lease is lost or the subscription changes; both raise Lost.

        Return at once if another worker holds the lease.
        """
        if not await self.lease.take():
            return
        try:
            self._passed = start = await self._start()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.lease.keep())
                tasks.create_task(self._save())
                tasks.create_task(self.replay())
                for lane in self._lanes:
                    tasks.create_task(self._run_lane(lane))
                await self._feed(start)
        finally:
            await self.lease.release()

    # ----------------------------------------------------------------------------------------- feed

    async def _start(self) -> Place:
        """Return the place after which deliveries begin: the saved cursor, or the subscription's
        start.
        """
        found = await self._client.get(rules.CURSORS + self._name)
        begin = self._revision if self._subscription.after is None else self._subscription.after
        if found is None:
            return Place(begin)
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            cursor = msgspec.json.decode(found.value, type=Cursor)
            if cursor.of not in (0, self._created_ms):
                return Place(begin)  # of an earlier subscription of this name
            return Place(cursor.revision, cursor.position)
        _log.warning("cursor is damaged: beginning anew", subscription=self._name, after=begin)
        return Place(begin)

    async def _feed(self, after: Place) -> None:
        """Read the changes after a place, for ever, and hand them to the lanes.

        Report undone revisions to the target; keep a dead letter for a range that was pruned.
        """
        place = after
        while True:
            position = place.revision
            try:
                async for event in self._client.watch(
                    self._prefix, after=place.after, bookmarks=True
                ):
                    place = Place(event.revision, event.position)
                    await self._take(event)
            except Undone as exc:
                position = place.revision
                if position < exc.after:
                    continue  # the ledger still has changes up to `exc.after`: deliver those first
                place = await self._deliver_undone(exc, position)
            except Pruned as exc:
                position = place.revision
                floor = exc.floor or position + 1
                _log.error(
                    "changes were pruned before they were delivered",
                    subscription=self._name,
                    after=position,
                    floor=floor,
                )
                gap = WebhookDelivery(f"{self._name}/{position}-gap", position, b"", b"")
                await self.sender.keep_dead(gap, "pruned", 0)
                place = Place(max(position, floor))

    async def _deliver_undone(self, undone: Undone, position: int) -> Place:
        """Tell the target what an adoption undid, or what the log has lost, after every earlier
        change has been delivered.

        Return the place to read on from: behind the adoption, or where the log was cut.
        """
        await self._until_window_is_empty()
        to = undone.floor or position + 1
        body = rules.undone_body(undone.after, to)
        await self.sender.deliver(WebhookDelivery(f"{self._name}/{to}-undone", to, b"", body))
        lost = to <= undone.after
        self._passed = Place(to if lost else max(position, to))
        return self._passed

    async def _until_window_is_empty(self) -> None:
        """Wait until every change that was read is delivered or given up."""
        for _ in range(WINDOW_MAX):
            await self._window.acquire()
        for _ in range(WINDOW_MAX):
            self._window.release()

    async def _take(self, event: Change | Bookmark) -> None:
        """Put a change into its lane once the window has room; skip what is not delivered."""
        if isinstance(event, Bookmark):
            self._pass_over(Place(event.revision, event.position))
            return
        if event.key.startswith(rules.RESERVED):
            if event.last:
                self._pass_over(Place(event.revision, event.position))
            return
        await self._window.acquire()
        body = rules.body_of(event.kind, event.key, event.value, event.revision, event.op_id)
        number = sum(1 for each in self._open if each.revision == event.revision)
        delivery = WebhookDelivery(
            f"{self._name}/{event.revision}-{number}",
            event.revision,
            event.key,
            body,
            last=event.last,
            position=event.position,
        )
        self._open.append(delivery)
        self._lanes[zlib.crc32(event.key) % LANES].put_nowait(delivery)

    def _pass_over(self, place: Place) -> None:
        """Advance the position over a revision without deliveries, unless an earlier one is
        unfinished.
        """
        if not self._open:
            self._pass_to(place)

    def _pass_to(self, place: Place) -> None:
        if place.revision >= self._passed.revision:
            self._passed = place

    # ---------------------------------------------------------------------------- lanes and cursor

    async def _run_lane(self, lane: asyncio.Queue[WebhookDelivery]) -> None:
        """Deliver a lane's changes one by one, and advance the position over the finished ones in
        front.
        """
        while True:
            delivery = await lane.get()
            await self.sender.deliver(delivery)
            delivery.done = True
            while self._open and self._open[0].done:
                first = self._open.popleft()
                self._window.release()
                if first.last:
                    self._pass_to(Place(first.revision, first.position))

    async def _save(self) -> None:
        """Save the position every CURSOR_EVERY_S. After a crash, deliveries are repeated from
        there.
        """
        saved = Place(0)
        while True:
            await asyncio.sleep(CURSOR_EVERY_S)
            if self._passed != saved and await self._move_cursor(passed := self._passed):
                saved = passed

    async def _move_cursor(self, to: Place) -> bool:
        """Write the cursor, guarded by the lease, and return whether it is written.

        Raises Lost if another worker holds the lease.
        """
        cursor = Cursor(to.revision, self.lease.fence, to.position, self._created_ms)
        value = msgspec.json.encode(cursor)
        revision = self.lease.revision
        try:
            await self._client.txn(
                guards=(self.lease.guard,), writes=(acordo.put(rules.CURSORS + self._name, value),)
            )
        except Refused as exc:
            if revision != self.lease.revision:  # renewed in the meantime: the next round writes
                return False
            raise Lost("the lease is another's") from exc
        return True

    # -------------------------------------------------------------------------------------- replays

    async def replay(self) -> None:
        """Deliver the dead letters again that a user asked for.

        `acordo dead replay` has moved them from the dead letters to the replays.
        """
        prefix = f"{rules.REPLAYS}{self._name}/"
        while True:
            async for each in self._client.list(prefix, limit=REPLAYS_MAX):
                if (delivery := self._replayed(each.value)) is not None:
                    await self.sender.deliver(delivery)
                key, revision = each.key, each.revision
                with contextlib.suppress(PreconditionFailed):
                    await self._client.delete(key, if_revision=revision)
            await asyncio.sleep(REPLAYS_EVERY_S)

    def _replayed(self, value: bytes) -> WebhookDelivery | None:
        """Decode a dead letter into a delivery; return None if it is malformed.

        The caller then deletes it: kept, it would block the replays behind it for ever.
        """
        try:
            letter = msgspec.json.decode(value, type=DeadLetter)
            body = b64decode(letter.body, validate=True)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        if not rules.DELIVERY.fullmatch(letter.delivery):
            _log.warning("a replay that names no delivery is dropped", subscription=self._name)
            return None
        return WebhookDelivery(letter.delivery, letter.revision, b"", body)
