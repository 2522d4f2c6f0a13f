"""Hold locks, be members of groups, and keep leases alive by etcd's gateway. Checked by `etcd`.

Half of the locks are the gateway's own (`/v3/lock/lock`); the others are taken as tooz takes its
locks: a transaction puts a key with a lease unless it is there. Groups are tooz's as well: a key
with a lease for each member. Some holders oversleep on purpose, and some leases end.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import ClassVar, Final

from typing_extensions import override

from acordo import AcordoError
from chaos.records.history import ClientOperation
from chaos.records.recorder import Recorder
from chaos.workloads import tooz_processes
from chaos.workloads.base import LoadSettings, Observed, Worker, Workload, WorkloadFailed
from chaos.workloads.gateway import Gateway, LeaseGone, b64, text_of
from chaos.workloads.tooz_processes import ToozProcesses

LOCKS: Final = 4
"""The first half are the gateway's own, the others tooz's."""
GROUPS: Final = 2
TTLS_S: Final = (2, 3, 5)
WAIT_S: Final = 3.0
"""How long a client waits for any answer, and for its turn."""
OVERSLEEP_S: Final = (0.2, 2.0)
"""How long after its ttl a holder that oversleeps is back."""
OVERSLEEP_SHARE: Final = 0.04
AWAY_S: Final = 0.1
"""How long a client waits that could not be granted a lease: its node may be away."""
LEFT_SHARE: Final = 0.04
"""How often a client forgets its lease, which then ends."""


@dataclass(frozen=True)
class Lease:
    """A client's own lease."""

    id: int
    ttl_s: int

    @property
    def name(self) -> str:
        """Return the lease as histories have it, and as the gateway names keys of locks."""
        return f"{self.id:x}"


class Etcd(Workload):
    """A workload of clients of etcd's gateway. A lock's token is the create_revision of its key."""

    name: ClassVar[str] = "etcd"

    def __init__(self, load: LoadSettings, recorder: Recorder) -> None:
        super().__init__(load, recorder)
        self.gateways: dict[str, Gateway] = {}

    @override
    async def open(self, stack: AsyncExitStack) -> None:
        await super().open(stack)
        for worker in self.workers:
            if worker.name not in self.gateways:
                first = worker.number % len(self.load.urls)
                urls = self.load.urls[first:] + self.load.urls[:first]
                pinned = worker.number // len(self.load.urls) % 2 == 0
                gateway = Gateway(urls[:1] if pinned else urls, timeout_s=WAIT_S)
                self.gateways[worker.name] = await stack.enter_async_context(gateway)

    @override
    async def run(self, stop: asyncio.Event) -> None:
        python = os.environ.get(tooz_processes.VARIABLE)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(super().run(stop))
            if python:
                processes = ToozProcesses(
                    self.recorder, self.name, prefix=self.prefix, seed=self.load.seed
                )
                tasks.create_task(processes.run(python, self.load.urls, stop))

    @override
    async def set_up(self, worker: Worker) -> None:
        try:
            await self.gateways[worker.name].ask("kv/range", key=b64(self.prefix))
        except AcordoError as exc:
            raise WorkloadFailed(f"the nodes do not speak etcd's gateway: {exc}") from exc

    @override
    async def step(self, worker: Worker) -> None:
        lease = worker.memory.get("lease")
        what = worker.rng.random()
        if not isinstance(lease, Lease):
            await self.grant(worker)
        elif what < LEFT_SHARE:
            worker.memory.clear()
        elif what < 0.5:
            await self.hold(worker, lease)
        elif what < 0.7:
            await self.meet(worker, lease)
        else:
            await self.keep(worker, lease)

    async def _ask(
        self,
        worker: Worker,
        op: str,
        key: str,
        call: Callable[[Gateway], Awaitable[Observed]],
        *,
        lease: Lease,
    ) -> ClientOperation:
        """Do an operation. That its lease is gone is an observation, and ends the use of it."""

        async def asked() -> Observed:
            try:
                return await call(self.gateways[worker.name])
            except LeaseGone:
                return Observed(result=False)

        value = lease.ttl_s * 1000 if op in {"grant", "keep"} else lease.name
        done = await worker.do(op, asked, key=key, value=value)
        if done.result is False and op in {"keep", "use", "join"}:
            worker.memory.clear()
        return done

    # --------------------------------------------------------------------------------------- leases

    async def grant(self, worker: Worker) -> None:
        """Grant a lease, and use it from now on."""
        lease = Lease(worker.rng.getrandbits(62) + 1, worker.rng.choice(TTLS_S))

        async def call(gateway: Gateway) -> Observed:
            told = await gateway.ask("lease/grant", ID=lease.id, TTL=lease.ttl_s)
            return Observed(told.served, True)

        done = await self._ask(worker, "grant", lease.name, call, lease=lease)
        if done.outcome == "ok":
            worker.memory["lease"] = lease
        else:
            await asyncio.sleep(AWAY_S)

    async def keep(self, worker: Worker, lease: Lease) -> None:
        """Keep a lease alive; the result says whether it was there."""

        async def call(gateway: Gateway) -> Observed:
            told = await gateway.ask("lease/keepalive", ID=lease.id)
            return Observed(told.served, int(told.body.get("TTL", 0)) > 0)

        await self._ask(worker, "keep", lease.name, call, lease=lease)

    # ---------------------------------------------------------------------------------------- locks

    async def hold(self, worker: Worker, lease: Lease) -> None:
        """Take a lock, write under its fence, and give it back."""
        slot = worker.rng.randrange(LOCKS)
        name, queued = f"{self.prefix}lock{slot}", slot < LOCKS // 2
        key = f"{name}/{lease.name}" if queued else name
        token = await self.acquire(worker, name, lease, queued=queued)
        if token is None:
            return
        for _ in range(worker.rng.randint(1, 3)):
            if worker.rng.random() < OVERSLEEP_SHARE:
                await asyncio.sleep(lease.ttl_s + worker.rng.uniform(*OVERSLEEP_S))
            await self.use(worker, name, key, lease, token)
            if worker.memory.get("lease") is not lease:
                return
            await self.keep(worker, lease)
        if worker.memory.get("lease") is lease:
            await self.release(worker, name, key, lease, queued=queued)

    async def acquire(self, worker: Worker, name: str, lease: Lease, *, queued: bool) -> int | None:
        """Take a lock: wait for it in the gateway's queue, or try once as tooz does. Return the
        token; None: it was taken, or that is not known.
        """

        async def in_turn(gateway: Gateway) -> Observed:
            key = (await gateway.ask("lock/lock", name=b64(name), lease=lease.id)).body["key"]
            told = await gateway.ask("kv/range", key=key)
            if not told.body.get("kvs"):
                return Observed(told.served, False)
            created = int(told.body["kvs"][0]["create_revision"])
            return Observed(told.served, True, token=created)

        async def at_once(gateway: Gateway) -> Observed:
            key = b64(name)
            absent = {"key": key, "target": "CREATE", "result": "EQUAL", "create_revision": 0}
            put = {"request_put": {"key": key, "value": b64(lease.name), "lease": lease.id}}
            told = await gateway.ask("kv/txn", compare=[absent], success=[put])
            taken = bool(told.body.get("succeeded"))
            return Observed(told.served, taken, token=told.revision if taken else None)

        done = await self._ask(worker, "acquire", name, in_turn if queued else at_once, lease=lease)
        return done.token if done.outcome == "ok" and done.result is True else None

    async def use(self, worker: Worker, name: str, key: str, lease: Lease, token: int) -> None:
        """Write what the lock protects, if the lock's key is still the one with this token."""

        async def call(gateway: Gateway) -> Observed:
            same = {"key": b64(key), "target": "CREATE", "create_revision": token}
            put = {"request_put": {"key": b64(f"{name}.fenced"), "value": b64(lease.name)}}
            told = await gateway.ask("kv/txn", compare=[same], success=[put])
            held = bool(told.body.get("succeeded"))
            return Observed(told.served, held, told.revision, token=token)

        await self._ask(worker, "use", name, call, lease=lease)

    async def release(
        self, worker: Worker, name: str, key: str, lease: Lease, *, queued: bool
    ) -> None:
        """Give a lock back. A lease whose lock may still be held is not used again."""

        async def call(gateway: Gateway) -> Observed:
            told = await gateway.ask("lock/unlock" if queued else "kv/deleterange", key=b64(key))
            return Observed(told.served, True, told.revision)

        done = await self._ask(worker, "release", name, call, lease=lease)
        if done.outcome != "ok":
            worker.memory.clear()

    # --------------------------------------------------------------------------------------- groups

    async def meet(self, worker: Worker, lease: Lease) -> None:
        """Join a group or leave it, and ask who is in it."""
        group = f"{self.prefix}group{worker.rng.randrange(GROUPS)}/"
        joined = worker.memory.setdefault("groups", set())
        if group not in joined:
            await self.join(worker, group, lease)
        elif worker.rng.random() < 0.3:
            await self.leave(worker, group, lease)
        await self.members(worker, group)

    async def join(self, worker: Worker, group: str, lease: Lease) -> None:
        """Become a member of a group for as long as a lease lives."""

        async def call(gateway: Gateway) -> Observed:
            told = await gateway.ask("kv/put", key=b64(group + lease.name), lease=lease.id)
            return Observed(told.served, True, told.revision)

        done = await self._ask(worker, "join", group, call, lease=lease)
        if done.outcome == "ok" and done.result is True:
            worker.memory["groups"].add(group)

    async def leave(self, worker: Worker, group: str, lease: Lease) -> None:
        """Leave a group. If it is not known whether that was done, the lease is not used again."""

        async def call(gateway: Gateway) -> Observed:
            told = await gateway.ask("kv/deleterange", key=b64(group + lease.name))
            return Observed(told.served, True, told.revision)

        done = await self._ask(worker, "leave", group, call, lease=lease)
        if done.outcome == "ok":
            worker.memory["groups"].discard(group)
        else:
            worker.memory.clear()

    async def members(self, worker: Worker, group: str) -> None:
        """Ask for the members of a group: the names of their leases."""

        async def call() -> Observed:
            gateway, end = self.gateways[worker.name], group[:-1] + "0"
            told = await gateway.ask("kv/range", key=b64(group), range_end=b64(end), keys_only=True)
            found = [text_of(kv["key"])[len(group) :] for kv in told.body.get("kvs", [])]
            return Observed(told.served, found, told.revision)

        await worker.do("read", call, key=group)

    @override
    async def finish(self, workers: Sequence[Worker]) -> None:
        """Read through every node who is in the groups when nobody keeps leases alive any more."""
        await asyncio.sleep(max(TTLS_S))
        for worker in workers[: len(self.load.urls)]:
            for n in range(GROUPS):
                await self.members(worker, f"{self.prefix}group{n}/")
