"""Three real processes over real sockets and disks: order, kill -9, restart, nothing acknowledged
is lost.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.ports import free_ports

NAMES = "ABC"


class Process:
    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.child = child
        self._lock = asyncio.Lock()

    async def ask(self, line: str, timeout_s: float = 15.0) -> str:
        async with self._lock, asyncio.timeout(timeout_s):
            assert self.child.stdin is not None
            assert self.child.stdout is not None
            self.child.stdin.write(line.encode() + b"\n")
            return (await self.child.stdout.readline()).decode().strip()

    async def status(self) -> dict[str, Any]:
        return dict(json.loads((await self.ask("status")).removeprefix("ok ")))


class Processes:
    def __init__(self, folder: Path, fsync: str, *, sync_s: float = 0.0) -> None:
        """`sync_s`: how much longer each sync of a disk takes."""
        self.folder, self.fsync, self.sync_s = folder, fsync, sync_s
        self.addresses = [
            f"{name}=127.0.0.1:{port}" for name, port in zip(NAMES, free_ports(3), strict=True)
        ]
        self.up: dict[str, Process] = {}

    async def start(self, name: str) -> None:
        settings = (name, str(self.folder / name), self.fsync, str(self.sync_s))
        arguments = ["-m", "tests.integration.raft.node", *settings, *self.addresses]
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert child.stdout is not None
        async with asyncio.timeout(30):
            while (line := await child.stdout.readline()) != b"ready\n":
                assert line, "the process ended"
        self.up[name] = Process(child)

    async def kill(self, name: str) -> None:
        process = self.up.pop(name)
        process.child.send_signal(signal.SIGKILL)
        await process.child.wait()

    async def leader(self) -> str:
        async with asyncio.timeout(30):
            while True:
                for name, process in self.up.items():
                    status = await process.status()
                    if (
                        status["role"] == "leader"
                        and status["quorum"]
                        and status["applied"] == status["last"]
                    ):
                        return name
                await asyncio.sleep(0.02)

    async def until_ok(self, name: str, line: str) -> None:
        """Ask again while it is refused; a command that may have been ordered is not asked
        twice.
        """
        async with asyncio.timeout(30):
            while not (answer := await self.up[name].ask(line)).startswith("ok"):
                assert answer.startswith("not_applied"), answer
                await asyncio.sleep(0.05)

    async def __aenter__(self) -> Processes:
        for name in NAMES:
            await self.start(name)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for name in list(self.up):
            await self.kill(name)


@pytest.mark.parametrize("fsync", ["always", "off"])
async def test_kills_lose_nothing_that_was_acknowledged(tmp_path: Path, fsync: str) -> None:
    rng = random.Random(7)
    acknowledged: list[str] = []
    doubtful: set[str] = set()
    number = 0
    async with Processes(tmp_path, fsync) as processes:
        await processes.leader()
        for _ in range(4):
            victim = await processes.leader()
            for _ in range(30):
                number += 1
                answer = await processes.up[rng.choice(list(processes.up))].ask(
                    f"propose c{number}"
                )
                if answer.startswith("ok"):
                    acknowledged.append(f"c{number}")
                elif answer == "unknown":
                    doubtful.add(f"c{number}")
            await processes.kill(victim)
            await processes.leader()
            number += 1
            if (await processes.up[next(iter(processes.up))].ask(f"propose c{number}")).startswith(
                "ok"
            ):
                acknowledged.append(f"c{number}")
            await processes.start(victim)
        await processes.until_ok("A", "propose end")
        tapes = []
        for name in NAMES:
            await processes.until_ok(name, "read")
            tapes.append((await processes.up[name].ask("tape")).removeprefix("ok ").split())
        assert tapes[0] == tapes[1] == tapes[2]
        assert len(set(tapes[0])) == len(tapes[0])
        assert set(acknowledged) <= set(tapes[0])
        assert set(tapes[0]) - {"end"} <= set(acknowledged) | doubtful
        assert acknowledged


async def test_disks_of_200_ms_a_sync_elect(tmp_path: Path) -> None:
    """A vote is two syncs here, longer than an election time-out; members that did not allow for it
    rose from term to term and never had a leader.
    """
    async with Processes(tmp_path, "always", sync_s=0.2) as processes:
        first = await processes.leader()
        await processes.until_ok(first, "propose a")
        await processes.kill(first)
        second = await processes.leader()
        await processes.until_ok(second, "propose b")
        tape = (await processes.up[second].ask("tape")).removeprefix("ok ").split()
        assert tape[-2:] == ["a", "b"]
