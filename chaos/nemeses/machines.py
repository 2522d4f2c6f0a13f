"""Faults of what a node stands on: its clock, its disk, its journal, its place among the members,
its packets.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sqlite3
import subprocess
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Final, Protocol, runtime_checkable

from acordo import AcordoError, Client, OutcomeUnknown
from chaos.nemeses.base import Nemesis, some
from chaos.targets.base import NodeProcesses, Target

JUMPS_S: Final = (-4e7, -3600.0, -90.0, 45.0, 900.0, 4e7)
TORN_BYTES: Final = 64
LOCKED_S: Final = (0.2, 0.6)
"""How long the store's lock is held at a time."""
LOCK_RETRY_S: Final = 0.01
LOCK_WITHIN_S: Final = 5.0
LOCKED_TRIES: Final = 8
CALL_TIMEOUT_S: Final = 5.0
NFT_TIMEOUT_S: Final = 10.0


@runtime_checkable
class Clocks(Protocol):
    """Nodes whose wall clock can be set off."""

    def set_clock(self, node: str, offset_s: float) -> None:
        """Let the node's wall clock be so far off from now on."""
        ...

    async def skew_s(self, node: str) -> float | None:
        """Return how far its wall clock is off by what it tells over HTTP; None: no answer."""
        ...


@runtime_checkable
class Files(Protocol):
    """Nodes whose files are on this machine."""

    def folder(self, node: str) -> Path:
        """Return the node's own directory."""
        ...


class ClockJump(Nemesis):
    """The wall clock of one node jumps, ahead or back, and jumps home at healing."""

    name: ClassVar[str] = "clock-jump"
    needs: ClassVar[frozenset[str]] = frozenset({"clocks"})
    whom: ClassVar[str] = "one"

    @property
    def clocks(self) -> Clocks:
        assert isinstance(self.target, Clocks)
        return self.target

    async def choose(self) -> tuple[str, ...]:
        self.offset_s = self.rng.choice(JUMPS_S)
        return await some(self.target, self.rng, self.whom)

    async def start(self) -> None:
        for node in self.targets:
            self.clocks.set_clock(node, self.offset_s)

    async def proof(self) -> str | None:
        told = [
            f"{node}: wall clock {s:+.0f} s"
            for node in self.targets
            if (s := await self._off(node)) is not None
        ]
        return "; ".join(told) if told and len(told) == len(self.targets) else None

    async def _off(self, node: str) -> float | None:
        skew_s = await self.clocks.skew_s(node)
        return (
            skew_s
            if skew_s is not None and abs(skew_s - self.offset_s) < abs(self.offset_s) / 2
            else None
        )

    async def heal(self) -> None:
        for node in self.targets:
            self.clocks.set_clock(node, 0.0)


class ClockJumpMost(ClockJump):
    """The wall clocks of most nodes jump, all by as much."""

    name: ClassVar[str] = "clock-jump-most"
    whom: ClassVar[str] = "majority"


class DiskFull(Nemesis):
    """No file of one node's process grows any more (RLIMIT_FSIZE), until it is healed or started
    anew.
    """

    name: ClassVar[str] = "disk-full"
    needs: ClassVar[frozenset[str]] = frozenset({"processes"})
    whom: ClassVar[str] = "one"

    def __init__(self, target: Target, rng: Random) -> None:
        super().__init__(target, rng)
        self.pids: dict[str, int] = {}

    @property
    def processes(self) -> NodeProcesses:
        assert isinstance(self.target, NodeProcesses)
        return self.target

    async def choose(self) -> tuple[str, ...]:
        chosen = await some(self.target, self.rng, self.whom)
        self.pids = {n: pid for n in chosen if (pid := self.processes.pid(n)) is not None}
        return chosen

    async def start(self) -> None:
        for pid in self.pids.values():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    async def proof(self) -> str | None:
        """It is not ready while its files cannot grow, or has ended over it (and may run again, on
        an empty disk).
        """
        told = []
        for node in self.targets:
            pid = self.pids.get(node)
            if pid is None:
                return None
            full = _limit(pid) == 0
            if full and not await self.target.ready(node):
                told.append(f"{node}: pid {pid} cannot write, not ready")
            elif self.processes.pid(node) != pid:
                told.append(f"{node}: pid {pid} could not write and ended")
            else:
                return None
        return "; ".join(told) or None

    async def heal(self) -> None:
        for node, pid in self.pids.items():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                resource.prlimit(
                    pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
                )
            self.processes.start(node)


class TornJournal(DiskFull):
    """SIGKILL a minority, and leave a torn record at the end of each journal, as a power
    cut does.
    """

    name: ClassVar[str] = "torn-journal"
    needs: ClassVar[frozenset[str]] = frozenset({"processes", "files"})
    whom: ClassVar[str] = "minority"

    async def choose(self) -> tuple[str, ...]:
        self.torn: dict[str, tuple[Path, int]] = {}
        return await super().choose()

    async def start(self) -> None:
        assert isinstance(self.target, Files)
        for node in self.targets:
            await self.processes.kill(node)
            segments = sorted(self.target.folder(node).glob("raft/journal.[0-9]*"))
            if not segments:
                raise FileNotFoundError(f"{node} has no journal")
            self.torn[node] = (segments[-1], segments[-1].stat().st_size)
            with segments[-1].open("ab") as file:
                file.write(self.rng.randbytes(self.rng.randint(1, TORN_BYTES)))

    async def proof(self) -> str | None:
        told = []
        for node in self.targets:
            if node not in self.torn or await self.target.answers(node):
                return None
            path, size = self.torn[node]
            grown = path.stat().st_size - size
            if grown <= 0:
                return None
            told.append(
                f"{node}: {grown} torn bytes behind byte {size} of {path.name}, pid {self.pids.get(node)} gone"
            )
        return "; ".join(told) or None

    async def heal(self) -> None:
        for node in self.targets:
            self.processes.start(node)


class _ByApi(Nemesis):
    needs: ClassVar[frozenset[str]] = frozenset({"members"})

    def client(self) -> Client:
        return Client(list(self.target.looking_urls), timeout_s=CALL_TIMEOUT_S)


@runtime_checkable
class StoreFile(Protocol):
    """Nodes that share one SQLite file of this machine."""

    @property
    def store_file(self) -> Path:
        """Return the file."""
        ...


class StoreBusy(Nemesis):
    """Somebody else holds the embedded store's write lock again and again, as a backup or an
    operator's shell does.
    """

    name: ClassVar[str] = "store-busy"
    needs: ClassVar[frozenset[str]] = frozenset({"store-file"})

    def __init__(self, target: Target, rng: Random) -> None:
        super().__init__(target, rng)
        self._connection: sqlite3.Connection | None = None

    @property
    def file(self) -> Path:
        assert isinstance(self.target, StoreFile)
        return self.target.store_file

    async def choose(self) -> tuple[str, ...]:
        return (self.file.name,)

    async def start(self) -> None:
        self._connection = sqlite3.connect(self.file, timeout=0, isolation_level=None)
        await self._lock()

    async def _lock(self) -> None:
        assert self._connection is not None
        for _ in range(int(LOCK_WITHIN_S / LOCK_RETRY_S)):
            if _taken(self._connection):
                return
            await asyncio.sleep(LOCK_RETRY_S)
        raise TimeoutError(f"{self.file.name} was never free to be locked")

    async def proof(self) -> str | None:
        """Another connection finds it locked, time after time: no transaction of a node takes so
        long.
        """
        other = sqlite3.connect(self.file, timeout=0, isolation_level=None)
        try:
            for _ in range(LOCKED_TRIES):
                if _taken(other):
                    other.execute("ROLLBACK")
                    return None
                await asyncio.sleep(LOCK_RETRY_S)
        finally:
            other.close()
        return f"{self.file.name}: locked {LOCKED_TRIES} times in a row"

    async def hold(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (left_s := end - loop.time()) > 0:
            await asyncio.sleep(min(left_s, self.rng.uniform(*LOCKED_S)))
            self._unlock()
            await asyncio.sleep(LOCK_RETRY_S)
            if loop.time() < end:
                await self._lock()

    def _unlock(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    async def heal(self) -> None:
        self._unlock()
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _taken(connection: sqlite3.Connection) -> bool:
    """Take the write lock; False: somebody else has it."""
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        return False
    return True


class MemberChurn(_ByApi):
    """A member that nobody reaches joins as an observer and is removed again: two changes of the
    configuration.
    """

    name: ClassVar[str] = "member-churn"

    async def choose(self) -> tuple[str, ...]:
        return (f"ghost-{self.rng.getrandbits(48):012x}",)

    async def start(self) -> None:
        async with self.client() as client:
            # Nobody listens there; discard (RFC 863) is its port. An unknown outcome is told by the
            # proof.
            with contextlib.suppress(OutcomeUnknown):
                await client.add_member(
                    self.targets[0],
                    raft_address="127.0.0.1:9",
                    url="http://127.0.0.1:9",
                    voter=False,
                )

    async def proof(self) -> str | None:
        async with self.client() as client:
            with contextlib.suppress(AcordoError):
                members = [m.id for m in (await client.cluster()).members]
                return f"members {', '.join(members)}" if self.targets[0] in members else None
        return None

    async def heal(self) -> None:
        async with self.client() as client:
            there = True
            while there:
                # until the fault's own bound: nobody may lead just now
                with contextlib.suppress(AcordoError):
                    there = self.targets[0] in [m.id for m in (await client.cluster()).members]
                    if there:
                        await client.remove_member(self.targets[0])
                await asyncio.sleep(0.1)


class TransferLeader(_ByApi):
    """The leader hands its leadership on, as it does before an upgrade."""

    name: ClassVar[str] = "transfer-leader"

    async def choose(self) -> tuple[str, ...]:
        return await some(self.target, self.rng, "leader")

    async def start(self) -> None:
        async with self.client() as client:
            with contextlib.suppress(OutcomeUnknown):  # the proof tells
                await client.transfer()

    async def proof(self) -> str | None:
        now = await self.target.leader()
        return f"{self.targets[0]} handed on to {now}" if now not in (None, *self.targets) else None

    async def heal(self) -> None:
        """Nothing is broken by it."""


class DropPackets(Nemesis):
    """The kernel drops every packet between one node and its peers (nftables), as a pulled cable
    does.

    Unlike a cut of the proxies it closes no connection: what was sent is sent again by TCP, and
    arrives late.
    """

    name: ClassVar[str] = "drop-packets"
    needs: ClassVar[frozenset[str]] = frozenset({"raft-ports"})

    def missing(self) -> str | None:
        return super().missing() or _nft_missing()

    async def choose(self) -> tuple[str, ...]:
        return await some(self.target, self.rng, "one")

    @property
    def table(self) -> str:
        return f"acordo_chaos_{os.getpid()}"

    async def start(self) -> None:
        ports: Any = self.target
        dropped = ", ".join(str(p) for p in ports.raft_ports(self.targets[0]))
        rules = (
            f"table inet {self.table} {{\n counter towards {{\n }}\n counter back {{\n }}\n chain out {{\n"
            f"  type filter hook output priority 0;\n"
            f"  oif lo tcp dport {{ {dropped} }} counter name towards drop\n"
            f"  oif lo tcp sport {{ {dropped} }} counter name back drop\n }}\n}}\n"
        )
        await asyncio.to_thread(_nft, "-f", "-", text=rules)

    async def proof(self) -> str | None:
        """Packets were dropped; towards the ports is enough, for then nothing comes back."""
        towards, back = [
            await asyncio.to_thread(self._packets, counter) for counter in ("towards", "back")
        ]
        return f"dropped {towards + back} packets of {self.targets[0]}" if towards else None

    def _packets(self, counter: str) -> int:
        if not self._there():
            return 0
        return int(
            _nft("list", "counter", "inet", self.table, counter).partition("packets")[2].split()[0]
        )

    async def heal(self) -> None:
        """Raises NftFailed when packets may still be dropped."""
        if await asyncio.to_thread(self._there):
            await asyncio.to_thread(_nft, "delete", "table", "inet", self.table)

    def _there(self) -> bool:
        return self.table in _nft("list", "tables", "inet").split()


class NftFailed(Exception):
    """The kernel's packet filter was not changed as it was asked for."""


def _limit(pid: int) -> int | None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        return resource.prlimit(pid, resource.RLIMIT_FSIZE)[0]
    return None


def _nft(*words: str, text: str | None = None) -> str:
    """Return what nft prints. Raises NftFailed."""
    try:
        done = subprocess.run(
            ["nft", *words],
            input=text,
            capture_output=True,
            text=True,
            timeout=NFT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise NftFailed(f"nft {' '.join(words)}: {exc}") from exc
    if done.returncode:
        raise NftFailed(f"nft {' '.join(words)}: {' '.join(done.stderr.split()) or 'refused'}")
    return done.stdout


def _nft_missing() -> str | None:
    """Return why packets cannot be dropped here: tried with a table of our own that drops
    nothing.
    """
    name = f"acordo_probe_{os.getpid()}"
    try:
        _nft("add", "table", "inet", name)
        _nft("delete", "table", "inet", name)
    except NftFailed as exc:
        return f"nftables cannot be used: {exc}"
    return None
