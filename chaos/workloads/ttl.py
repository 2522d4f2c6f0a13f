"""Give each key a time to live once, and check whether it exists. Checked by `ttl`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from typing_extensions import override

from chaos.records.recorder import Recorder
from chaos.workloads.base import LoadSettings, Observed, Worker, Workload

TTLS_MS: Final = (800, 1_500, 3_000, 8_000, 30_000)
SWEEP_INTERVAL_S: Final = 1.0
"""The nodes' setting of the same name."""
KEPT_MAX: Final = 60
"""Most keys that a worker reads; a new one replaces the oldest."""
AFTER_S: Final = 2.0
"""At the end, keys that should have ended at least this long ago are read once more."""


class Ttl(Workload):
    """A workload of keys that expire. No key is written twice, so only a sweep can end one."""

    name: ClassVar[str] = "ttl"

    def __init__(self, load: LoadSettings, recorder: Recorder) -> None:
        super().__init__(load, recorder)
        self.keys: dict[str, list[tuple[str, int]]] = {}
        """By worker: each key, and the time in ns at which it is due to end."""

    @override
    def settings(self) -> dict[str, Any]:
        return {"ttl": {"sweep_interval_s": SWEEP_INTERVAL_S}}

    @override
    async def step(self, worker: Worker) -> None:
        mine = self.keys.setdefault(worker.name, [])
        if not mine or worker.rng.random() < 0.15:
            await self.give(worker, mine)
        else:
            # Most reads are of keys that end soon or have just ended.
            now = self.recorder.clock()
            near = min(mine, key=lambda key: abs(key[1] - now))
            key, _ = near if worker.rng.random() < 0.6 else worker.rng.choice(mine)
            await self.read(worker, key)

    async def give(self, worker: Worker, mine: list[tuple[str, int]]) -> None:
        """Put a key with a time to live, and remember it."""
        key, ttl_ms = f"{self.prefix}{worker.unique()}", worker.rng.choice(TTLS_MS)

        async def call() -> Observed:
            done = await worker.client.put(key, "alive", ttl_s=ttl_ms / 1000, op_id=op_id)
            return Observed(done.served, True, done.revision, attempts=done.attempts)

        op_id = worker.op_id()
        done = await worker.do("give", call, key=key, value=ttl_ms, op_id=op_id)
        if done.outcome != "fail":
            mine.append((key, self.recorder.clock() + ttl_ms * 1_000_000))
            del mine[:-KEPT_MAX]

    async def read(self, worker: Worker, key: str) -> None:
        """Read whether the key still exists."""

        async def call() -> Observed:
            reading = await worker.client.read(key)
            return Observed(
                reading.served, reading.value is not None, reading.served.position, reading.revision
            )

        await worker.do("read", call, key=key)

    async def finish(self, workers: Sequence[Worker]) -> None:
        """Read through every node the keys that should have ended by now."""
        await asyncio.sleep(AFTER_S)
        up_ns = self.recorder.clock() - int(AFTER_S * 1e9)
        over = [key for mine in self.keys.values() for key, due_ns in mine if due_ns < up_ns]
        for worker in workers[: len(self.load.urls)]:
            for key in over[-40:]:
                await self.read(worker, key)
