"""A copy of a store of 200 MB goes from member to member over real sockets, and neither side holds
it in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from cluster.ports import free_ports
from coordinator.log import PeerAddress, Position
from coordinator.raft.member import Member, Settings
from coordinator.raft.sockets import over_sockets
from coordinator.raft.storage.real_disk import RealDisk
from kv.ports import StateCopy
from tests.integration.raft.node import SECRET
from tests.unit.raft.cluster import RealClock, Tape, eventually

STORE_BYTES = 200 << 20
PIECE = 1 << 20
MEMORY_BYTES_MAX = 80 << 20


class FileCopy:
    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.size = path.stat().st_size

    def read_now(self, offset: int, length: int) -> bytes:
        return os.pread(self._file.fileno(), length, offset)

    def close(self) -> None:
        self._file.close()


class Keeper(Tape):
    """A tape whose store is one large file."""

    keeps_store = True

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    async def secure(self, position: Position) -> None: ...

    async def attach(self) -> StateCopy | None:
        return FileCopy(self.path)

    async def install(self, snapshot: bytes, state: StateCopy | None) -> None:
        assert state is not None

        def write() -> None:
            with self.path.open("wb") as file:
                for offset in range(0, state.size, PIECE):
                    file.write(state.read_now(offset, PIECE))

        await asyncio.to_thread(write)
        self.restore(snapshot)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextlib.asynccontextmanager
async def running(name: str, folder: Path, peers: list[PeerAddress]) -> AsyncIterator[Member]:
    own = next(peer for peer in peers if peer.id == name)
    rng, faults = random.Random(), list[BaseException]()
    member = Member(
        name,
        peers,
        cluster="test",
        replica=Keeper(folder / f"{name}.store"),
        disk=RealDisk(folder / name),
        transport=over_sockets("test", own.address, SECRET, rng=rng, entropy=os.urandom),
        clock=RealClock(),
        rng=rng,
        on_fatal=faults.append,
        settings=Settings(compact_entries=20, transfer_bytes_per_s=1 << 30),
    )
    async with member:
        yield member
    member._disk.close()
    assert not faults


async def test_a_large_store_streams_in_bounded_memory(tmp_path: Path) -> None:
    peers = [PeerAddress(n, f"127.0.0.1:{p}") for n, p in zip("ABC", free_ports(3), strict=True)]
    content = random.Random(1).randbytes(PIECE)
    for name in "AB":
        with (tmp_path / f"{name}.store").open("wb") as file:
            for number in range(STORE_BYTES // PIECE):
                file.write(number.to_bytes(8, "big") + content[8:])
    async with running("A", tmp_path, peers) as a, running("B", tmp_path, peers) as b:
        members = [a, b]
        await eventually(lambda: any(m._core.own_term_committed for m in members))
        leader = next(m for m in members if m._core.leads)
        await asyncio.gather(*(leader.propose(b"%d" % number) for number in range(3000)))
        await eventually(lambda: leader.status().applied > 3000)
        # It is cut at ends of snapshots alone; on a busy machine there may be only one so far.
        while leader._core.log.first_index <= 100:
            await asyncio.gather(*(leader.propose(b"more") for _ in range(100)))
        before = peak = resident_bytes()
        async with running("C", tmp_path, peers) as c:
            while not c.counts.get("snapshots_installed", 0):
                peak = max(peak, resident_bytes())
                await asyncio.sleep(0.005)
            await eventually(lambda: c.applied == leader.applied)
            assert leader._core.leads, "heartbeats went on"
    assert digest(tmp_path / "C.store") == digest(tmp_path / "A.store")
    assert peak - before < MEMORY_BYTES_MAX, msgspec.json.encode([before, peak])
