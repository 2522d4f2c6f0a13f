"""Write linearizably and read stale within given bounds. Checked by `staleness`, apart from
registers.
"""

from __future__ import annotations

from typing import ClassVar, Final

from typing_extensions import override

from chaos.records.recorder import Recorder
from chaos.workloads.base import LoadSettings, Observed, Rotation, Worker, Workload

SLOTS: Final = 6
MAX_AGES_S: Final = (0.05, 0.2, 1.0, 5.0)


class Stale(Workload):
    """A workload of stale reads of a few keys, written so often that cached values are soon old."""

    name: ClassVar[str] = "stale"

    def __init__(self, load: LoadSettings, recorder: Recorder) -> None:
        super().__init__(load, recorder)
        self.keys = Rotation(self.prefix, self.rng, SLOTS)

    @override
    async def step(self, worker: Worker) -> None:
        key = self.keys.key(worker.rng.randrange(SLOTS))
        kind = worker.rng.random()
        if kind < 0.65:
            await self.get(worker, key, worker.rng.choice(MAX_AGES_S))
        else:
            await self.write(worker, key, gone=kind > 0.96)

    async def get(self, worker: Worker, key: str, max_age_s: float) -> None:
        """Read a value that may be up to `max_age_s` old."""

        async def call() -> Observed:
            reading = await worker.client.read(key, level="stale", max_age_s=max_age_s)
            value = None if reading.value is None else reading.value.decode()
            return Observed(reading.served, value, reading.served.position, reading.revision)

        await worker.do("get", call, key=key, level="stale", max_age_ms=max_age_s * 1e3)

    async def write(self, worker: Worker, key: str, *, gone: bool) -> None:
        """Put a new value, or delete the key."""
        value, op_id = None if gone else worker.unique(), worker.op_id()

        async def call() -> Observed:
            client = worker.client
            done = await (
                client.delete(key, op_id=op_id)
                if value is None
                else client.put(key, value, op_id=op_id)
            )
            return Observed(done.served, revision=done.revision, attempts=done.attempts)

        await worker.do("delete" if gone else "put", call, key=key, value=value, op_id=op_id)
