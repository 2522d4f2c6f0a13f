"""Deliver webhooks: changes under a prefix to a URL, signed, in order per key, at least once.

One worker at a time has a subscription, by a lease in the cluster; its progress moves only under
that lease. It never connects to an address that it did not check, and never follows a redirect.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
import zlib
from base64 import b64decode, b64encode
from collections import deque
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog
from aiohttp.abc import AbstractResolver, ResolveResult
from prometheus_client import Counter, Gauge

import acordo
from acordo import (
    AcordoError,
    Bookmark,
    Change,
    Client,
    PreconditionFailed,
    Pruned,
    Refused,
    Undone,
)
from acordo import BadRequest as Rejected
from cluster.workers import rules
from cluster.workers.rules import Cursor, DeadLetter, Subscription
from kv.errors import BadRequest

LANES: Final = 8
"""Deliveries of one subscription under way at a time; a key always takes the same lane."""
WINDOW_MAX: Final = 256
"""Changes of one subscription that are read and not yet done with."""
SUBSCRIPTIONS_MAX: Final = 1000
SCAN_EVERY_S: Final = 1.0
REST_S: Final = 60.0
"""A subscription whose position the cluster refuses is tried again after so long, or once it is
written anew.
"""
ANSWER_BYTES_MAX: Final = 4096
CURSOR_EVERY_S: Final = 0.5

_DELIVERIES: Final = Counter(
    "acordo_webhook_attempts", "Attempts to deliver by what came of them", ["result"]
)
_DEAD: Final = Counter("acordo_webhook_dead_letters", "Deliveries given up")
_HELD: Final = Gauge("acordo_webhook_subscriptions_held", "Subscriptions that this worker serves")
_log = structlog.get_logger("acordo.webhooks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds deliveries. Times in seconds."""

    attempts_max: int = 8
    backoff_s: float = 0.5
    backoff_max_s: float = 60.0
    timeout_s: float = 10.0
    lease_s: float = 15.0
    allow_private: bool = False


class Lost(Exception):
    """The lease is another's, or may be."""


class Webhooks:
    """Serve the subscriptions that no other worker serves. `run` it once."""

    def __init__(self, client: Client, name: str, limits: Limits, *, chance: random.Random) -> None:
        self._client, self._name, self._limits, self._chance = client, name, limits, chance
        self._serving: dict[str, asyncio.Task[None]] = {}
        self._complained: dict[str, int] = {}
        self._resting: dict[str, tuple[int, float]] = {}
        """Subscriptions that were refused: at which revision of theirs, and until when they are
        left alone.
        """
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            resolver=CheckedResolver(allow_private=self._limits.allow_private),
            limit_per_host=LANES,
            ttl_dns_cache=5,
        )
        self._session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=self._limits.timeout_s), read_bufsize=ANSWER_BYTES_MAX,
        )  # fmt: skip
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def run(self) -> None:
        """Look for subscriptions and serve what is free, for ever."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    try:
                        await self._scan(tasks)
                    except AcordoError as exc:
                        _log.warning("subscriptions cannot be read", reason=str(exc)[:300])
                    await asyncio.sleep(SCAN_EVERY_S * (0.75 + self._chance.random() / 2))
        finally:
            _HELD.set(0)

    async def _scan(self, tasks: asyncio.TaskGroup) -> None:
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
        for name in [n for n, task in self._serving.items() if task.done()]:
            del self._serving[name]
        for name, (subscription, revision) in found.items():
            if name not in self._serving and not self._rests(name, revision):
                self._serving[name] = tasks.create_task(self._serve(name, subscription, revision))
        _HELD.set(len(self._serving))

    def _rests(self, name: str, revision: int) -> bool:
        refused_at, until = self._resting.get(name, (0, 0.0))
        return refused_at == revision and _now() < until

    async def _serve(self, name: str, subscription: Subscription, revision: int) -> None:
        """Serve one subscription until it changes or the lease is lost; do nothing while another
        has it.
        """
        assert self._session is not None
        served = _Served(self._client, self._session, self._name, name, subscription, revision, self._limits,
                         self._chance)  # fmt: skip
        try:
            await served.run()
        except* (Lost, AcordoError) as failures:
            for failure in failures.exceptions:
                # a position from the future, say: asking each second changes nothing
                if isinstance(failure, Rejected):
                    self._resting[name] = (revision, _now() + REST_S)
                if not isinstance(failure, Lost):
                    _log.warning("deliveries wait", subscription=name, reason=str(failure)[:300])


class _Served:
    """One subscription while this worker has it."""

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        client: Client,
        session: aiohttp.ClientSession,
        worker: str,
        name: str,
        subscription: Subscription,
        revision: int,
        limits: Limits,
        chance: random.Random,
    ) -> None:
        self._client, self._session, self._worker, self._name = client, session, worker, name
        self._subscription, self._revision, self._limits, self._chance = (
            subscription,
            revision,
            limits,
            chance,
        )
        self._lease = self._fence = 0
        self._held_until = 0.0
        self._lanes: list[asyncio.Queue[_Delivery]] = [asyncio.Queue() for _ in range(LANES)]
        self._open: deque[_Delivery] = deque()
        self._room = asyncio.Semaphore(WINDOW_MAX)
        self._passed = 0

    async def run(self) -> None:
        if not await self._take_lease():
            return
        try:
            start = await self._start()
            self._passed = start
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_lease())
                tasks.create_task(self._save())
                tasks.create_task(self._replays())
                for lane in self._lanes:
                    tasks.create_task(self._lane(lane))
                await self._feed(start)
        finally:
            with contextlib.suppress(AcordoError, TimeoutError):
                async with asyncio.timeout(2):
                    await self._client.delete(rules.LEASES + self._name, if_revision=self._lease)

    # ---------------------------------------------------------------------------------------- lease

    async def _take_lease(self) -> bool:
        asked = _now()
        try:
            written = await self._client.put(
                rules.LEASES + self._name, self._worker, ttl_s=self._limits.lease_s, exists=False
            )
        except PreconditionFailed:
            return False
        self._lease = self._fence = written.revision
        self._held_until = asked + self._limits.lease_s * 0.7
        _log.info("subscription taken", subscription=self._name, fence=self._fence)
        return True

    async def _keep_lease(self) -> None:
        """Renew the lease, and give up when that fails or the subscription changed."""
        while True:
            await asyncio.sleep(self._limits.lease_s / 5)
            asked = _now()
            try:
                done = await self._client.txn(
                    guards=(
                        acordo.at_revision(rules.LEASES + self._name, self._lease),
                        acordo.at_revision(rules.SUBSCRIPTIONS + self._name, self._revision),
                    ),
                    writes=(
                        acordo.put(
                            rules.LEASES + self._name, self._worker, ttl_s=self._limits.lease_s
                        ),
                    ),
                    timeout_s=self._limits.lease_s / 2,
                )
            except Refused as exc:
                raise Lost("the lease or the subscription changed") from exc
            except AcordoError:
                if _now() >= self._held_until:
                    raise Lost("the lease could not be renewed") from None
                continue
            self._lease, self._held_until = done.revision, asked + self._limits.lease_s * 0.7

    def _check_lease(self, need_s: float) -> None:
        if _now() + need_s > self._held_until:
            raise Lost("the lease may run out before the answer comes")

    # ----------------------------------------------------------------------------------------- feed

    async def _start(self) -> int:
        found = await self._client.get(rules.CURSORS + self._name)
        begin = self._revision if self._subscription.after is None else self._subscription.after
        if found is None:
            return begin
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
            return msgspec.json.decode(found.value, type=Cursor).revision
        _log.warning("cursor is damaged: beginning anew", subscription=self._name, after=begin)
        return begin

    async def _feed(self, after: int) -> None:
        position = after
        while True:
            try:
                async for event in self._client.watch(
                    self._subscription.prefix, after=position, bookmarks=True
                ):
                    position = event.revision
                    await self._take(event)
            except Undone as exc:
                if position < exc.after:
                    continue  # what the ledger kept comes first
                await self._all_done()
                to = exc.floor or position + 1
                body = rules.undone_body(exc.after, to)
                await self._deliver(_Delivery(f"{self._name}/{to}-undone", to, b"", body))
                self._passed = position = max(position, to)
            except Pruned as exc:
                floor = exc.floor or position + 1
                _log.error("changes were pruned before they were delivered", subscription=self._name,
                           after=position, floor=floor)  # fmt: skip
                await self._put_dead(
                    _Delivery(f"{self._name}/{position}-gap", position, b"", b""), "pruned", 0
                )
                position = max(position, floor)

    async def _all_done(self) -> None:
        """Wait until everything that was read is delivered, or given up."""
        for _ in range(WINDOW_MAX):
            await self._room.acquire()
        for _ in range(WINDOW_MAX):
            self._room.release()

    async def _take(self, event: Change | Bookmark) -> None:
        if isinstance(event, Bookmark) or event.key.startswith(rules.RESERVED):
            if not self._open:
                self._passed = max(
                    self._passed, event.revision if isinstance(event, Bookmark) or event.last else 0
                )
            return
        await self._room.acquire()
        body = rules.body_of(event.kind, event.key, event.value, event.revision, event.op_id)
        number = sum(1 for each in self._open if each.revision == event.revision)
        delivery = _Delivery(
            f"{self._name}/{event.revision}-{number}", event.revision, event.key, body
        )
        delivery.last = event.last
        self._open.append(delivery)
        self._lanes[zlib.crc32(event.key) % LANES].put_nowait(delivery)

    async def _lane(self, lane: asyncio.Queue[_Delivery]) -> None:
        while True:
            delivery = await lane.get()
            await self._deliver(delivery)
            delivery.done = True
            while self._open and self._open[0].done:
                first = self._open.popleft()
                self._room.release()
                self._passed = max(
                    self._passed, first.revision if first.last else first.revision - 1
                )

    async def _save(self) -> None:
        saved = 0
        while True:
            await asyncio.sleep(CURSOR_EVERY_S)
            if self._passed > saved:
                saved = await self._move_cursor(self._passed)

    async def _move_cursor(self, to: int) -> int:
        """Move the durable position, under the lease: a worker that lost it moves nothing."""
        value = msgspec.json.encode(Cursor(to, self._fence))
        lease = self._lease
        try:
            await self._client.txn(
                guards=(acordo.at_revision(rules.LEASES + self._name, lease),),
                writes=(acordo.put(rules.CURSORS + self._name, value),),
            )
        except Refused as exc:
            if lease != self._lease:  # renewed meanwhile: the next round takes it
                return 0
            raise Lost("the lease is another's") from exc
        return to

    # ------------------------------------------------------------------------------------- delivery

    async def _deliver(self, delivery: _Delivery) -> None:
        """Send until it is taken, or given up: then it is a dead letter before the next one
        goes.
        """
        limits, pause_s, reason = self._limits, self._limits.backoff_s, ""
        for attempt in range(1, limits.attempts_max + 1):
            self._check_lease(min(limits.timeout_s, limits.lease_s * 0.35))
            reason = await self._attempt(delivery, attempt)
            if not reason:
                return
            if attempt < limits.attempts_max:
                await asyncio.sleep(pause_s * (0.5 + self._chance.random() / 2))
                pause_s = min(pause_s * 2, limits.backoff_max_s)
        _DEAD.inc()
        _log.warning(
            "delivery given up", delivery=delivery.name, reason=reason, attempts=limits.attempts_max
        )
        await self._put_dead(delivery, reason, limits.attempts_max)

    async def _attempt(self, delivery: _Delivery, attempt: int) -> str:
        """Send once; return why it was not taken, '' when it was."""
        now = int(time.time())
        url, secret = self._subscription.url, self._subscription.secret
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "acordo-webhook/1",
            "Acordo-Delivery": delivery.name,
            "Acordo-Attempt": str(attempt),
            "Acordo-Fence": str(self._fence),
            "Acordo-Timestamp": str(now),
            "Acordo-Signature": rules.sign(secret, now, delivery.body),
        }
        host = urlsplit(url).hostname or ""
        try:
            if (
                not self._limits.allow_private
                and _is_address(host)
                and (why := rules.forbidden(host))
            ):
                raise Forbidden(why)
            timeout = min(self._limits.timeout_s, self._limits.lease_s * 0.35)
            async with asyncio.timeout(timeout), self._session.post(
                url, data=delivery.body, headers=headers, allow_redirects=False
            ) as answer:  # fmt: skip
                status = answer.status
                await answer.content.read(ANSWER_BYTES_MAX)
                if not answer.content.at_eof():
                    answer.close()  # what comes after is not waited for
        except Forbidden as exc:
            _DELIVERIES.labels("forbidden").inc()
            return str(exc)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as exc:
            cause = exc.__cause__ if isinstance(exc.__cause__, Forbidden) else exc
            _DELIVERIES.labels("forbidden" if isinstance(cause, Forbidden) else "failed").inc()
            return f"{type(cause).__name__}: {cause}"[:300]
        taken = 200 <= status < 300
        _DELIVERIES.labels("taken" if taken else "refused").inc()
        return "" if taken else f"answered {status}"

    async def _put_dead(self, delivery: _Delivery, reason: str, attempts: int) -> None:
        letter = DeadLetter(
            self._name,
            delivery.name,
            delivery.revision,
            b64encode(delivery.body).decode(),
            reason,
            attempts,
        )
        key = f"{rules.DEAD}{delivery.name}"
        await self._repeated(lambda: self._client.put(key, msgspec.json.encode(letter)))

    async def _replays(self) -> None:
        """Deliver again what somebody asked for (`acordo dead replay`), once it is taken out of the
        dead letters.
        """
        prefix = f"{rules.REPLAYS}{self._name}/"
        while True:
            async for each in self._client.list(prefix, limit=50):
                try:
                    letter = msgspec.json.decode(each.value, type=DeadLetter)
                    body = b64decode(letter.body, validate=True)
                except (msgspec.MsgspecError, ValueError):
                    letter = None
                if letter is not None and not rules.DELIVERY.fullmatch(letter.delivery):
                    _log.warning(
                        "a replay that names no delivery is dropped", subscription=self._name
                    )
                    letter = None
                if letter is not None:
                    await self._deliver(_Delivery(letter.delivery, letter.revision, b"", body))
                key, revision = each.key, each.revision
                with contextlib.suppress(PreconditionFailed):
                    await self._client.delete(key, if_revision=revision)
            await asyncio.sleep(2 * SCAN_EVERY_S)

    async def _repeated(self, write: object) -> None:
        pause_s = 0.1
        while True:
            try:
                await write()  # type: ignore[operator]
                return
            except (
                Rejected
            ) as exc:  # it never will be taken, and what comes after it must not wait for that
                _log.error(
                    "dead letter cannot be kept", subscription=self._name, reason=str(exc)[:200]
                )
                return
            except AcordoError as exc:
                _log.warning(
                    "dead letter cannot be kept yet", subscription=self._name, reason=str(exc)[:200]
                )
            self._check_lease(0)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, 5.0)


@dataclass(slots=True, eq=False)
class _Delivery:
    name: str
    revision: int
    key: bytes
    body: bytes
    last: bool = True
    done: bool = False


class Forbidden(OSError):
    """The target lies where deliveries may not go."""


class CheckedResolver(AbstractResolver):
    """Resolve names to addresses that are allowed: the connection is made to these and no
    others.
    """

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, family=socket.AF_UNSPEC, flags=socket.AI_ADDRCONFIG
        )
        allowed: list[ResolveResult] = []
        for kind, _, proto, _, address in found:
            ip = str(address[0])
            if not self._allow_private and (why := rules.forbidden(ip)):
                # one bad address is enough: names may answer in any order
                raise Forbidden(f"{host}: {why}")
            allowed.append(
                ResolveResult(
                    hostname=host,
                    host=ip,
                    port=port,
                    family=kind,
                    proto=proto,
                    flags=socket.AI_NUMERICHOST,
                )
            )
        return allowed

    async def close(self) -> None:
        return None


def _is_address(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()


def _now() -> float:
    return asyncio.get_running_loop().time()
