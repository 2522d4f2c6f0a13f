"""Deliver webhooks: post changes under a prefix to a URL, signed, in order per key, at least once.

A worker finds the subscriptions that no other worker serves, and serves them. It skips a malformed
subscription, and logs that once.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final, NamedTuple, Self

import aiohttp
import structlog
from prometheus_client import Gauge

from acordo import AcordoError, Client, PreconditionFailed, Refused
from acordo import BadRequest as Rejected
from cluster.workers import rules
from cluster.workers.lease import Lost
from cluster.workers.resolver import CheckedResolver
from cluster.workers.rules import Subscription
from cluster.workers.sender import ANSWER_BYTES_MAX, DeliveryLimits
from cluster.workers.served import LANES, ServedSubscription
from kv.errors import BadRequest

SUBSCRIPTIONS_MAX: Final = 1000
SCAN_EVERY_S: Final = 1.0
MOVE_TIMEOUT_S: Final = 1.0
REST_S: Final = 60.0
"""Pause before a subscription whose position the cluster refused is tried again, unless it is
rewritten first.
"""

_HELD: Final = Gauge("acordo_webhook_subscriptions_held", "Subscriptions that this worker serves")
_log = structlog.get_logger("acordo.webhooks")


class Found(NamedTuple):
    """A subscription that may be served. `created_ms`: 0 for one that stands as a key."""

    subscription: Subscription
    revision: int
    prefix: bytes | None = None
    created_ms: int = 0


class Webhooks:
    """The set of subscriptions that this worker serves: those that no other worker does. Call `run`
    once.
    """

    def __init__(
        self, client: Client, name: str, limits: DeliveryLimits, *, rng: random.Random
    ) -> None:
        self._client, self._name = client, name
        self._limits, self._rng = limits, rng
        self._serving: dict[str, tuple[Found, asyncio.Task[None]]] = {}
        self._complained: dict[str, int] = {}
        """Malformed subscriptions, each with the revision for which that was logged."""
        self._resting: dict[str, tuple[int, float]] = {}
        """Subscriptions that the cluster refused: at which revision, and until when they are
        skipped.
        """
        self._move_at = 0.0
        """When those that stand as keys are moved, if they could not be moved before."""
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            resolver=CheckedResolver(allow_private=self._limits.allow_private),
            limit_per_host=LANES,
            ttl_dns_cache=5,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=self._limits.timeout_s),
            read_bufsize=ANSWER_BYTES_MAX,
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def run(self) -> None:
        """Look for subscriptions that nobody serves, and serve them, for ever."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    try:
                        await self.scan(tasks)
                    except AcordoError as exc:
                        _log.warning("subscriptions cannot be read", reason=str(exc)[:300])
                    await asyncio.sleep(SCAN_EVERY_S * (0.75 + self._rng.random() / 2))
        finally:
            _HELD.set(0)

    async def scan(self, tasks: asyncio.TaskGroup) -> None:
        """Look once: start serving each subscription that nobody serves yet, and end serving what
        was ended, changed, or may not be told to its owner any more.
        """
        earlier = await self._earlier()
        found = earlier | await self._kept()
        for name, (served, task) in list(self._serving.items()):
            if not task.done() and found.get(name) != served:
                task.cancel()  # it is served anew, once it has ended
            if task.done():
                del self._serving[name]
        for name, each in found.items():
            if name not in self._serving and not self._rests(name, each.revision):
                self._serving[name] = (each, tasks.create_task(self._serve(name, each)))
        _HELD.set(len(self._serving))

    async def _kept(self) -> dict[str, Found]:
        """Return the subscriptions of /v1/webhooks that are to be delivered now, by name."""
        try:
            webhooks = await self._client.webhooks()
        except Rejected as exc:
            if exc.code != "unknown_path":
                raise
            return {}  # a node of version 0.2.0: all of them stand as keys
        return {
            each.name: Found(
                Subscription(each.url, "", "", each.after),
                each.revision,
                each.prefix,
                each.created_ms,
            )
            for each in webhooks
            if each.delivers
        }

    async def _earlier(self) -> dict[str, Found]:
        """Move the subscriptions that stand as keys to /v1/webhooks; return those that cannot be
        moved yet.
        """
        found = (await self._subscriptions()).items()
        return {name: each for name, each in found if not await self._moved(name, each)}

    async def _moved(self, name: str, each: Found) -> bool:
        if _now() < self._move_at:
            return False
        subscription = each.subscription
        after = each.revision if subscription.after is None else subscription.after
        try:
            await self._client.create_webhook(
                name,
                subscription.url,
                prefix=subscription.prefix,
                secret=subscription.secret,
                after=after,
                replaces=each.revision,
                timeout_s=MOVE_TIMEOUT_S,
            )
        except (PreconditionFailed, Refused):
            return True  # another worker moved it, or it was rewritten: the next look says
        except AcordoError as exc:
            _log.info("subscriptions stay keys for now", name=name, reason=str(exc)[:300])
            self._move_at = _now() + REST_S
            return False
        _log.info("subscription moved to /v1/webhooks", name=name)
        return True

    async def _subscriptions(self) -> dict[str, Found]:
        """Return the valid subscriptions that stand as keys, by name."""
        found: dict[str, Found] = {}
        async for each in self._client.list(rules.SUBSCRIPTIONS):
            name = each.key[len(rules.SUBSCRIPTIONS) :].decode("utf-8", "replace")
            try:
                found[name] = Found(rules.parse_subscription(name, each.value), each.revision)
            except BadRequest as exc:
                if self._complained.get(name) != each.revision:
                    self._complained[name] = each.revision
                    _log.warning("subscription passed over", reason=exc.detail, allowed=exc.allowed)
            if len(found) >= SUBSCRIPTIONS_MAX:
                break
        return found

    def _rests(self, name: str, revision: int) -> bool:
        refused_at, until = self._resting.get(name, (0, 0.0))
        return refused_at == revision and _now() < until

    async def _serve(self, name: str, found: Found) -> None:
        """Serve one subscription until it changes or the lease is lost.

        Return at once if another worker holds the lease.
        """
        assert self._session is not None
        served = ServedSubscription(
            self._client,
            self._session,
            worker=self._name,
            name=name,
            subscription=found.subscription,
            revision=found.revision,
            limits=self._limits,
            rng=self._rng,
            prefix=found.prefix,
            created_ms=found.created_ms,
        )
        try:
            await served.run()
        except* (Lost, AcordoError) as failures:
            for failure in failures.exceptions:
                # The cluster rejects a position above its newest revision, for example. Retrying
                # every second would not change that.
                if isinstance(failure, Rejected):
                    self._resting[name] = (found.revision, _now() + REST_S)
                if not isinstance(failure, Lost):
                    _log.warning("deliveries wait", subscription=name, reason=str(failure)[:300])


def _now() -> float:
    return asyncio.get_running_loop().time()
