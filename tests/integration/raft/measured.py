"""Be one member as a process that measures itself: `… measured ours|stock ID DIR FSYNC
ID=ADDRESS...`.

KIND is `ours` or `stock` (the library as it comes). Lines in, one JSON value a line out; see
`bench/raft.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from coordinator.log import PeerAddress, Position
from coordinator.machine.commands import Submit, encode
from coordinator.raft.member import Member
from kv.errors import NotApplied, OutcomeUnknown
from kv.model import Intent, Put
from tests.integration.raft.node import make

GROUP = 200
IN_FLIGHT = 8
SHARED = 200
"""Reads that wait at a time."""


async def percentiles(act: Callable[[], Awaitable[object]], count: int) -> dict[str, float]:
    """Do something again and again; return milliseconds."""
    took = []
    for _ in range(count):
        began = time.perf_counter()
        await act()
        took.append(time.perf_counter() - began)
    took.sort()
    return {"p50": 1000 * took[count // 2], "p99": 1000 * took[int(count * 0.99)]}


async def rate(act: Callable[[], Awaitable[object]], seconds: float, workers: int) -> float:
    """Return how often a second something is done by several at once."""
    ends = time.perf_counter() + seconds
    done = 0

    async def work() -> None:
        nonlocal done
        while time.perf_counter() < ends:
            await act()
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(workers)))
    return done / (time.perf_counter() - began)


def group() -> bytes:
    return encode(
        Submit(tuple(Intent(f"op{n}", 1, (), (Put(b"key%d" % n, b"v"),)) for n in range(GROUP)))
    )


class Ours:
    def __init__(self, name: str, folder: str, fsync: str, peers: list[PeerAddress]) -> None:
        self.member: Member
        self.member, tape = make(name, folder, fsync, peers)
        tape.apply = lambda position, stamp_ms, command: None  # type: ignore[method-assign]
        self._group = group()

    async def __aenter__(self) -> Ours:
        await self.member.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.member.__aexit__(*exc)

    async def propose(self) -> Position:
        return await self.member.propose(b"x" * 64)

    async def propose_group(self) -> Position:
        return await self.member.propose(self._group)

    async def read(self) -> None:
        position = await self.member.read_index(timeout_s=2)
        await self.member.wait_applied(position, timeout_s=2)

    def role(self) -> str:
        status = self.member.status()
        ready = status.role == "leader" and status.quorum and status.applied == status.last
        return "leader" if ready else "other"


class Stock:
    """The library with its own transport, thread and journal, and settings as they come."""

    def __init__(self, name: str, folder: str, fsync: str, peers: list[PeerAddress]) -> None:
        from pysyncobj import SyncObj, SyncObjConf, replicated

        class Counter(SyncObj):
            @replicated
            def take(self, command: bytes) -> int:
                return len(command)

        os.makedirs(folder, exist_ok=True)
        files = (
            {}
            if fsync == "off"
            else {"journalFile": f"{folder}/journal", "fullDumpFile": f"{folder}/dump"}
        )
        own = next(peer.address for peer in peers if peer.id == name)
        others = [peer.address for peer in peers if peer.id != name]
        self.node: Any = Counter(own, others, conf=SyncObjConf(**files))
        self._group = group()

    async def __aenter__(self) -> Stock:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.node.destroy()

    async def _take(self, command: bytes) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self.node.take(
            command, callback=lambda result, error: loop.call_soon_threadsafe(done.set_result, None)
        )
        await asyncio.wait_for(done, 10)

    async def propose(self) -> None:
        await self._take(b"x" * 64)

    async def propose_group(self) -> None:
        await self._take(self._group)

    def role(self) -> str:
        leader = self.node._getLeader()
        return (
            "leader"
            if leader is not None and leader == self.node.selfNode and self.node.isReady()
            else "other"
        )


async def answer(node: Any, line: str) -> Any:
    verb, _, rest = line.partition(" ")
    try:
        match verb:
            case "latency":
                return await percentiles(node.propose, int(rest))
            case "groups":
                return GROUP * await rate(node.propose_group, float(rest), IN_FLIGHT)
            case "read":
                return await percentiles(node.read, int(rest))
            case "reads":
                return await rate(node.read, float(rest), SHARED)
            case "once":
                await node.propose()
                return "ok"
            case _:
                return node.role()
    except (NotApplied, OutcomeUnknown, TimeoutError) as exc:
        return {"error": repr(exc)}


async def main(kind: str, name: str, folder: str, fsync: str, *members: str) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    peers = [
        PeerAddress(id, address) for id, _, address in (member.partition("=") for member in members)
    ]
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with (Ours if kind == "ours" else Stock)(name, folder, fsync, peers) as node:
        print(json.dumps("ready"), flush=True)
        while line := await reader.readline():
            print(json.dumps(await answer(node, line.decode().strip())), flush=True)


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(*sys.argv[1:]))
