"""Measure only Raft, on three processes over loopback, beside the stock library.

`python -m bench.raft [--kills 50] [--seconds 3] [--count 1000]` prints a table with the targets. It
asserts nothing, because the figures depend on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from cluster.ports import free_ports

NAMES: Final = "ABC"
ANSWER_S: Final = 90.0
LEADER_S: Final = 30.0


class Processes:
    """Three members of a Raft cluster, each a process."""

    def __init__(self, kind: str, fsync: str, folder: Path) -> None:
        self._kind, self._fsync, self._folder = kind, fsync, folder
        self._addresses = [
            f"{name}=127.0.0.1:{port}" for name, port in zip(NAMES, free_ports(3), strict=True)
        ]
        self.up: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, name: str) -> None:
        """Start one member, or start it again with its directory."""
        arguments = [self._kind, name, str(self._folder / name), self._fsync, *self._addresses]
        module = "bench.raft_member"
        self.up[name] = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, *arguments,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        await self._answer(name)

    async def ask(self, name: str, line: str) -> Any:
        """Send a line to a member; return its decoded answer."""
        stdin = self.up[name].stdin
        assert stdin is not None
        stdin.write(line.encode() + b"\n")
        return await self._answer(name)

    async def _answer(self, name: str) -> Any:
        stdout = self.up[name].stdout
        assert stdout is not None
        async with asyncio.timeout(ANSWER_S):
            return json.loads(await stdout.readline() or '"ended"')

    async def leader(self) -> str:
        """Wait until a member leads, and return its name."""
        async with asyncio.timeout(LEADER_S):
            while True:
                for name in list(self.up):
                    if await self.ask(name, "role") == "leader":
                        return name
                await asyncio.sleep(0.005)

    async def kill(self, name: str) -> None:
        """Kill a member's process."""
        process = self.up.pop(name)
        process.send_signal(signal.SIGKILL)
        await process.wait()

    async def __aenter__(self) -> Processes:
        for name in NAMES:
            await self.start(name)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for name in list(self.up):
            await self.kill(name)


async def throughput(
    kind: str, fsync: str, count: int, seconds: float, rows: list[tuple[str, str, str]]
) -> None:
    """Measure the latency of commits on leader and follower, and the rate of intents in groups."""
    what = {
        "ours": f"ours, fsync {fsync}",
        "stock": f"stock, {'no journal' if fsync == 'off' else 'its journal'}",
    }[kind]
    targets = (
        ("≤ 1 ms p50", "≤ 1.5 ms p50", "≥ 100,000/s")
        if (kind, fsync) == ("ours", "off")
        else ("", "", "")
    )
    with tempfile.TemporaryDirectory() as folder:
        async with Processes(kind, fsync, Path(folder)) as processes:
            leader = await processes.leader()
            follower = next(name for name in NAMES if name != leader)
            await processes.ask(leader, "latency 100")
            latency, groups = f"latency {count}", f"groups {seconds}"
            near = _ms(await processes.ask(leader, latency))
            rows.append((f"commit on the leader ({what})", near, targets[0]))
            far = _ms(await processes.ask(follower, latency))
            rows.append((f"commit on a follower ({what})", far, targets[1]))
            grouped = _rate(await processes.ask(leader, groups))
            rows.append((f"intents in groups of 200 ({what})", grouped, targets[2]))
            if (kind, fsync) == ("ours", "always"):
                one = _ms(await processes.ask(follower, f"read {count}"))
                rows.append(("ReadIndex from a follower", one, "≤ 1 ms p50"))
                shared = _rate(await processes.ask(follower, f"reads {seconds}"))
                rows.append(("reads that share rounds", shared, "≥ 30,000/s"))


async def kills(number: int, rows: list[tuple[str, str, str]]) -> None:
    """Kill the leader `number` times; measure the time until another leader commits."""
    took = []
    with tempfile.TemporaryDirectory() as folder:
        async with Processes("ours", "always", Path(folder)) as processes:
            for _ in range(number):
                leader = await processes.leader()
                await processes.ask(leader, "once")
                began = time.perf_counter()
                await processes.kill(leader)
                await processes.leader()
                took.append(time.perf_counter() - began)
                await processes.start(leader)
    took.sort()
    if took:
        middle, most = took[len(took) // 2], took[-1]
        rows.append(
            (
                f"new leader after kill -9 ({number} kills)",
                f"p50 {middle:.2f} s, most {most:.2f} s",
                "≤ 0.5 s, ≤ 0.9 s",
            )
        )


async def main() -> None:
    """Run the measurements that the arguments select, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.raft", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--count", type=int, default=1000)
    asked = parser.parse_args()
    rows: list[tuple[str, str, str]] = []
    for kind, fsync in (("ours", "off"), ("ours", "always"), ("stock", "off"), ("stock", "always")):
        try:
            await throughput(
                kind,
                fsync,
                asked.count if kind == "ours" else asked.count // 10,
                asked.seconds,
                rows,
            )
        except (TimeoutError, OSError) as exc:
            rows.append((f"{kind}, fsync {fsync}", repr(exc), ""))
        print("·", end="", flush=True)
    await kills(asked.kills, rows)
    load = os.getloadavg()[0]
    print(
        f"\n{platform.machine()}, {os.cpu_count()} cores, load {load:.1f}, Python "
        f"{platform.python_version()}\n"
    )
    for what, found, target in rows:
        print(f"{what:52} {found:34} {target}")


def _ms(answer: Any) -> str:
    if "p50" not in answer:
        return str(answer)
    return f"p50 {answer['p50']:.2f} ms, p99 {answer['p99']:.2f} ms"


def _rate(answer: Any) -> str:
    return f"{answer:,.0f}/s" if isinstance(answer, float | int) else str(answer)


if __name__ == "__main__":
    asyncio.run(main())
