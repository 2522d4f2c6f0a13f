"""Add unique elements and read them all; acknowledged ones must stay. Checked by `set_full`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from typing_extensions import override

from chaos.records.recorder import Recorder
from chaos.workloads.base import LoadSettings, Observed, Rotation, Worker, Workload

SLOTS: Final = 2
READ_SHARE: Final = 0.12


class Set(Workload):
    """A workload on grow-only sets: the keys under a prefix.

    Adding is a put, reading is a listing at one revision.
    """

    name: ClassVar[str] = "set"

    def __init__(self, load: LoadSettings, recorder: Recorder) -> None:
        super().__init__(load, recorder)
        self.sets = Rotation(self.prefix, self.rng, SLOTS, (400, 700))

    @override
    async def step(self, worker: Worker) -> None:
        slot = worker.rng.randrange(SLOTS)
        if worker.rng.random() < READ_SHARE:
            await self.read(worker, self.sets.present(slot))
        else:
            await self.add(worker, self.sets.key(slot))

    async def add(self, worker: Worker, key: str) -> None:
        """Add a unique element."""
        element, op_id = worker.unique(), worker.op_id()

        async def call() -> Observed:
            written = await worker.client.put(f"{key}/{element}", "", op_id=op_id)
            return Observed(written.served, revision=written.revision, attempts=written.attempts)

        await worker.do("add", call, key=key, value=element, op_id=op_id)

    async def read(self, worker: Worker, key: str) -> None:
        """Read the whole set, page by page."""

        async def call() -> Observed:
            found: list[str] = []
            async for page in worker.client.pages(f"{key}/"):
                found += [f.key.decode().rpartition("/")[2] for f in page.found]
                served, revision = page.served, page.revision
            return Observed(served, found, revision)

        await worker.do("read", call, key=key)

    async def finish(self, workers: Sequence[Worker]) -> None:
        """Read every set of the run through every node."""
        for worker in workers[: len(self.load.urls)]:
            for key in self.sets.every:
                await self.read(worker, key)
