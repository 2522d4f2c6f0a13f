"""Run three PostgreSQL under Patroni in synchronous mode, each reached through links that can be
cut: by its clients and its peers, and by its Patroni towards the store of its lock.

It never signals a process that it did not start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, Final, Self

import aiohttp

from chaos.targets.proxy import Link
from tests.patroni.databases import WHOLE_WITHIN_S, WRITE, Databases, own

DISK_BYTES: Final = 600 << 20
BALLAST: Final = "ballast"
ROLE: Final = "acordo"
PASSWORD: Final = "secret"
SYNCHRONOUS: Final = {
    "synchronous_mode": True,
    # Without a standby nothing is acknowledged, in place of being acknowledged by one disk.
    "synchronous_mode_strict": True,
    "maximum_lag_on_failover": 0,
}


class SynchronousDatabases(Databases):
    """Three PostgreSQL of which one is the primary, and an acknowledged commit is at two."""

    def __init__(self, folder: Path, patroni: list[str], lock: Sequence[int]) -> None:
        """`lock` has the ports of the members of the store that Patroni keeps its lock in."""
        super().__init__(folder, patroni, [])
        self.lock = list(lock)
        self.fronts: dict[str, Link] = {}
        """By name: the way to a PostgreSQL, for everybody."""
        self.ways: dict[str, list[Link]] = {}
        """By name: the ways of its Patroni to the members of the store of the lock."""
        self.have_disks = False
        """Whether each has a disk of its own, which can be filled."""

    async def __aenter__(self) -> Self:
        mounted = [self._mount(name) for name in self.names]
        self.have_disks = all(mounted)
        for name in self.names:
            rng = Random(name)
            link = Link("127.0.0.1", self.ports[name][1], rng)
            self.fronts[name] = await self._stack.enter_async_context(link)
            self.ways[name] = [
                await self._stack.enter_async_context(Link("127.0.0.1", port, rng))
                for port in self.lock
            ]
        await super().__aenter__()
        return self

    def _configuration(self, name: str) -> dict[str, Any]:
        said = super()._configuration(name)
        hosts = [f"127.0.0.1:{link.port}" for link in self.ways[name]]
        # use_proxies: else it asks the members for their own addresses, and goes past the links.
        said["etcd3"] = {"hosts": hosts, "use_proxies": True}
        said["bootstrap"]["dcs"] |= SYNCHRONOUS
        said["postgresql"]["connect_address"] = f"127.0.0.1:{self.fronts[name].port}"
        said["postgresql"]["parameters"] |= {"max_connections": 100, "wal_level": "replica"}
        if self.have_disks:
            said["postgresql"]["parameters"] |= {"min_wal_size": "32MB", "max_wal_size": "64MB"}
        return said

    def _mount(self, name: str) -> bool:
        """Give a PostgreSQL a small disk, in memory; return whether that is allowed here."""
        place = self.folder / name
        place.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place)],
            capture_output=True, check=False,
        )  # fmt: skip
        own(place)
        if mounted.returncode == 0:
            command = ["umount", "--lazy", str(place)]
            self._stack.callback(subprocess.run, command, check=False)
        return mounted.returncode == 0

    @property
    def url(self) -> str:
        """Return the URL that names all three, as a node is given it."""
        hosts = ",".join(f"127.0.0.1:{self.fronts[name].port}" for name in self.names)
        return f"postgresql://{ROLE}:{PASSWORD}@{hosts}/{ROLE}"

    async def make_store(self) -> None:
        """Make the role and the database that nodes are given."""
        await self._until_asked(f"create role {ROLE} login password '{PASSWORD}'")
        await self._until_asked(f"create database {ROLE} owner {ROLE}")

    async def _until_asked(self, statement: str) -> None:
        async with asyncio.timeout(WHOLE_WITHIN_S):
            while await self.ask_for(self.primary(), statement) is None:
                await asyncio.sleep(0.5)

    async def synchronous(self) -> None:
        """Wait until a standby may be promoted: PostgreSQL waits for it, and the store of the lock
        says so. A primary that is lost between the two is followed by nobody until it is back,
        because nobody knows who has everything. Raises TimeoutError.
        """
        async with asyncio.timeout(WHOLE_WITHIN_S):
            while not any([await self._is_synchronous(name) for name in self.names]):
                await asyncio.sleep(0.2)

    async def _is_synchronous(self, name: str) -> bool:
        url = f"http://127.0.0.1:{self.ports[name][0]}/synchronous"
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with self.http.get(url) as answer:
                return answer.status == 200
        return False

    async def promoted(self, before: str) -> tuple[str, float]:
        """Return which other PostgreSQL takes writes, and when it was first seen to. It is asked
        itself, past every link. Raises TimeoutError.
        """
        others = [name for name in self.names if name != before]
        async with asyncio.timeout(WHOLE_WITHIN_S):
            while True:
                for name in others:
                    if await self.ask_for(name, "select pg_is_in_recovery()") == "f":
                        return name, time.monotonic()
                await asyncio.sleep(0.05)

    async def committed(self, name: str) -> float:
        """Return when a PostgreSQL first acknowledged a commit. Raises TimeoutError."""
        async with asyncio.timeout(WHOLE_WITHIN_S):
            while await self.ask_for(name, WRITE) is None:
                await asyncio.sleep(0.05)
        return time.monotonic()

    # ------------------------------------------------------------------------------------ to harm

    def _postgres_of(self, name: str) -> list[int]:
        """Return the processes of a PostgreSQL: the first one, and its children."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            first = int((self.folder / name / "postmaster.pid").read_text().split("\n", 1)[0])
            children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
            return [first, *map(int, children)]
        return []

    def signal_machine(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a Patroni and to all processes of its PostgreSQL."""
        self.processes[name].send_signal(number)
        for pid in self._postgres_of(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def fill_disk(self, name: str) -> None:
        """Leave no room on the disk of a PostgreSQL."""
        with (self.folder / name / BALLAST).open("wb", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def empty_disk(self, name: str) -> None:
        """Make room again."""
        (self.folder / name / BALLAST).unlink(missing_ok=True)

    def cut(self, name: str, cut: bool) -> None:
        """Cut a PostgreSQL and its Patroni off from everybody, or heal that."""
        for link in (self.fronts[name], *self.ways[name]):
            if cut:
                link.up.cut = link.down.cut = True
            else:
                link.heal()
