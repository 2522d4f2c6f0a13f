"""Thirty seeded kills under load: the whole client history is linearizable, nothing is lost or
applied twice.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
import pytest

from acordo import AcordoError, Client, Found, OutcomeUnknown, PreconditionFailed
from chaos.checkers.registers.register import check
from chaos.checkers.verdict import Verdict
from chaos.records.history import ClientOperation, OutcomeName
from cluster.local.process import NodeState
from cluster.local.runner import LocalCluster
from tests.e2e.conftest import Start, until

KILLS: Final = 30
CLIENTS: Final = 9
KEYS: Final = 24
SEED: Final = int(os.environ.get("ACORDO_TEST_SEED", "20251125"))
"""Replay another one with ACORDO_TEST_SEED=… pytest tests/e2e/test_kills.py."""


class Recorder:
    """One history of all clients. Every written value is unique."""

    def __init__(self) -> None:
        self.operations: list[ClientOperation] = []
        self.written = 0
        self.ended = asyncio.Event()

    def value(self) -> bytes:
        self.written += 1
        return b"%d" % self.written

    async def work(self, name: int, client: Client, rng: random.Random) -> None:
        while not self.ended.is_set():
            key = f"kills/{rng.randrange(KEYS)}"
            await self.one(
                name,
                client,
                key,
                rng.choices(("get", "put", "cas", "delete"), (40, 35, 15, 10))[0],
            )

    async def one(self, name: int, client: Client, key: str, op: str) -> None:
        if op == "get":
            await self.get(name, client, key)
        elif op == "cas":
            found = await self.get(name, client, key)
            if found is not None:
                await self.write(
                    name,
                    key,
                    "cas",
                    lambda value: client.cas(key, value, if_revision=found.revision),
                    found.value,
                )
        elif op == "put":
            await self.write(name, key, "put", lambda value: client.put(key, value))
        else:
            await self.write(name, key, "delete", lambda value: client.delete(key))

    async def get(self, name: int, client: Client, key: str) -> Found | None:
        start_ns = time.monotonic_ns()
        try:
            found = await client.get(key)
        except AcordoError:
            return None  # it observed nothing
        result = None if found is None else found.value.decode()
        self.operations.append(
            ClientOperation(
                name, "get", "ok", start_ns, time.monotonic_ns(), key=key, result=result
            )
        )
        return found

    async def write(
        self,
        name: int,
        key: str,
        op: str,
        call: Callable[[bytes], object],
        expected: bytes | None = None,
    ) -> None:
        value = self.value()
        start_ns = time.monotonic_ns()
        outcome: OutcomeName = "ok"
        result = True
        try:
            await call(value)  # type: ignore[misc]  # every call is awaitable
        except PreconditionFailed:
            result = False
        except OutcomeUnknown:
            outcome = "info"
        except AcordoError:
            outcome = "fail"
        done = ClientOperation(name, op, outcome, start_ns, time.monotonic_ns(), key=key)
        if op != "delete":
            done = msgspec.structs.replace(done, value=value.decode())
        if op == "cas" and expected is not None:
            done = msgspec.structs.replace(done, expected=expected.decode())
            if outcome == "ok":
                done = msgspec.structs.replace(done, result=result)
        self.operations.append(done)

    def succeeded(self) -> int:
        return sum(o.outcome == "ok" for o in self.operations)


async def disturb(cluster: LocalCluster, rng: random.Random, recorder: Recorder) -> int:
    """Kill one node after another, most often the leader, without waiting for the cluster to be
    whole again.
    """
    killed_leaders = 0
    for number in range(KILLS):
        wanted = recorder.succeeded() + 30
        await until(partial(_reached, recorder, wanted), f"operations succeed before kill {number}")
        leader = await cluster.leader()
        victim = (
            leader if leader is not None and rng.random() < 0.6 else rng.choice(list(cluster.nodes))
        )
        killed_leaders += victim == leader
        await until(partial(_runs, cluster, victim), f"{victim} runs")
        cluster.kill(victim, signal.SIGKILL)
    await until(
        lambda: all(n.state is NodeState.ALIVE for n in cluster.nodes.values()),
        "all nodes are alive",
    )
    await cluster.wait_ready()
    return killed_leaders


def _reached(recorder: Recorder, wanted: int) -> bool:
    return recorder.succeeded() >= wanted


def _runs(cluster: LocalCluster, node_id: str) -> bool:
    return cluster.nodes[node_id].pid is not None


@pytest.mark.timeout(420)
async def test_thirty_kills_lose_nothing(start: Start) -> None:
    """INV-1, INV-2, INV-3."""
    print(f"seed {SEED}")
    rng, recorder = random.Random(SEED), Recorder()
    async with start() as cluster:
        given = [node.url for node in cluster.nodes.values()]
        clients = [
            Client(given[n % 3 :] + given[: n % 3], timeout_s=10, attempt_timeout_s=3)
            for n in range(CLIENTS)
        ]
        for client in clients:
            await client.__aenter__()
        try:
            async with asyncio.TaskGroup() as tasks:
                for name, client in enumerate(clients):
                    tasks.create_task(recorder.work(name, client, random.Random(f"{SEED}/{name}")))
                killed_leaders = await disturb(cluster, rng, recorder)
                recorder.ended.set()
            for key in range(KEYS):
                for name, client in enumerate(clients[:3]):
                    assert client is not None
                    await recorder.get(100 + name, client, f"kills/{key}")
        finally:
            for client in clients:
                await client.__aexit__(None, None, None)
        assert sum(node.starts - 1 for node in cluster.nodes.values()) >= KILLS * 0.9
    judged = check(recorder.operations)
    succeeded = recorder.succeeded()
    print(
        f"{succeeded} of {len(recorder.operations)} operations succeeded; {killed_leaders} leaders "
        "were killed"
    )
    assert killed_leaders >= 5
    assert succeeded > KILLS * 30
    assert judged.verdict is Verdict.OK, judged.findings
