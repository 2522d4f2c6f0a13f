"""Own leases: keep them alive through any node, let them end, and read whether their keys exist.
Checked by `lease`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar, Final

from typing_extensions import override

from acordo import BadRequest
from chaos.records.recorder import Recorder
from chaos.workloads.base import LoadSettings, Observed, Worker, Workload

TTLS_MS: Final = (1_500, 3_000, 6_000)
OWNED_MAX: Final = 3
"""Leases that a worker owns; a new one replaces the oldest, which then ends."""
KEPT_MAX: Final = 30
"""Leases whose keys a worker reads."""
AFTER_S: Final = 8.0
"""At the end keys are read once more after so long: all leases have ended by then, or a new leader
has begun later.
"""


class Leases(Workload):
    """A workload of leases with a key each. No key is written twice, so only its lease ends it."""

    name: ClassVar[str] = "lease"

    def __init__(self, load: LoadSettings, recorder: Recorder) -> None:
        super().__init__(load, recorder)
        self.known: dict[str, list[tuple[str, int]]] = {}
        """By worker: each lease with its ttl in ms, oldest first."""

    @override
    async def step(self, worker: Worker) -> None:
        mine = self.known.setdefault(worker.name, [])
        what = worker.rng.random()
        if not mine or what < 0.08:
            await self.grant(worker, mine)
        elif what < 0.7:
            lease, ttl_ms = worker.rng.choice(mine[-OWNED_MAX:])
            await self.keep(worker, lease, ttl_ms)
        else:
            await self.read(worker, worker.rng.choice(mine)[0])

    async def grant(self, worker: Worker, mine: list[tuple[str, int]]) -> None:
        """Grant a lease, and attach a key to it."""
        ttl_ms, op_id = worker.rng.choice(TTLS_MS), worker.op_id()
        lease = f"{worker.rng.getrandbits(62) + 1:016x}"

        async def grant() -> Observed:
            await worker.client.grant_lease(ttl_ms / 1000, lease=lease, op_id=op_id)
            return Observed(result=True)

        done = await worker.do("grant", grant, key=lease, value=ttl_ms, op_id=op_id)
        if done.outcome != "ok":
            return
        key_op_id = worker.op_id()

        async def attach() -> Observed:
            try:
                put = await worker.client.put(
                    f"{self.prefix}{lease}", "alive", lease=lease, op_id=key_op_id
                )
            except BadRequest as exc:
                if exc.code != "lease_not_found":
                    raise
                return Observed(result=False)
            return Observed(put.served, True, put.revision, attempts=put.attempts)

        await worker.do("attach", attach, key=lease, value=ttl_ms, op_id=key_op_id)
        mine.append((lease, ttl_ms))
        del mine[:-KEPT_MAX]

    async def keep(self, worker: Worker, lease: str, ttl_ms: int) -> None:
        """Keep a lease alive; the result says whether it was there."""

        async def call() -> Observed:
            return Observed(result=await worker.client.keep_alive(lease) is not None)

        await worker.do("keep", call, key=lease, value=ttl_ms)

    async def read(self, worker: Worker, lease: str) -> None:
        """Read whether the key of a lease is there."""

        async def call() -> Observed:
            reading = await worker.client.read(f"{self.prefix}{lease}")
            return Observed(
                reading.served, reading.value is not None, reading.served.position, reading.revision
            )

        await worker.do("read", call, key=lease)

    async def finish(self, workers: Sequence[Worker]) -> None:
        """Read through every node the keys of leases that nobody keeps alive any more."""
        await asyncio.sleep(AFTER_S)
        leases = [lease for mine in self.known.values() for lease, _ in mine]
        for worker in workers[: len(self.load.urls)]:
            for lease in leases[-40:]:
                await self.read(worker, lease)
