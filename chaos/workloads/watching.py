"""Write under a prefix while watchers on every node follow it and reconnect on purpose.

Checked by `watch` and the ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from random import Random
from typing import Any, ClassVar, Final

from typing_extensions import override

import acordo
from acordo import AcordoError, Bookmark, Change, Client, Pruned
from chaos.records.history import Watched
from chaos.records.recorder import Recorder
from chaos.workloads.base import LoadSettings, Observed, Worker, Workload

KEYS: Final = 12
RECONNECT_S: Final = (1.0, 6.0)
"""Time after which a watcher disconnects on purpose and continues at another node."""
AWAY_S: Final = 1.5
"""Longest pause before it continues, used half of the time: then the changes that it missed are no
longer the newest.
"""
CATCH_UP_S: Final = 30.0
"""Longest wait for the watchers to reach the end once writing has stopped."""
RETRY_S: Final = 0.2


class Watcher:
    """A logical watcher, whose position survives its connections."""

    def __init__(self, name: str, prefix: str, workload: Watching, rng: Random) -> None:
        self.name, self.prefix = name, prefix
        self.workload, self.rng = workload, rng
        self.position: int | None = None
        self.reached = asyncio.Event()
        self.moved = asyncio.Condition()

    async def follow(self, stack: AsyncExitStack) -> None:
        """Watch one node after another, until cancelled."""
        urls = list(self.workload.load.urls)
        clients = [await stack.enter_async_context(Client(url)) for url in urls]
        at = self.rng.randrange(len(urls))
        while True:
            try:
                async with asyncio.timeout(self.rng.uniform(*RECONNECT_S)):
                    await self._one(clients[at])
            except TimeoutError:
                self._record("closed")
                if not self.workload.over and self.rng.random() < 0.5:
                    await asyncio.sleep(self.rng.uniform(0, AWAY_S))
            except Pruned:
                self._record("gone")
                self.position = None
            except AcordoError:
                self._record("closed")
                await asyncio.sleep(RETRY_S)
            at = self.rng.randrange(len(urls))

    async def _one(self, client: Client) -> None:
        if self.position is None:
            # Without a position a watch begins at whatever is current. Reading the position first
            # makes a gap detectable.
            self.position = (await client.read(self.prefix or "-")).served.position
        self._record("open", revision=self.position)
        async for event in client.watch(self.prefix, after=self.position, bookmarks=True):
            match event:
                case Change():
                    self._change(event)
                case Bookmark():
                    self._record("bookmark", revision=event.revision)
                    await self._move(event.revision)
            if isinstance(event, Change) and event.last:
                await self._move(event.revision)

    def _change(self, event: Change) -> None:
        value = None if event.value is None else event.value.decode()
        deleted = event.kind == "delete"
        self._record(
            "event", revision=event.revision, key=event.key.decode(), value=value, deleted=deleted
        )

    async def _move(self, revision: int) -> None:
        async with self.moved:
            self.position = revision
            self.moved.notify_all()

    async def wait(self, revision: int) -> None:
        """Wait until everything up to a revision was delivered."""
        async with self.moved:
            await self.moved.wait_for(
                lambda: self.position is not None and self.position >= revision
            )

    def _record(self, kind: Any, **fields: Any) -> None:
        recorder = self.workload.recorder
        recorder.add(Watched(self.name, kind, recorder.clock(), prefix=self.prefix, **fields))

    def end(self, revision: int) -> None:
        """Record the revision up to which the watcher must have been notified."""
        self._record("end", revision=revision)


class Watching(Workload):
    """A workload of writers that put, delete, and change several keys at one revision, with
    watchers of the whole prefix and of a part of it.
    """

    name: ClassVar[str] = "watch"

    def __init__(self, load: LoadSettings, recorder: Recorder) -> None:
        super().__init__(load, recorder)
        names = [f"w{n}" for n in range(len(load.urls))]
        self.watchers = [
            Watcher(name, self.prefix, self, Random(f"{load.seed}/{name}")) for name in names
        ]
        self.watchers.append(Watcher("part", f"{self.prefix}k1", self, Random(f"{load.seed}/part")))
        self.over = False
        """Whether writing has stopped."""
        self.newest = 0
        """Highest revision acknowledged to a writer."""

    @override
    async def run(self, stop: asyncio.Event) -> None:
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            following = [tasks.create_task(w.follow(stack)) for w in self.watchers]
            await super().run(stop)
            self.over = True
            await self._catch_up()
            for task in following:
                task.cancel()

    async def _catch_up(self) -> None:
        """Wait up to CATCH_UP_S until every watcher got all acknowledged changes. One that did not
        is found to be behind.
        """
        self.written_last = self.newest
        try:
            async with asyncio.timeout(CATCH_UP_S), asyncio.TaskGroup() as tasks:
                for watcher in self.watchers:
                    tasks.create_task(watcher.wait(self.newest))
        except TimeoutError:
            pass
        for watcher in self.watchers:
            watcher.end(self.newest)

    @override
    async def step(self, worker: Worker) -> None:
        kind = worker.rng.random()
        key = f"{self.prefix}k{worker.rng.randrange(KEYS)}"
        if kind < 0.6:
            await self.put(worker, key)
        elif kind < 0.75:
            await self.delete(worker, key)
        else:
            await self.several(worker)

    async def put(self, worker: Worker, key: str) -> None:
        """Put a unique value."""
        value, op_id = worker.unique(), worker.op_id()

        async def call() -> Observed:
            done = await worker.client.put(key, value, op_id=op_id)
            return self._seen(Observed(done.served, revision=done.revision, attempts=done.attempts))

        await worker.do("put", call, key=key, value=value, op_id=op_id)

    async def delete(self, worker: Worker, key: str) -> None:
        """Delete the key."""
        op_id = worker.op_id()

        async def call() -> Observed:
            done = await worker.client.delete(key, op_id=op_id)
            result = {} if done.existed is None else {"result": done.existed}
            return self._seen(
                Observed(done.served, revision=done.revision, attempts=done.attempts, **result)
            )

        await worker.do("delete", call, key=key, op_id=op_id)

    async def several(self, worker: Worker) -> None:
        """Change two or three keys at one revision."""
        keys = [
            f"{self.prefix}k{n}" for n in worker.rng.sample(range(KEYS), worker.rng.randint(2, 3))
        ]
        values = {key: worker.unique() for key in keys}
        op_id = worker.op_id()

        async def call() -> Observed:
            done = await worker.client.txn(
                writes=[acordo.put(k, v) for k, v in values.items()], op_id=op_id
            )
            return self._seen(Observed(done.served, revision=done.revision, attempts=done.attempts))

        await worker.do("txn", call, value=[["w", k, v] for k, v in values.items()], op_id=op_id)

    def _seen(self, seen: Observed) -> Observed:
        self.newest = max(self.newest, seen.revision or 0)
        return seen

    async def finish(self, workers: Sequence[Worker]) -> None:
        """Do nothing: the watchers have caught up before."""
