"""Run clients that use tooz, each in a process of its own, and record what they tell.

tooz is no dependency of this project: `CHAOS_TOOZ_PYTHON` names a Python that has it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from chaos.records.history import ClientOperation
from chaos.records.recorder import Recorder

VARIABLE: Final = "CHAOS_TOOZ_PYTHON"
PROGRAM: Final = Path(__file__).with_name("tooz_client.py")
TTL_S: Final = 3
END_WITHIN_S: Final = 20.0
"""A client ends after its operation, each of which takes no longer than its time-out."""


class ToozProcesses:
    """One process for each URL, whose operations are recorded under the name of a workload."""

    def __init__(self, recorder: Recorder, workload: str, *, prefix: str, seed: int) -> None:
        self._recorder, self._workload = recorder, workload
        self._prefix, self._seed = prefix, seed

    async def run(self, python: str, urls: Sequence[str], stop: asyncio.Event) -> None:
        """Run the processes until `stop` is set."""
        async with asyncio.TaskGroup() as tasks:
            for number, url in enumerate(urls):
                tasks.create_task(self._one(python, number, url, stop))

    async def _one(self, python: str, number: int, url: str, stop: asyncio.Event) -> None:
        words = (url, self._prefix, f"{self._seed}/{number}", str(TTL_S))
        process = await asyncio.create_subprocess_exec(
            python, str(PROGRAM), *words, stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            env={"PATH": os.environ.get("PATH", "")},
        )  # fmt: skip
        assert process.stdin is not None
        reading = asyncio.create_task(self._read(process, f"tooz{number}"))
        try:
            await stop.wait()
            process.stdin.close()
            async with asyncio.timeout(END_WITHIN_S):
                await reading
        finally:
            reading.cancel()
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def _read(self, process: asyncio.subprocess.Process, name: str) -> None:
        """Record what a process tells. A lease is granted while something else goes on, and after
        an unknown outcome the client goes by a new name.
        """
        assert process.stdout is not None
        life = 0
        async for line in process.stdout:
            told = msgspec.json.decode(line)
            client = f"{name}.{life}-leases" if told["op"] == "grant" else f"{name}.{life}"
            done = ClientOperation(client=client, workload=self._workload, **told)
            self._recorder.add(done)
            life += done.outcome == "info"
