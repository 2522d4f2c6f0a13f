"""Send the deliveries of one subscription, and keep those that are given up as dead letters.

It never connects to an address that was not checked, never follows a redirect, and never begins an
attempt that might outlast the lease.
"""

from __future__ import annotations

import asyncio
import random
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog
from prometheus_client import Counter

from acordo import AcordoError, BadRequest, Client
from cluster.workers import rules
from cluster.workers.addresses import forbidden, is_address
from cluster.workers.lease import Lease, Lost
from cluster.workers.resolver import Forbidden
from cluster.workers.rules import DeadLetter
from cluster.workers.signing import Signer, Unsignable, Withheld

ANSWER_BYTES_MAX: Final = 4096
LEASE_PART: Final = 0.35
"""Longest duration of one attempt, as a fraction of the lease time. It is half of what the holder
relies on, so that a lease that was just renewed outlasts the attempt.
"""
KEEP_PAUSE_S: Final = (0.1, 5.0)
"""First and longest pause before another attempt to write a dead letter."""

_ATTEMPTS: Final = Counter(
    "acordo_webhook_attempts", "Attempts to deliver by what came of them", ["result"]
)
_DEAD: Final = Counter("acordo_webhook_dead_letters", "Deliveries given up")
_log = structlog.get_logger("acordo.webhooks")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryLimits:
    """Bounds of deliveries. Times are in seconds."""

    attempts_max: int = 8
    backoff_s: float = 0.5
    backoff_max_s: float = 60.0
    timeout_s: float = 10.0
    lease_s: float = 15.0
    allow_private: bool = False

    @property
    def attempt_s(self) -> float:
        """Longest duration of one attempt, in seconds."""
        return min(self.timeout_s, self.lease_s * LEASE_PART)


@dataclass(slots=True, eq=False)
class WebhookDelivery:
    """One change on its way to a target."""

    name: str
    revision: int
    key: bytes
    body: bytes
    last: bool = True
    """Whether this is the last change of its revision."""
    position: str = ""
    """The place of the last change of a revision, as the watch gave it."""
    done: bool = False
    """Whether the target accepted it, or it is kept as a dead letter."""


class Sender:
    """The sender of one subscription's deliveries to its target."""

    def __init__(
        self,
        client: Client,
        session: aiohttp.ClientSession,
        lease: Lease,
        *,
        name: str,
        url: str,
        signer: Signer,
        limits: DeliveryLimits,
        rng: random.Random,
    ) -> None:
        self._client, self._session, self._lease = client, session, lease
        self._name, self._url, self._signer = name, url, signer
        self._limits, self._rng = limits, rng

    async def deliver(self, delivery: WebhookDelivery) -> None:
        """Send a delivery until the target accepts it; after `attempts_max` attempts keep it as a
        dead letter, and at once if it cannot be signed: it would block those behind it for ever.
        What the subscription's owner may not be told is left out.

        Raises Lost if the lease might not outlast the next attempt.
        """
        limits, pause_s, reason = self._limits, self._limits.backoff_s, ""
        for attempt in range(1, limits.attempts_max + 1):
            self._lease.check(limits.attempt_s)
            try:
                reason = await self.attempt(delivery, attempt)
            except Withheld:
                _ATTEMPTS.labels("withheld").inc()
                return
            except Unsignable as exc:
                reason = str(exc)
                break
            if not reason:
                return
            if attempt < limits.attempts_max:
                await asyncio.sleep(pause_s * (0.5 + self._rng.random() / 2))
                pause_s = min(pause_s * 2, limits.backoff_max_s)
        _DEAD.inc()
        _log.warning("delivery given up", delivery=delivery.name, reason=reason, attempts=attempt)
        await self.keep_dead(delivery, reason, attempt)

    async def attempt(self, delivery: WebhookDelivery, attempt: int) -> str:
        """Send once; return why the target did not accept it, '' if it did. Raises Withheld,
        Unsignable, Lost.
        """
        now = int(time.time())
        signatures = await self._signatures(delivery, now)
        try:
            status = await self._post(delivery, attempt, now, signatures)
        except Forbidden as exc:
            _ATTEMPTS.labels("forbidden").inc()
            return str(exc)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as exc:
            cause = exc.__cause__ if isinstance(exc.__cause__, Forbidden) else exc
            _ATTEMPTS.labels("forbidden" if isinstance(cause, Forbidden) else "failed").inc()
            return f"{type(cause).__name__}: {cause}"[:300]
        taken = 200 <= status < 300
        _ATTEMPTS.labels("taken" if taken else "refused").inc()
        return "" if taken else f"answered {status}"

    async def _signatures(self, delivery: WebhookDelivery, now: int) -> dict[str, str]:
        """Return the headers that sign a delivery, as soon as they can be had. Raises Withheld,
        Unsignable, Lost, and BadRequest if this worker may not have it signed.
        """
        pause_s, longest_s = KEEP_PAUSE_S
        while True:
            try:
                signatures = await self._signer.signed(delivery.name, now, delivery.body)
                self._lease.check(self._limits.attempt_s)
                return signatures
            except BadRequest as exc:
                if exc.code != "not_there":
                    raise
                raise Lost("the subscription was ended") from exc
            except AcordoError as exc:
                _log.warning(
                    "delivery cannot be signed yet", subscription=self._name, reason=str(exc)[:200]
                )
            self._lease.check(self._limits.attempt_s)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, longest_s)

    async def _post(
        self, delivery: WebhookDelivery, attempt: int, now: int, signatures: dict[str, str]
    ) -> int:
        """Post a delivery and return the status of the answer. Raises Forbidden, and what aiohttp
        raises.
        """
        url = self._url
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "acordo-webhook/1",
            "Acordo-Delivery": delivery.name,
            "Acordo-Attempt": str(attempt),
            "Acordo-Fence": str(self._lease.fence),
            "Acordo-Timestamp": str(now),
            "webhook-id": delivery.name,
            "webhook-timestamp": str(now),
            **signatures,
        }
        # A literal address never reaches the resolver, which checks names only. So it is checked
        # here.
        host = urlsplit(url).hostname or ""
        if not self._limits.allow_private and is_address(host) and (why := forbidden(host)):
            raise Forbidden(why)
        async with (
            asyncio.timeout(self._limits.attempt_s),
            self._session.post(
                url, data=delivery.body, headers=headers, allow_redirects=False
            ) as answer,
        ):
            status = answer.status
            await answer.content.read(ANSWER_BYTES_MAX)
            if not answer.content.at_eof():
                answer.close()  # else a target that sends endlessly would block this lane
            return status

    async def keep_dead(self, delivery: WebhookDelivery, reason: str, attempts: int) -> None:
        """Store a dead letter; the lane continues only after that. Raises Lost."""
        letter = DeadLetter(
            subscription=self._name,
            delivery=delivery.name,
            revision=delivery.revision,
            body=b64encode(delivery.body).decode(),
            reason=reason,
            attempts=attempts,
        )
        key, value = f"{rules.DEAD}{delivery.name}", msgspec.json.encode(letter)
        await self._until_kept(lambda: self._client.put(key, value))

    async def _until_kept(self, write: Callable[[], Awaitable[object]]) -> None:
        pause_s, longest_s = KEEP_PAUSE_S
        while True:
            try:
                await write()
                return
            except BadRequest as exc:
                # The cluster will never accept this write, so a retry would block the deliveries
                # behind it for ever.
                _log.error(
                    "dead letter cannot be kept", subscription=self._name, reason=str(exc)[:200]
                )
                return
            except AcordoError as exc:
                _log.warning(
                    "dead letter cannot be kept yet", subscription=self._name, reason=str(exc)[:200]
                )
            self._lease.check(0)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, longest_s)
