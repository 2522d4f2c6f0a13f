"""Cache entries in Redis, alone or behind Sentinel, with a circuit breaker in front.

It never raises for a slow or dead server, and a request never waits longer than CALL_TIMEOUT_S for
one. The reader judges what it returns, so nothing here has to be right (INV-5), only fast.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Sequence
from typing import Any, Final, Self
from urllib.parse import unquote, urlsplit

import structlog
from prometheus_client import Counter, Gauge
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from backends.seal import seal, unseal
from kv.errors import BadRequest
from kv.model import Entry
from kv.ports import Space

CALL_TIMEOUT_S: Final = 0.015
"""The longest time that one call may delay a request."""
FAILURES_MAX: Final = 3
"""The number of failures in a row that open the breaker. Then requests make no calls until a probe
succeeds.
"""
CONNECT_TIMEOUT_S: Final = 0.25
PROBE_TIMEOUT_S: Final = 1.0
PROBE_PAUSE_S: Final = 0.25
PROBE_PAUSE_MAX_S: Final = 2.0
CONNECTIONS_MAX: Final = 16
TTL_S: Final = 3600
"""The ttl of a small entry. Larger ones live shorter, in proportion, but at least TTL_MIN_S."""
TTL_MIN_S: Final = 60
TTL_BYTES: Final = 4096
"""Entries up to this size live for TTL_S."""
JITTER: Final = 0.2
ENTRY_BYTES_MAX: Final = 128 * 1024
"""A larger entry is not cached. Large values are references, so any inline value fits."""
ENTRIES_MAX: Final = 128
"""The number of entries put by one call, so that the server can serve others in between."""
KEY_PREFIX: Final = b"acordo:2:"
"""The 2 is the version of the stored format."""
SENTINELS_MAX: Final = 9

# Stores an entry unless one with the same or a newer as_of is held. Numbers in Lua are exact up to
# 2^53, as revisions are.
_PUT: Final = """
local done = 0
for n = 1, #KEYS do
  local held = redis.pcall('GETRANGE', KEYS[n], 0, 15)
  local as_of = type(held) == 'string' and #held == 16 and tonumber(held, 16)
  if not as_of or as_of < tonumber(string.sub(ARGV[2 * n - 1], 1, 16), 16) then
    redis.call('SET', KEYS[n], ARGV[2 * n - 1], 'PX', ARGV[2 * n])
    done = done + 1
  end
end
return done
"""

_log = structlog.get_logger("acordo.redis")
_CALLS: Final = Counter(
    "acordo_redis_calls", "Calls to Redis by what came of them", ["call", "result"]
)
for _call in ("get", "put"):
    for _result in ("ok", "failed"):
        # exported as 0 before the first call, because a rate needs a starting value
        _CALLS.labels(_call, _result)
_OPEN: Final = Gauge("acordo_redis_breaker_open", "1 while calls to Redis are left out")


class RedisCache:
    """The Cache port on redis.asyncio. Opening it waits for one probe; the breaker is open until a
    probe succeeded.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        *,
        call_timeout_s: float = CALL_TIMEOUT_S,
        rng: random.Random | None = None,
    ) -> None:
        self._call_timeout_s = call_timeout_s
        self._rng = rng or random.Random()
        self._redis: Redis = Redis(connection_pool=pool)
        self._sha: str | None = None
        self._sentinels: Sentinel | None = None
        self._failures = FAILURES_MAX
        self._broken = asyncio.Event()
        self._prober: asyncio.Task[None] | None = None

    @classmethod
    def from_url(cls, url: str, *, call_timeout_s: float = CALL_TIMEOUT_S) -> RedisCache:
        """Return the cache of redis://, rediss:// or redis+sentinel://H1,H2/MASTER. Raises
        BadRequest("cache_url").
        """
        options: dict[str, Any] = {
            "socket_timeout": PROBE_TIMEOUT_S,
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "retry": Retry(NoBackoff(), 0),
            "max_connections": CONNECTIONS_MAX,
            "health_check_interval": 0,
        }
        parts = urlsplit(url)
        if parts.scheme != "redis+sentinel":
            try:
                return cls(ConnectionPool.from_url(url, **options), call_timeout_s=call_timeout_s)
            except ValueError as exc:
                raise BadRequest(
                    "cache_url", str(exc), allowed="redis://[:PASSWORD@]HOST[:PORT][/DB]"
                ) from exc
        login, _, hosts = parts.netloc.rpartition("@")
        user, _, password = login.partition(":")
        master = parts.path.strip("/")
        addresses = [_address(host) for host in hosts.split(",") if host]
        if not addresses or not master or len(addresses) > SENTINELS_MAX:
            raise BadRequest(
                "cache_url",
                "sentinels or the master's name are missing",
                allowed="redis+sentinel://H1,H2,H3/MASTER",
            )
        sentinel = Sentinel(  # type: ignore[no-untyped-call]  # redis leaves it untyped
            addresses,
            sentinel_kwargs={
                "socket_timeout": CONNECT_TIMEOUT_S,
                "socket_connect_timeout": CONNECT_TIMEOUT_S,
                "retry": Retry(NoBackoff(), 0),
            },
        )
        if password:
            options["password"] = unquote(password)
        if user:
            options["username"] = unquote(user)
        pool = SentinelConnectionPool(master, sentinel, **options)  # type: ignore[no-untyped-call]  # the same
        cache = cls(pool, call_timeout_s=call_timeout_s)
        cache._sentinels = sentinel
        return cache

    async def __aenter__(self) -> Self:
        self._open()
        if await self._answers():
            self._close()
        self._prober = asyncio.create_task(self._probe(), name="redis-prober")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.wait([self._prober])
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()
        if self._sentinels is not None:
            for each in self._sentinels.sentinels:
                await each.aclose()

    async def get(self, space: Space, keys: Sequence[bytes]) -> tuple[Entry | None, ...]:
        nothing: tuple[Entry | None, ...] = (None,) * len(keys)
        if not keys or not self.healthy():
            return nothing
        found = await self._call("get", self._redis.mget([_name(space, key) for key in keys]))
        if not isinstance(found, list) or len(found) != len(keys):
            return nothing
        return tuple(unseal(space, key, raw) for key, raw in zip(keys, found, strict=True))

    async def put(self, space: Space, entries: Sequence[Entry]) -> None:
        if not self.healthy():
            return
        names: list[bytes] = []
        args: list[bytes | int] = []
        for entry in entries:
            packed = seal(space, entry)
            if len(packed) <= ENTRY_BYTES_MAX:
                names.append(_name(space, entry.key))
                args += [packed, self._ttl_ms(len(packed))]
        for n in range(0, len(names), ENTRIES_MAX):
            await self._call(
                "put", self._put(names[n : n + ENTRIES_MAX], args[2 * n : 2 * (n + ENTRIES_MAX)])
            )

    async def _put(self, names: list[bytes], args: list[bytes | int]) -> object:
        if self._sha is None:
            self._sha = str(await self._redis.script_load(_PUT))
        try:
            return await self._redis.evalsha(self._sha, len(names), *names, *args)
        except NoScriptError:
            # The script was loaded into another server: this one was restarted, or took over.
            self._sha = str(await self._redis.script_load(_PUT))
            return await self._redis.evalsha(self._sha, len(names), *names, *args)

    def healthy(self) -> bool:
        if self._prober is not None and self._prober.done() and not self._prober.cancelled():
            # raises what killed the probe loop: without it nobody would notice that the breaker
            # stays open
            self._prober.result()
        return self._failures < FAILURES_MAX

    async def _call(self, name: str, waiting: Awaitable[object]) -> object | None:
        """Return the server's answer, or None when it was too slow or refused the call."""
        try:
            async with asyncio.timeout(self._call_timeout_s):
                found = await waiting
        except (RedisError, OSError, TimeoutError, ValueError) as exc:
            _CALLS.labels(name, "failed").inc()
            self._failures += 1
            if self._failures == FAILURES_MAX:
                _log.warning("redis left out", reason=repr(exc), failures=FAILURES_MAX)
                self._open()
            return None
        if self._failures < FAILURES_MAX:
            self._failures = 0
        _CALLS.labels(name, "ok").inc()
        return found

    def _open(self) -> None:
        self._failures = FAILURES_MAX
        _OPEN.set(1)
        self._broken.set()

    def _close(self) -> None:
        self._broken.clear()
        self._failures = 0
        _OPEN.set(0)
        _log.info("redis answers")

    async def _probe(self) -> None:
        """Probe the server while the breaker is open, and close the breaker when it answers.

        This runs beside the requests, so that none of them waits for a server that is away.
        """
        while True:
            await self._broken.wait()
            pause_s = PROBE_PAUSE_S
            while not await self._answers():
                await asyncio.sleep(pause_s * (1 - JITTER * self._rng.random()))
                pause_s = min(pause_s * 2, PROBE_PAUSE_MAX_S)
            self._close()

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                # writes nothing, but needs more permissions than a PING
                self._sha = str(await self._redis.script_load(_PUT))
                return True
        except (RedisError, OSError, TimeoutError, ValueError):
            await self._redis.connection_pool.disconnect(inuse_connections=False)
            return False

    def _ttl_ms(self, size: int) -> int:
        seconds = max(TTL_MIN_S, TTL_S * TTL_BYTES / max(size, TTL_BYTES))
        return int(seconds * 1000 * (1 - JITTER * self._rng.random()))


def _name(space: Space, key: bytes) -> bytes:
    return KEY_PREFIX + b"%d:" % space.namespace + key


def _address(host: str) -> tuple[str, int]:
    name, colon, port = host.rpartition(":")
    if colon and port.isdigit():
        return name, int(port)
    return host, 26379
