"""Deliver webhooks: post changes under a prefix to a URL, signed, in order per key, at least once.

A worker finds the subscriptions that no other worker serves, and serves them. It skips a malformed
subscription, and logs that once.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final, Self

import aiohttp
import structlog
from prometheus_client import Gauge

from acordo import AcordoError, Client
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
REST_S: Final = 60.0
"""Pause before a subscription whose position the cluster refused is tried again, unless it is
rewritten first.
"""

_HELD: Final = Gauge("acordo_webhook_subscriptions_held", "Subscriptions that this worker serves")
_log = structlog.get_logger("acordo.webhooks")


class Webhooks:
    """The set of subscriptions that this worker serves: those that no other worker does. Call `run`
    once.
    """

    def __init__(
        self, client: Client, name: str, limits: DeliveryLimits, *, rng: random.Random
    ) -> None:
        self._client, self._name = client, name
        self._limits, self._rng = limits, rng
        self._serving: dict[str, asyncio.Task[None]] = {}
        self._complained: dict[str, int] = {}
        """Malformed subscriptions, each with the revision for which that was logged."""
        self._resting: dict[str, tuple[int, float]] = {}
        """Subscriptions that the cluster refused: at which revision, and until when they are
        skipped.
        """
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
        """Look once, and start serving each subscription that nobody serves yet."""
        found = await self._subscriptions()
        for name in [n for n, task in self._serving.items() if task.done()]:
            del self._serving[name]
        for name, (subscription, revision) in found.items():
            if name not in self._serving and not self._rests(name, revision):
                self._serving[name] = tasks.create_task(self._serve(name, subscription, revision))
        _HELD.set(len(self._serving))

    async def _subscriptions(self) -> dict[str, tuple[Subscription, int]]:
        """Return the valid subscriptions by name, each with its revision."""
        found: dict[str, tuple[Subscription, int]] = {}
        async for each in self._client.list(rules.SUBSCRIPTIONS):
            name = each.key[len(rules.SUBSCRIPTIONS) :].decode("utf-8", "replace")
            try:
                found[name] = (rules.parse_subscription(name, each.value), each.revision)
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

    async def _serve(self, name: str, subscription: Subscription, revision: int) -> None:
        """Serve one subscription until it changes or the lease is lost.

        Return at once if another worker holds the lease.
        """
        assert self._session is not None
        served = ServedSubscription(
            self._client,
            self._session,
            worker=self._name,
            name=name,
            subscription=subscription,
            revision=revision,
            limits=self._limits,
            rng=self._rng,
        )
        try:
            await served.run()
        except* (Lost, AcordoError) as failures:
            for failure in failures.exceptions:
                # The cluster rejects a position above its newest revision, for example. Retrying
                # every second would not change that.
                if isinstance(failure, Rejected):
                    self._resting[name] = (revision, _now() + REST_S)
                if not isinstance(failure, Lost):
                    _log.warning("deliveries wait", subscription=name, reason=str(failure)[:300])


def _now() -> float:
    return asyncio.get_running_loop().time()
