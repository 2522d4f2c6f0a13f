"""Write to a cluster whose members change, and judge at the end what was seen: `python -m
tests.hosts.load FOLDER`.

It takes the nodes' URLs from FOLDER/urls, and again whenever that file changes; it says in
FOLDER/progress.json how much was acknowledged, and begins to judge when FOLDER/stop is there. What
it saw is kept in the files of a chaos run, so that `python -m chaos check FOLDER` judges it again.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from acordo import Client
from chaos.checkers.judge import judge
from chaos.checkers.verdict import Verdict
from chaos.records.collect import evidence, look_up, write_settled_ledger
from chaos.records.copies import collect_copies
from chaos.records.final_state import Evidence
from chaos.records.recorder import Recorder
from chaos.records.saved import FINAL_FILE, HISTORY_FILE, LEDGER_FILE, open_run
from chaos.workloads.base import ATTEMPT_TIMEOUT_S, LoadSettings, Observed, Worker
from chaos.workloads.register import Register

REGISTERS: Final = 6
"""Clients that read, write, swap and delete the same few keys."""
FILLERS: Final = 32
"""Clients that each write new keys."""
WRITES_PER_S: Final = 450
"""How many new keys are begun in a second, if the cluster takes them."""
FIRST_BYTES: Final = 200_000_000
"""How much is written before the first machine is replaced."""
FIRST_VALUE_BYTES: Final = 65_536
VALUE_BYTES: Final = 1024
OPERATION_TIMEOUT_S: Final = 20.0
LOOK_S: Final = 0.2
MODELS: Final = ("register", "versions", "ledger", "copies")


class Progress(msgspec.Struct):
    """What was acknowledged so far."""

    phase: str = "filling"
    writes: int = 0
    written_bytes: int = 0
    at_s: float = 0.0
    """CLOCK_MONOTONIC, the same for all processes of a machine."""


class Verdicts(msgspec.Struct):
    """What came of it."""

    lost: list[str]
    """Acknowledged keys that a member lacks, or has with another value."""
    anomalies: list[str]
    figures: dict[str, int]


class Load:
    """All clients, and what they saw."""

    def __init__(self, folder: Path, recorder: Recorder) -> None:
        self.folder, self.recorder = folder, recorder
        self.progress = Progress()
        self.urls: tuple[str, ...] = ()
        self.kept: dict[str, str] = {}
        """Acknowledged new keys, with the hash of their value."""
        self.rng = Random(7)
        self.noise = self.rng.randbytes(FIRST_VALUE_BYTES + 4096)
        self.register = Register(LoadSettings((), 7, "hosts/"), recorder)
        self.fillers: list[Worker] = []
        self.numbers: Iterator[int] = itertools.count()
        self.turns: Iterator[int] = itertools.count()
        self.stop = asyncio.Event()

    # -------------------------------------------------------------------------------------- clients

    async def follow(self) -> None:
        """Give every client the nodes that there are now, whenever they change."""
        async with AsyncExitStack() as stack:
            while True:
                urls = tuple((self.folder / "urls").read_text().split())
                if urls != self.urls:
                    self.urls = urls
                    for worker in (*self.register.workers, *self.fillers):
                        first = worker.number % len(urls)
                        client = Client(
                            urls[first:] + urls[:first],
                            timeout_s=OPERATION_TIMEOUT_S,
                            attempt_timeout_s=ATTEMPT_TIMEOUT_S,
                            spread=True,
                        )
                        worker.client = await stack.enter_async_context(client)
                self.progress.at_s = time.monotonic()
                progress = self.folder / "progress.new"
                progress.write_bytes(msgspec.json.encode(self.progress))
                progress.rename(self.folder / "progress.json")
                if (self.folder / "stop").exists():
                    self.stop.set()
                await asyncio.sleep(LOOK_S)

    def make_workers(self) -> None:
        """Make the clients; `follow` connects them."""
        nobody: Client = None  # type: ignore[assignment]  # replaced before anything is done
        for n in range(REGISTERS):
            self.register.workers.append(Worker(f"r{n}", n, nobody, Random(n), self.register))
        for n in range(FILLERS):
            self.fillers.append(Worker(f"f{n}", n, nobody, Random(n), self.register))

    # ----------------------------------------------------------------------------------------- load

    async def run(self) -> None:
        """Fill, then write until told to stop."""
        self.make_workers()
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(self.follow())
            while not self.urls:
                await asyncio.sleep(LOOK_S)
            async with asyncio.TaskGroup() as filling:
                for worker in self.fillers[:8]:
                    filling.create_task(self.fill_first(worker))
            self.progress.phase = "writing"
            began = time.monotonic()
            async with asyncio.TaskGroup() as writing:
                for worker in self.fillers:
                    writing.create_task(self.fill_on(worker, began))
                for worker in self.register.workers:
                    writing.create_task(self.change(worker))
            following.cancel()

    async def fill_first(self, worker: Worker) -> None:
        """Write large values until there is enough."""
        while self.progress.written_bytes < FIRST_BYTES:
            await self.put_new(worker, FIRST_VALUE_BYTES)

    async def fill_on(self, worker: Worker, began: float) -> None:
        """Write small values, all fillers together at most WRITES_PER_S."""
        while not self.stop.is_set():
            due = began + next(self.turns) / WRITES_PER_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self.put_new(worker, VALUE_BYTES)

    async def change(self, worker: Worker) -> None:
        """Do one thing after another on the keys that all share."""
        while not self.stop.is_set():
            await self.register.step(worker)
            await asyncio.sleep(worker.rng.expovariate(20))

    async def put_new(self, worker: Worker, size: int) -> None:
        """Write a key that was never there."""
        number = next(self.numbers)
        key, op_id = f"new/{number}", f"new.{number}"
        offset = number % 4096
        value = b"%d " % number + self.noise[offset : offset + size - 16]
        hashed = hashlib.blake2b(value, digest_size=16).hexdigest()

        async def call() -> Observed:
            written = await worker.client.put(key, value, op_id=op_id)
            return Observed(written.served, revision=written.revision, attempts=written.attempts)

        done = await worker.do("put", call, key=key, value=hashed, op_id=op_id, workload="new")
        if done.outcome == "ok":
            self.kept[key] = hashed
            self.progress.writes += 1
            self.progress.written_bytes += size
        elif done.outcome == "fail":
            await asyncio.sleep(0.05)


async def collect(load: Load) -> None:
    """Write what all members say at the end, when nobody writes."""
    folder, urls = load.folder, load.urls
    async with Client(list(urls)) as client:
        await look_up(client, load.recorder.unknown, load.recorder)
    found: Evidence = await evidence(urls, load.register.keys.every[:50])
    found = await write_settled_ledger(urls, folder / LEDGER_FILE, found)
    settled = max(member.settled for member in found.members)
    copies = await collect_copies(found.nodes, urls, settled)
    found = msgspec.structs.replace(found, copies=copies)
    (folder / FINAL_FILE).write_bytes(msgspec.json.encode(found))


def judged(load: Load) -> Verdicts:
    """Judge everything that was seen."""
    saved = open_run(load.folder)
    assert saved.evidence is not None
    judgements = judge(saved, models=MODELS)
    anomalies = [
        f"{each.checker}: {finding.anomaly}: {finding.message}"
        for each in judgements
        for finding in each.findings
        if finding.verdict is not Verdict.OK
    ]
    lost: list[str] = []
    for copy in saved.evidence.copies:
        there = {key.key: key.value for key in copy.keys}
        lost += [f"{copy.node}: {k}" for k, v in load.kept.items() if there.get(k) != v]
    figures = {f"{each.checker}_operations": each.operations for each in judgements}
    figures |= {
        "members": len(saved.evidence.copies),
        "acknowledged": len(load.kept),
        "rows": min((len(copy.rows) for copy in saved.evidence.copies), default=0),
    }
    return Verdicts(lost[:20], anomalies, figures)


async def main(folder: Path) -> None:
    """Load, collect, judge, and write the verdict."""
    with Recorder(folder / HISTORY_FILE, seed=7) as recorder:
        load = Load(folder, recorder)
        await load.run()
        await collect(load)
    (folder / "verdict.json").write_bytes(msgspec.json.encode(judged(load)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
