"""Run one Raft member as a process that measures itself, for `bench.raft`.

`python -m bench.raft_member ours|stock ID DIR FSYNC ID=ADDRESS...`; `stock` is the unmodified
library. It reads commands line by line and prints one JSON value per line. This is the one module
here that uses Raft from inside, because a command that only passes through Raft cannot be sent over
HTTP.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from coordinator.log import PeerAddress, Position
from coordinator.machine.commands import Submit, encode
from coordinator.raft.member import Member, Settings
from coordinator.raft.net.security import SharedSecret
from coordinator.raft.sockets import over_sockets
from coordinator.raft.storage.real_disk import RealDisk
from kv.errors import NotApplied, OutcomeUnknown
from kv.model import Intent, Put
from kv.ports import StateCopy

GROUP = 200
IN_FLIGHT = 8
SHARED = 200
"""Number of concurrent reads."""
SECRET = SharedSecret(b"a secret of three processes that live for seconds")


async def percentiles(act: Callable[[], Awaitable[object]], count: int) -> dict[str, float]:
    """Run `act` `count` times, one after another; return percentiles in milliseconds."""
    took = []
    for _ in range(count):
        began = time.perf_counter()
        await act()
        took.append(time.perf_counter() - began)
    took.sort()
    return {"p50": 1000 * took[count // 2], "p99": 1000 * took[int(count * 0.99)]}


async def rate(act: Callable[[], Awaitable[object]], seconds: float, workers: int) -> float:
    """Return how often per second `act` completes, with several workers."""
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
    """Return a command with as many intents as a busy committer puts into one."""
    return encode(
        Submit(tuple(Intent(f"op{n}", 1, (), (Put(b"key%d" % n, b"v"),)) for n in range(GROUP)))
    )


class SystemClock:
    """The clocks of this machine."""

    def monotonic(self) -> float:
        """Return the event loop's time in seconds."""
        return asyncio.get_running_loop().time()

    def wall_ms(self) -> int:
        """Return milliseconds since 1970."""
        return int(time.time() * 1000)


class IdleReplica:
    """A replica that keeps nothing, so that Raft alone is measured."""

    member: Member

    def __init__(self) -> None:
        self._stamp = 0

    def apply(self, position: Position, stamp_ms: int, command: bytes) -> None:
        """Do nothing."""

    def stamp_ms(self) -> int:
        """Return a counter: the time does not matter here."""
        self._stamp += 1
        return self._stamp

    def snapshot(self) -> Callable[[], bytes]:
        """Capture nothing."""
        return lambda: b""

    keeps_store = False

    @property
    def takes_more(self) -> bool:
        """Take everything."""
        return True

    async def secure(self, position: Position) -> None:
        """Do nothing: nothing is kept."""

    def saved(self, position: Position) -> None:
        """Do nothing: nothing depends on it."""

    def foresee(self, command: bytes) -> None:
        """Do nothing: nobody waits."""

    async def answer(self, question: bytes) -> bytes:
        """Answer nothing: nobody asks."""
        return b""

    async def attach(self) -> StateCopy | None:
        """Attach nothing."""
        return None

    async def install(self, snapshot: bytes, state: StateCopy | None) -> None:
        """Install nothing."""

    def restore(self, snapshot: bytes) -> None:
        """Restore nothing."""

    def reset(self) -> None:
        """Forget nothing."""

    def led(self, term: int) -> None:
        """Allow reads as soon as this member leads."""
        self.member.open_reads(term)

    def deposed(self, term: int) -> None:
        """Do nothing."""

    def note(self) -> bytes:
        """Return an empty note."""
        return b""


class Ours:
    """A member of this project's Raft."""

    def __init__(self, name: str, folder: str, fsync: Any, peers: list[PeerAddress]) -> None:
        rng, replica = random.Random(), IdleReplica()
        own = next(peer for peer in peers if peer.id == name)
        self.member = replica.member = Member(
            name,
            peers,
            cluster="bench",
            replica=replica,
            disk=RealDisk(folder),
            transport=over_sockets("bench", own.address, SECRET, rng=rng, entropy=os.urandom),
            clock=SystemClock(),
            rng=rng,
            on_fatal=_stop,
            settings=Settings(fsync=fsync),
        )
        self._group = group()

    async def __aenter__(self) -> Ours:
        await self.member.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.member.__aexit__(*exc)

    async def propose(self) -> Position:
        """Commit one small command."""
        return await self.member.propose(b"x" * 64)

    async def propose_group(self) -> Position:
        """Commit one command of many intents."""
        return await self.member.propose(self._group)

    async def read(self) -> None:
        """Do a ReadIndex round and wait until its position is applied."""
        position = await self.member.read_index(timeout_s=2)
        await self.member.wait_applied(position, timeout_s=2)

    def role(self) -> str:
        """Return "leader" if this member leads and is ready, else "other"."""
        status = self.member.status()
        ready = status.role == "leader" and status.quorum and status.applied == status.last
        return "leader" if ready else "other"


class StockLibrary:
    """The stock library with its own transport, thread and journal, and default settings."""

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

    async def __aenter__(self) -> StockLibrary:
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
        """Commit one small command."""
        await self._take(b"x" * 64)

    async def propose_group(self) -> None:
        """Commit one command of many intents."""
        await self._take(self._group)

    def role(self) -> str:
        """Return "leader" if this member leads and is ready, else "other"."""
        leader = self.node._getLeader()
        return (
            "leader"
            if leader is not None and leader == self.node.selfNode and self.node.isReady()
            else "other"
        )


def _stop(exc: BaseException) -> None:
    sys.stderr.write(f"fatal: {exc!r}\n")
    os._exit(70)


async def answer(node: Any, line: str) -> Any:
    """Execute the command in a line and return its result."""
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
    """Answer lines from standard input until it ends."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    peers = [
        PeerAddress(id, address) for id, _, address in (member.partition("=") for member in members)
    ]
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with (Ours if kind == "ours" else StockLibrary)(name, folder, fsync, peers) as node:
        print(json.dumps("ready"), flush=True)
        while line := await reader.readline():
            print(json.dumps(await answer(node, line.decode().strip())), flush=True)


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(*sys.argv[1:]))
