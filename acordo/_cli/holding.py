"""Hold a key by a lease: a lock, or the lead of an election. It says that the key is held only
while nobody else can hold it, by the clock of this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from acordo._client import Client
from acordo._errors import AcordoError, NotApplied, OutcomeUnknown, PreconditionFailed
from acordo._results import Bookmark

RENEWALS: Final = 4
"""A lease is kept alive this many times within its ttl."""
GRACE_SHARE: Final = 0.25
"""Share of the ttl, at its end, in which what needs the key is ended."""
GRACE_S_MAX: Final = 5.0
PAUSE_S: Final = 0.25
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""A clock that goes on while the machine is suspended, where there is one."""

T = TypeVar("T")


class Hold:
    """A key that is held by a lease until `lost` is set.

    It is set before somebody else can have the key, by `grace_s`, unless the key was deleted or the
    lease revoked: then it is set as soon as that is known. `token` is the revision at which the key
    was taken: every later holder has a greater one.
    """

    def __init__(self, key: bytes, lease: str, ttl_s: float, asked: float) -> None:
        self.key, self.lease, self.ttl_s = key, lease, ttl_s
        self.grace_s: Final = min(ttl_s * GRACE_SHARE, GRACE_S_MAX)
        self.token = 0
        self.ends = asked + ttl_s
        """Until when the lease lives for certain, by `now`."""
        self.lost = asyncio.Event()
        self.why = ""

    def lose(self, why: str) -> None:
        """Say that the key is held no longer."""
        if not self.lost.is_set():
            self.why = why
            self.lost.set()

    async def unless_lost(self, work: Awaitable[T]) -> T:
        """Return what `work` returns. Raises NotApplied if the lease is lost before."""
        working, losing = asyncio.ensure_future(work), asyncio.ensure_future(self.lost.wait())
        try:
            await asyncio.wait((working, losing), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise NotApplied(f"the lease was lost: {self.why}", reason="lease_lost")
        finally:
            for each in (working, losing):
                each.cancel()
            await asyncio.gather(working, losing, return_exceptions=True)


def now() -> float:
    """Return the time in seconds, also while the machine is suspended."""
    return time.clock_gettime(_CLOCK)


async def while_held(
    client: Client,
    key: bytes,
    value: bytes,
    work: Callable[[Hold], Awaitable[T]],
    *,
    ttl_s: float,
    wait_s: float | None,
    on_waiting: Callable[[bytes | None], None],
) -> T | None:
    """Take the key, do `work` while it is held, and release it; None: another holder kept it for
    `wait_s` seconds (None: wait for ever).

    `on_waiting` is told the present holder's value. `work` has to end when the hold is lost. Raises
    AcordoError while the key is not held; then nothing of it is left.
    """
    asked = now()
    lease = (await client.grant_lease(ttl_s)).id
    hold = Hold(key, lease, ttl_s, asked)
    try:
        async with asyncio.TaskGroup() as tasks:
            guards = [tasks.create_task(_keep_alive(client, hold))]
            try:
                if not await hold.unless_lost(_take(client, hold, value, wait_s, on_waiting)):
                    return None
                guards.append(tasks.create_task(_guard(client, hold)))
                return await work(hold)
            finally:
                for each in guards:
                    each.cancel()
    except* AcordoError as group:
        raise group.exceptions[0] from None
    finally:
        with contextlib.suppress(AcordoError):  # it ends by itself when its ttl has passed
            await client.revoke_lease(lease)


async def _take(
    client: Client,
    hold: Hold,
    value: bytes,
    wait_s: float | None,
    on_waiting: Callable[[bytes | None], None],
) -> bool:
    """Put the key as soon as it is absent; return False if it is present for `wait_s` seconds."""
    give_up = None if wait_s is None else asyncio.get_running_loop().time() + wait_s
    while True:
        try:
            done = await client.put(hold.key, value, lease=hold.lease, exists=False)
            hold.token = done.revision
            return True
        except PreconditionFailed as refused:
            try:
                async with asyncio.timeout_at(give_up):
                    await _until_absent(client, hold.key, refused.revision, on_waiting)
            except TimeoutError:
                return False
        except OutcomeUnknown as unknown:
            # The write may yet take the key, and nobody would know its token. Once settled, it has
            # an outcome for good.
            found = await client.operation(unknown.op_id or "", settle=True)
            if found.outcome == "applied":
                hold.token = found.revision
                return True


async def _until_absent(
    client: Client, key: bytes, revision: int, on_waiting: Callable[[bytes | None], None]
) -> None:
    """Wait until the key is deleted after a revision at which it was present."""
    found = await client.read(key)
    if not found.present:
        return
    on_waiting(found.value)
    async for change in client.watch(key, after=max(revision, found.revision)):
        if change.key == key and change.kind == "delete":
            return


async def _keep_alive(client: Client, hold: Hold) -> None:
    """Keep the lease alive, and say in time when that has failed for too long."""
    pause_s = hold.ttl_s / RENEWALS
    while True:
        await asyncio.sleep(pause_s)
        asked = now()
        left_s = hold.ends - hold.grace_s - asked
        if left_s <= 0:
            return hold.lose(f"it could not be kept alive for {hold.ttl_s - hold.grace_s:g} s")
        try:
            found = await client.keep_alive(hold.lease, timeout_s=left_s)
        except AcordoError:
            pause_s = min(PAUSE_S, hold.ttl_s / RENEWALS)
            continue
        if found is None:
            return hold.lose("its lease has ended")
        hold.ends, pause_s = asked + hold.ttl_s, hold.ttl_s / RENEWALS


async def _guard(client: Client, hold: Hold) -> None:
    """Notice when the key is deleted, or put by somebody who does not ask whether it is held."""
    after: int | str = hold.token
    while True:
        try:
            async for event in client.watch(hold.key, after=after, bookmarks=True):
                if isinstance(event, Bookmark):
                    after = event.position or event.revision
                elif event.key == hold.key:
                    who = "deleted" if event.kind == "delete" else "overwritten"
                    return hold.lose(f"its key was {who} at revision {event.revision}")
        except AcordoError:
            await asyncio.sleep(PAUSE_S)  # the lease alone counts meanwhile
