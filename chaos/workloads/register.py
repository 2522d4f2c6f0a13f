"""Put, get, swap and delete single keys; every written value is unique. Checked by `register` and
`versions`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from typing_extensions import override

import acordo
from chaos.records.history import Lookup
from chaos.records.recorder import Recorder
from chaos.workloads.base import LoadSettings, Observed, Rotation, Worker, Workload

SLOTS: Final = 12
"""Number of keys in use at a time."""
MIX: Final = (("get", 45), ("put", 28), ("cas", 14), ("swap", 6), ("delete", 5), ("again", 2))
"""Operations and their weights. `cas` compares values, `swap` revisions; `again` repeats an
acknowledged put's op_id.
"""

AGAIN_SHARE: Final = 0.4
"""Fraction of deletes that are followed by another delete of the key, which is absent by then."""


@dataclass(frozen=True)
class _Put:
    """The newest acknowledged put of one worker, which is to be sent again."""

    key: str
    value: str
    op_id: str
    revision: int | None


class Register(Workload):
    """A workload on single keys with all kinds of single-key writes."""

    name: ClassVar[str] = "register"

    def __init__(self, load: LoadSettings, recorder: Recorder) -> None:
        super().__init__(load, recorder)
        self.slots = load.hot or SLOTS
        self.keys = Rotation(self.prefix, self.rng, self.slots)
        self.recent: dict[str, deque[str | None]] = {}
        """Recently seen or written values, by key: the values that swaps expect."""

    @override
    async def step(self, worker: Worker) -> None:
        names, weights = zip(*MIX, strict=True)
        op = worker.rng.choices(names, weights)[0]
        key = self.keys.key(worker.rng.randrange(self.slots))
        if self.load.hot:
            if worker.number // len(self.load.urls) % 2:
                op = "get"
            await self.one(worker, op, key)
            if op != "get":
                await self.get(worker, key)
        else:
            await self.one(worker, op, key)

    async def one(self, worker: Worker, op: str, key: str) -> None:
        """Execute one operation of the mix."""
        match op:
            case "get":
                await self.get(worker, key)
            case "put":
                await self.put(worker, key)
            case "cas":
                await self.cas(worker, key)
            case "swap":
                await self.swap(worker, key)
            case "delete":
                await self.delete(worker, key)
            case _:
                await self.again(worker)

    async def get(self, worker: Worker, key: str) -> None:
        """Read linearizably, and remember the value for swaps."""

        async def call() -> Observed:
            reading = await worker.client.read(key)
            value = None if reading.value is None else reading.value.decode()
            return Observed(reading.served, value, reading.served.position, reading.revision)

        done = await worker.do("get", call, key=key)
        if done.outcome == "ok":
            self._saw(key, done.result)
            worker.memory[key] = (done.result, done.version or 0)

    async def put(self, worker: Worker, key: str) -> None:
        """Put a unique value."""
        value, op_id = worker.unique(), worker.op_id()

        async def call() -> Observed:
            written = await worker.client.put(key, value, op_id=op_id)
            return Observed(written.served, revision=written.revision, attempts=written.attempts)

        done = await worker.do("put", call, key=key, value=value, op_id=op_id)
        if done.outcome == "ok":
            self._saw(key, value)
            worker.memory["last"] = _Put(key, value, op_id, done.revision)

    async def cas(self, worker: Worker, key: str) -> None:
        """Swap by value, expecting a recently seen value."""
        seen = self.recent.get(key)
        expected = seen[-1] if seen else None
        if seen and worker.rng.random() < 0.4:
            expected = worker.rng.choice(seen)
        value, op_id = worker.unique(), worker.op_id()
        guard = acordo.absent(key) if expected is None else acordo.equals(key, expected)

        async def call() -> Observed:
            done = await worker.client.txn(
                guards=[guard], writes=[acordo.put(key, value)], op_id=op_id
            )
            return Observed(done.served, True, done.revision, attempts=done.attempts)

        fields = {"key": key, "expected": expected, "value": value, "op_id": op_id}
        done = await worker.do("cas", call, observes_refusal=True, **fields)
        if done.outcome == "ok" and done.result:
            self._saw(key, value)

    async def swap(self, worker: Worker, key: str) -> None:
        """Swap by revision, expecting the one that this client saw last.

        Values are unique, so a revision stands for one value.
        """
        if key not in worker.memory:
            await self.get(worker, key)
        if key not in worker.memory:
            return
        expected, revision = worker.memory[key]
        value, op_id = worker.unique(), worker.op_id()

        async def call() -> Observed:
            written = await worker.client.cas(key, value, if_revision=revision, op_id=op_id)
            return Observed(written.served, True, written.revision, attempts=written.attempts)

        fields = {"key": key, "expected": expected, "value": value, "op_id": op_id}
        done = await worker.do("cas", call, observes_refusal=True, **fields)
        if done.outcome == "ok" and done.result:
            self._saw(key, value)
            worker.memory[key] = (value, done.revision or 0)
        else:
            worker.memory.pop(key, None)

    async def delete(self, worker: Worker, key: str) -> None:
        """Delete the key."""
        op_id = worker.op_id()

        async def call() -> Observed:
            written = await worker.client.delete(key, op_id=op_id)
            result = {} if written.existed is None else {"result": written.existed}
            return Observed(
                written.served, revision=written.revision, attempts=written.attempts, **result
            )

        done = await worker.do("delete", call, key=key, op_id=op_id)
        if done.outcome == "ok":
            self._saw(key, None)
            if worker.rng.random() < AGAIN_SHARE:
                await self.delete(worker, key)

    async def again(self, worker: Worker) -> None:
        """Send an acknowledged put again under its op_id.

        The answer must be the first revision, and nothing may change. It is recorded as a look-up,
        because it acts as one. If the value came back, the register checker sees it.
        """
        if "last" not in worker.memory:
            return
        first: _Put = worker.memory["last"]
        try:
            written = await worker.client.put(first.key, first.value, op_id=first.op_id)
        except Exception as exc:  # noqa: BLE001 - whatever became of the repetition, the first one is acknowledged
            worker.memory.pop("last")
            worker.memory["failed"] = repr(exc)
            return
        now = self.recorder.clock()
        self.recorder.add(Lookup(first.op_id, "applied", now, first.revision))
        again = Lookup(first.op_id, "applied", now, written.revision, written.served.node)
        self.recorder.add(again)

    async def finish(self, workers: Sequence[Worker]) -> None:
        """Read every key that is still in use through every node."""
        for worker in workers[: len(self.load.urls)]:
            for slot in range(self.slots):
                await self.get(worker, self.keys.present(slot))

    def _saw(self, key: str, value: str | None) -> None:
        self.recent.setdefault(key, deque(maxlen=6)).append(value)
