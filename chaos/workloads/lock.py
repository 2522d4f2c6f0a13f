"""Take locks built on compare-and-set, and use a fenced resource with their tokens. Checked by
`lock`.

There are two kinds: a plain lock, held until it is released, and a lease, which expires (TTL) while
some holders oversleep on purpose.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar, Final

from typing_extensions import override

import acordo
from chaos.records.recorder import Recorder
from chaos.workloads.base import LoadSettings, Observed, Worker, Workload

LOCKS: Final = 2
LEASES: Final = 2
TTL_S: Final = 1.0
OVERSLEEP_S: Final = (1.2, 3.0)
OVERSLEEP_SHARE: Final = 0.15
STUCK_AFTER: Final = 40
"""Consecutive refused acquisitions after which a plain lock is given up, because the outcome of its
holder's operations is unknown.
"""


class Resource:
    """A resource protected by a lock. It refuses a token below the highest that it has seen."""

    def __init__(self) -> None:
        self.highest = 0

    def use(self, token: int) -> bool:
        """Use the resource with a token; return False if a higher token was used before."""
        if token < self.highest:
            return False
        self.highest = token
        return True


class Lock(Workload):
    """A workload of clients that take locks. The token is the revision at which one was taken."""

    name: ClassVar[str] = "lock"

    def __init__(self, load: LoadSettings, recorder: Recorder) -> None:
        super().__init__(load, recorder)
        self.resources: dict[str, Resource] = {}
        self.generation = [0] * LOCKS
        self.refused = [0] * LOCKS

    @override
    async def step(self, worker: Worker) -> None:
        slot = worker.rng.randrange(LOCKS + LEASES)
        leased = slot >= LOCKS
        key = (
            f"{self.prefix}lease{slot}"
            if leased
            else f"{self.prefix}{slot}.{self.generation[slot]}"
        )
        holder = worker.unique()
        token = await self.acquire(worker, key, holder, leased=leased)
        if not leased:
            self._maybe_give_up(slot, refused=token is None)
        if token is None:
            return
        for _ in range(worker.rng.randint(1, 3)):
            if leased and worker.rng.random() < OVERSLEEP_SHARE:
                await asyncio.sleep(worker.rng.uniform(*OVERSLEEP_S))
            await self.use(worker, key, token)
        await self.release(worker, key, holder, leased=leased)

    async def acquire(self, worker: Worker, key: str, holder: str, *, leased: bool) -> int | None:
        """Try to take the lock; return the token, or None if it was taken or the outcome is
        unknown.
        """
        op_id = worker.op_id()
        ttl_s = TTL_S if leased else None

        async def call() -> Observed:
            done = await worker.client.txn(
                guards=[acordo.absent(key)],
                writes=[acordo.put(key, holder, ttl_s=ttl_s)],
                op_id=op_id,
            )
            return Observed(
                done.served, True, done.revision, token=done.revision, attempts=done.attempts
            )

        lease = {"max_age_ms": TTL_S * 1e3} if leased else {}
        done = await worker.do(
            "acquire", call, observes_refusal=True, key=key, value=holder, op_id=op_id, **lease
        )
        return done.token if done.outcome == "ok" and done.result else None

    async def use(self, worker: Worker, key: str, token: int) -> None:
        """Use the protected resource, which checks the token itself."""
        resource = self.resources.setdefault(key, Resource())

        async def call() -> Observed:
            await asyncio.sleep(0)
            return Observed(result=resource.use(token), token=token)

        await worker.do("use", call, key=f"{key}/resource")

    async def release(self, worker: Worker, key: str, holder: str, *, leased: bool) -> None:
        """Release the lock if it is still ours.

        A lease may have expired by then. Releasing a plain lock is retried until its outcome is
        known.
        """
        op_id = worker.op_id()

        async def call() -> Observed:
            done = await worker.client.txn(
                guards=[acordo.equals(key, holder)], writes=[acordo.delete(key)], op_id=op_id
            )
            return Observed(done.served, True, done.revision, attempts=done.attempts)

        done = await worker.do(
            "release", call, observes_refusal=True, key=key, value=holder, op_id=op_id
        )
        tries = 0
        while done.outcome == "fail" and not leased and tries < STUCK_AFTER:
            tries += 1
            op_id = worker.op_id()
            done = await worker.do(
                "release", call, observes_refusal=True, key=key, value=holder, op_id=op_id
            )

    def _maybe_give_up(self, slot: int, *, refused: bool) -> None:
        self.refused[slot] = self.refused[slot] + 1 if refused else 0
        if self.refused[slot] > STUCK_AFTER:
            self.generation[slot] += 1
            self.refused[slot] = 0
