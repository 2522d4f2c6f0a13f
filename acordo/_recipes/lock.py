"""Locks, elections and semaphores: places that are held in the order in which they were asked for.

Who asks for a place puts a key `NAME/LEASE` with a lease of its own. The oldest of these keys hold
the places; a key goes with its lease, so a holder that dies is passed over when its ttl has passed.
"""

from __future__ import annotations

import re
import threading
import time
from typing import Final, Self

from acordo._client import Client
from acordo._errors import BadRequest, Pruned
from acordo._intents import Bytes, Guard, absent, as_bytes, at_revision, key_bytes, put
from acordo._recipes.errors import Lost, NotAcquired, NotHeld
from acordo._recipes.session import TTL_S, Session
from acordo._results import Found

WAIT_S: Final = 30.0
"""Longest single wait for a change in the line."""
_LEASE: Final = re.compile(rb"[0-9a-f]{16}")


class _Line:
    """The line for the places of a name."""

    def __init__(self, client: Client, name: Bytes) -> None:
        self._client = client
        self.prefix = key_bytes(name) + b"/"

    async def read(self) -> tuple[list[Found], int]:
        """Return who stands in it, oldest first, and the revision of that."""
        found: list[Found] = []
        revision = 0
        async for page in self._client.pages(self.prefix, limit=1000):
            found += [f for f in page.found if _LEASE.fullmatch(f.key[len(self.prefix) :])]
            revision = page.revision
        return sorted(found, key=lambda each: each.create_revision), revision


class Semaphore:
    """At most `places` holders at a time, used with `async with`, which waits for a place.

    `ttl_s`: how long a holder that dies keeps its place. `timeout_s`: how long entering the block
    waits (None: as long as it takes); then it raises NotAcquired. `value` is what others see of
    this holder. Whoever leaves the block after its place was lost gets Lost, so that what was done
    without it is not taken for protected.
    """

    def __init__(
        self,
        client: Client,
        name: Bytes,
        *,
        places: int,
        ttl_s: float = TTL_S,
        timeout_s: float | None = None,
        value: Bytes = b"",
    ) -> None:
        if places < 1:
            raise BadRequest("no place at all", code="bad_places", allowed="places from 1 up")
        self._client, self._places, self._timeout_s = client, places, timeout_s
        self._value = as_bytes(value, "value")
        self._line = _Line(client, name)
        self._session = Session(client, ttl_s=ttl_s)
        self._key = b""
        self._token = 0
        self._held = False
        self._asking = threading.Lock()

    async def __aenter__(self) -> Self:
        if not await self.acquire(timeout_s=self._timeout_s):
            raise NotAcquired(
                f"{self._line.prefix[:-1]!r} was not free within {self._timeout_s} s",
                code="not_acquired",
            )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        lost = self._session.is_lost
        await self.release()
        if lost and kind is None:
            raise Lost(f"{self._line.prefix[:-1]!r} was lost inside the block", code="lost")

    @property
    def held(self) -> bool:
        """Whether the place is held: true only while nobody else can have been given it."""
        return self._held and not self._session.is_lost

    @property
    def token(self) -> int:
        """The fencing token: it is higher for each later holder. A resource that refuses a token
        below the highest that it has seen is safe from those who do not know yet that they have
        lost their place; where there are several places, it would refuse who still holds one too.
        Raises Lost, NotHeld.
        """
        self.check()
        return self._token

    def check(self) -> None:
        """Raise Lost if the place may be somebody else's by now, NotHeld if it was not taken."""
        if not self._held:
            raise NotHeld(f"{self._line.prefix[:-1]!r} is not held", code="not_held")
        self._session.check()

    def guard(self) -> Guard:
        """Return a guard for transactions: what it guards takes effect only while the place is
        still ours. Raises Lost, NotHeld.
        """
        self.check()
        return at_revision(self._key, self._token)

    async def wait_lost(self, timeout_s: float | None = None) -> bool:
        """Wait until the place is lost, at most so many seconds; return whether it is."""
        return await self._session.lost.wait(timeout_s)

    async def acquire(self, *, timeout_s: float | None = None) -> bool:
        """Wait for a place, at most so many seconds (None: as long as it takes, 0: not at all);
        return whether it was given. Raises NotApplied, Unreachable, OutcomeUnknown, ReadFailed;
        then it is not held.
        """
        if not self._asking.acquire(blocking=False):
            raise _in_use("another call waits for it already")
        try:
            if self._held:
                raise _in_use("it is held already")
            deadline = None if timeout_s is None else time.monotonic() + timeout_s
            await self._session.begin()
            try:
                self._held = await self._queue_up(deadline)
            finally:
                if not self._held:
                    await self._session.end()
            return self._held
        finally:
            self._asking.release()

    async def release(self) -> None:
        """Give the place back. If the cluster cannot be reached, it is free after the ttl."""
        self._held = False
        await self._session.end()

    async def _queue_up(self, deadline: float | None) -> bool:
        self._key = self._line.prefix + self._session.lease.encode()
        mine = put(self._key, self._value, lease=self._session.lease)
        done = await self._client.txn(guards=[absent(self._key)], writes=[mine])
        self._token = done.revision
        while True:
            line, revision = await self._line.read()
            ahead = sum(each.create_revision < self._token for each in line)
            if not any(each.key == self._key for each in line):
                self._session.lost.set()
            self._session.check()
            if ahead < self._places:
                return True
            left = WAIT_S if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return False
            await self._wait_for_change(revision, min(left, WAIT_S))

    async def _wait_for_change(self, revision: int, wait_s: float) -> None:
        """Wait until somebody leaves the line; who joins it stands behind us."""
        ends, after = time.monotonic() + wait_s, str(revision)
        while (left := ends - time.monotonic()) > 0:
            try:
                found = await self._client.poll(self._line.prefix, after=after, wait_s=left)
            except Pruned:  # what was told is void, or too old: the line is read anew
                return
            if any(event.kind == "delete" for event in found.events):
                return
            after = found.position
            self._session.check()


class Lock(Semaphore):
    """A lock, used with `async with`, which waits for it.

        async with Lock(client, "locks/report") as lock:
            await store.write(data, fence=lock.token)
            await client.txn(guards=[lock.guard()], writes=[put("report", data)])

    It is renewed while the block runs. `held`, `check` and `token` know at once when it may be
    lost; only a fence (`token`) or a guard (`guard`) also stops what is under way.
    """

    def __init__(
        self,
        client: Client,
        name: Bytes,
        *,
        ttl_s: float = TTL_S,
        timeout_s: float | None = None,
        value: Bytes = b"",
    ) -> None:
        super().__init__(client, name, places=1, ttl_s=ttl_s, timeout_s=timeout_s, value=value)


class Election(Lock):
    """An election: who is inside the block leads. `value` says who that is, to others.

    async with Election(client, "scheduler", value="host-7") as election:
        while election.held:
            await lead()
    """

    async def leader(self) -> Found | None:
        """Return who leads now: `value`, and in `create_revision` the token; None: nobody."""
        line, _ = await self._line.read()
        return line[0] if line else None


def _in_use(what: str) -> BadRequest:
    return BadRequest(what, code="held", allowed="one holder for each object")
