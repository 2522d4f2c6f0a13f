"""Read and write at level `session`, switching between all nodes. Checked by `session`."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from typing_extensions import override

from chaos.records.recorder import Recorder
from chaos.workloads.base import LoadSettings, Observed, Rotation, Worker, Workload

SLOTS: Final = 8


class Session(Workload):
    """A workload of clients with one session each, which use the nodes in turn."""

    name: ClassVar[str] = "session"
    client_options: ClassVar[dict[str, Any]] = {"level": "session"}

    def __init__(self, load: LoadSettings, recorder: Recorder) -> None:
        super().__init__(load, recorder)
        self.keys = Rotation(self.prefix, self.rng, SLOTS)

    @override
    async def step(self, worker: Worker) -> None:
        key = self.keys.key(worker.rng.randrange(SLOTS))
        kind = worker.rng.random()
        if kind < 0.6:
            await self.get(worker, key)
        else:
            await self.write(worker, key, gone=kind > 0.95)

    async def get(self, worker: Worker, key: str) -> None:
        """Read within the worker's session."""

        async def call() -> Observed:
            reading = await worker.client.read(key)
            value = None if reading.value is None else reading.value.decode()
            return Observed(reading.served, value, reading.served.position, reading.revision)

        await worker.do("get", call, key=key, level="session")

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
