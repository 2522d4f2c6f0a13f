"""Append to lists in transactions over several keys. Checked by `append` (Elle)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import msgspec
from typing_extensions import override

import acordo
from acordo import Refused
from chaos.records.recorder import Recorder
from chaos.workloads.base import LoadSettings, Observed, Rotation, Worker, Workload

SLOTS: Final = 6
MICROS_MAX: Final = 4
LENGTH_MAX: Final = 90
"""Length at which a list is replaced by a new one, because every read returns the whole list."""
ATTEMPTS_MAX: Final = 3
"""Attempts of a transaction whose guards fail because another client was faster."""


class Append(Workload):
    """A workload of transactions that read lists and append to them; a list is a key with a JSON
    list.

    A transaction reads its lists in one snapshot, then writes the longer lists, guarded by the
    revisions that it read. So it took effect with exactly what it had read, or not at all.
    """

    name: ClassVar[str] = "append"

    def __init__(self, load: LoadSettings, recorder: Recorder) -> None:
        super().__init__(load, recorder)
        self.lists = Rotation(self.prefix, self.rng, SLOTS, (300, 600))
        self.appended = 0

    @override
    async def step(self, worker: Worker) -> None:
        asked = self._ask(worker)
        if all(kind == "r" for kind, _, _ in asked):
            await self.read(worker, asked)
        else:
            await self.write(worker, asked)

    def _ask(self, worker: Worker) -> list[list[Any]]:
        reads_only = worker.rng.random() < 0.35
        asked: list[list[Any]] = []
        for _ in range(worker.rng.randint(1, MICROS_MAX)):
            key = self.lists.key(worker.rng.randrange(SLOTS))
            if reads_only or worker.rng.random() < 0.45:
                asked.append(["r", key, None])
            else:
                self.appended += 1
                asked.append(["append", key, self.appended])
        return asked

    async def read(self, worker: Worker, asked: list[list[Any]]) -> None:
        """Read all lists in one snapshot."""
        keys = list(dict.fromkeys(key for _, key, _ in asked))

        async def call() -> Observed:
            done = await worker.client.txn(reads=keys)
            lists = {r.key.decode(): _list(r.value) for r in done.reads}
            return Observed(
                done.served, [["r", key, lists[key]] for _, key, _ in asked], done.served.position
            )

        await worker.do("txn", call, value=asked, op_id=None)

    async def write(self, worker: Worker, asked: list[list[Any]]) -> None:
        """Read the lists and append to some of them in one guarded transaction."""
        keys = list(dict.fromkeys(key for _, key, _ in asked))
        base = worker.op_id()

        async def call() -> Observed:
            for attempt in range(1, ATTEMPTS_MAX + 1):
                found = await worker.client.txn(reads=keys)
                lists = {r.key.decode(): _list(r.value) for r in found.reads}
                answered = _execute(asked, lists)
                touched = list(dict.fromkeys(key for kind, key, _ in asked if kind == "append"))
                guards = [acordo.at_revision(r.key, r.revision) for r in found.reads]
                writes = [acordo.put(key, json.dumps(lists[key])) for key in touched]
                worker.attempt = f"{base}.{attempt}"
                try:
                    done = await worker.client.txn(
                        guards=guards, writes=writes, op_id=worker.attempt
                    )
                except Refused:
                    if attempt == ATTEMPTS_MAX:
                        raise
                    continue
                self._retire([key for key in touched if len(lists[key]) > LENGTH_MAX])
                return Observed(done.served, answered, done.revision, attempts=done.attempts)
            raise AssertionError("unreachable")

        await worker.do("txn", call, value=asked)

    def _retire(self, keys: Sequence[str]) -> None:
        for slot in range(SLOTS):
            if self.lists.present(slot) in keys:
                self.lists.retire(slot)

    async def finish(self, workers: Sequence[Worker]) -> None:
        """Read every list of the run through every node."""
        for worker in workers[: len(self.load.urls)]:
            for at in range(0, len(self.lists.every), 8):
                await self.read(worker, [["r", key, None] for key in self.lists.every[at : at + 8]])


def _execute(asked: list[list[Any]], lists: dict[str, list[Any]]) -> list[list[Any]]:
    """Apply the micro-operations to the lists in place; return what each one saw."""
    answered = []
    for kind, key, value in asked:
        if kind == "append":
            lists[key] = [*lists[key], value]
            answered.append([kind, key, value])
        else:
            answered.append([kind, key, list(lists[key])])
    return answered


def _list(value: bytes | None) -> list[Any]:
    return [] if value is None else msgspec.json.decode(value, type=list[Any])
