"""Increment counters: each acknowledged increment counts once, despite retries. Checked by
`counter`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from typing_extensions import override

import acordo
from acordo import Refused
from chaos.records.history import Lookup
from chaos.records.recorder import Recorder
from chaos.workloads.base import LoadSettings, Observed, Rotation, Worker, Workload

SLOTS: Final = 4
ATTEMPTS_MAX: Final = 5
REPEAT_SHARE: Final = 0.1
"""Fraction of acknowledged increments whose request is sent again with the same op_id."""


class Counter(Workload):
    """A workload of increments of numbers in keys, each a transaction guarded by the revision it
    read.
    """

    name: ClassVar[str] = "counter"

    def __init__(self, load: LoadSettings, recorder: Recorder) -> None:
        super().__init__(load, recorder)
        self.counters = Rotation(self.prefix, self.rng, SLOTS, (300, 600))

    @override
    async def step(self, worker: Worker) -> None:
        key = self.counters.key(worker.rng.randrange(SLOTS))
        if worker.rng.random() < 0.35:
            await self.read(worker, key)
        else:
            await self.increment(worker, key)

    async def read(self, worker: Worker, key: str) -> None:
        """Read the count."""

        async def call() -> Observed:
            reading = await worker.client.read(key)
            count = None if reading.value is None else int(reading.value)
            return Observed(reading.served, count, reading.served.position, reading.revision)

        await worker.do("read", call, key=key)

    async def increment(self, worker: Worker, key: str) -> None:
        """Add to the count, guarded by the revision that was read."""
        amount, base = worker.rng.randint(1, 5), worker.op_id()

        async def call() -> Observed:
            for attempt in range(1, ATTEMPTS_MAX + 1):
                found = await worker.client.read(key)
                count = int(found.value or 0) + amount
                guards, writes = (
                    [acordo.at_revision(key, found.revision)],
                    [acordo.put(key, str(count))],
                )
                worker.attempt = op_id = f"{base}.{attempt}"
                try:
                    done = await worker.client.txn(guards=guards, writes=writes, op_id=op_id)
                except Refused:
                    if attempt == ATTEMPTS_MAX:
                        raise
                    continue
                if worker.rng.random() < REPEAT_SHARE:
                    again = await worker.client.txn(guards=guards, writes=writes, op_id=op_id)
                    now = self.recorder.clock()
                    self.recorder.add(Lookup(op_id, "applied", now, done.revision))
                    self.recorder.add(
                        Lookup(op_id, "applied", now, again.revision, again.served.node)
                    )
                return Observed(done.served, True, done.revision, attempts=done.attempts)
            raise AssertionError("unreachable")

        await worker.do("increment", call, key=key, value=amount)

    @override
    async def finish(self, workers: Sequence[Worker]) -> None:
        for worker in workers[: len(self.load.urls)]:
            for key in self.counters.every:
                await self.read(worker, key)
