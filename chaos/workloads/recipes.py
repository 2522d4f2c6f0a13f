"""Use the client's recipes as programs do: locks, elections, semaphores, counters and queues.
Checked by `recipes`.

A holder trusts what the recipe tells it (`held`), and notes from when to when it was told so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar, Final

from typing_extensions import override

from acordo.recipes import Counter, Election, Lock, Queue, Semaphore
from chaos.records.recorder import Recorder
from chaos.workloads.base import LoadSettings, Observed, Worker, Workload
from chaos.workloads.lock import Resource

TTL_S: Final = 1.5
ACQUIRE_S: Final = 1.0
PLACES: Final = 2
LOOKS: Final = 8
"""How often a holder asks whether it still holds its place, while it holds it."""
DRAIN_MAX: Final = 20_000
KINDS: Final = (*("lock", "lock", "election", "semaphore", "increment", "read", "enqueue", "take"),)


class Recipes(Workload):
    """A workload of places that are held for a moment, numbers, and items that are handed on."""

    name: ClassVar[str] = "recipes"

    def __init__(self, load: LoadSettings, recorder: Recorder) -> None:
        super().__init__(load, recorder)
        self.resources: dict[str, Resource] = {}
        self.kinds: tuple[str, ...] = KINDS

    @override
    async def step(self, worker: Worker) -> None:
        match worker.rng.choice(self.kinds):
            case "lock":
                lock = Lock(worker.client, self.prefix + "lock", ttl_s=TTL_S)
                await self.hold(worker, lock, "lock", 1)
            case "election":
                election = Election(worker.client, self.prefix + "election", ttl_s=TTL_S)
                await self.hold(worker, election, "election", 1)
            case "semaphore":
                semaphore = Semaphore(
                    worker.client, self.prefix + "semaphore", places=PLACES, ttl_s=TTL_S
                )
                await self.hold(worker, semaphore, "semaphore", PLACES)
            case "increment":
                await self.increment(worker)
            case "read":
                await self.read(worker)
            case "enqueue":
                await self.enqueue(worker)
            case _:
                await self.take(worker, timeout_s=0.2)

    async def hold(self, worker: Worker, place: Semaphore, key: str, places: int) -> None:
        """Ask for a place; if it is given, hold it for a moment."""

        async def acquire() -> Observed:
            if not await place.acquire(timeout_s=ACQUIRE_S):
                return Observed(result=False)
            return Observed(result=True, token=place.token)

        async def use() -> Observed:
            held = place.held
            for _ in range(LOOKS if held else 0):
                await asyncio.sleep(worker.rng.uniform(0.001, 0.02))
                held = held and place.held
            # nothing is awaited between this look and the end of the operation
            return Observed(result=held, token=token)

        given = await worker.do("acquire", acquire, key=key, max_age_ms=TTL_S * 1e3)
        token = given.token
        try:
            if given.outcome == "ok" and given.result and token is not None:
                await worker.do("hold", use, key=key, value=places)
                if places == 1:
                    await self.use(worker, key, token)
        finally:
            await place.release()

    async def use(self, worker: Worker, key: str, token: int) -> None:
        """Use a resource that checks the token itself."""
        resource = self.resources.setdefault(key, Resource())

        async def call() -> Observed:
            await asyncio.sleep(0)
            return Observed(result=resource.use(token), token=token)

        await worker.do("use", call, key=f"{key}/resource")

    async def increment(self, worker: Worker) -> None:
        """Add to the number."""
        amount = worker.rng.randint(1, 5)

        async def call() -> Observed:
            await Counter(worker.client, self.prefix + "counter").add(amount)
            return Observed(result=True)

        await worker.do("increment", call, key="counter", value=amount)

    async def read(self, worker: Worker) -> None:
        """Read the number."""

        async def call() -> Observed:
            found = await worker.client.read(self.prefix + "counter")
            count = None if found.value is None else int(found.value)
            return Observed(found.served, count, found.served.position)

        await worker.do("read", call, key="counter")

    async def enqueue(self, worker: Worker) -> None:
        """Put an item."""
        item = worker.unique()

        async def call() -> Observed:
            await Queue(worker.client, self.prefix + "queue").put(item)
            return Observed(result=True)

        await worker.do("enqueue", call, key="queue", value=item)

    async def take(self, worker: Worker, *, timeout_s: float) -> bool:
        """Take an item; return whether there may be more."""

        async def call() -> Observed:
            item = await Queue(worker.client, self.prefix + "queue").take(timeout_s=timeout_s)
            return Observed(result=None if item is None else item.decode())

        done = await worker.do("take", call, key="queue")
        return done.outcome != "ok" or done.result is not None

    @override
    async def finish(self, workers: Sequence[Worker]) -> None:
        for worker in workers[: len(self.load.urls)]:
            await self.read(worker)
        for _ in range(DRAIN_MAX):
            if not await self.take(workers[0], timeout_s=0.0):
                return
