"""Run three PostgreSQL under Patroni, and watch which of them is the primary.

PostgreSQL refuses to run as root: as root all of it runs as the user `postgres`. It never signals a
process that it did not start.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import re
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import aiohttp

from cluster.ports import lasting_port
from cluster.services.process import find

BIN: Final = Path("/usr/lib/postgresql/15/bin")
TTL_S: Final = 20
"""How long Patroni's lease lives without a keep-alive: the least that it takes."""
TIMES: Final = {"ttl": TTL_S, "loop_wait": 2, "retry_timeout": 8}
LOOK_EVERY_S: Final = 0.2
WHOLE_WITHIN_S: Final = 150.0
WRITE: Final = "create table if not exists told (n int); insert into told values (1)"
COUNT: Final = "select count(*) from told"
PRIMARY: Final = {"master", "primary"}


class Seen(NamedTuple):
    """What a Patroni says of its PostgreSQL."""

    role: str
    state: str
    timeline: int


class Databases:
    """Three PostgreSQL under Patroni, whose lock is in the store at `hosts`."""

    def __init__(self, folder: Path, patroni: list[str], hosts: list[str]) -> None:
        self.folder, self.patroni, self.hosts = folder, patroni, hosts
        self.names = ("p1", "p2", "p3")
        self.ports = {name: (lasting_port(), lasting_port()) for name in self.names}
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self.seen: dict[str, Seen] = {}
        self.primaries: list[tuple[float, str, int]] = []
        """When who was first seen as the primary, of which timeline."""
        self.rows = 0
        """How many rows were last seen at all of them."""
        self.without_s = 0.0
        """How long no primary was seen since `forget`."""
        self._stack = AsyncExitStack()
        self.http: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        limit = aiohttp.ClientTimeout(total=2)
        self.http = await self._stack.enter_async_context(aiohttp.ClientSession(timeout=limit))
        own(self.folder)
        self._stack.push_async_callback(self._end)
        for name in self.names:
            await self.start(name)
        task = asyncio.create_task(self._look())
        self._stack.callback(task.cancel)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def _end(self) -> None:
        for name, process in self.processes.items():
            if process.returncode is None:
                process.kill()
            await process.wait()
            self.kill_postgres(name)

    async def start(self, name: str) -> None:
        """Start a Patroni, which starts its PostgreSQL."""
        path = self.folder / f"{name}.yml"
        path.write_text(json.dumps(self._configuration(name)))
        own(path)
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = await asyncio.create_subprocess_exec(
                *(user if os.geteuid() == 0 else []), *self.patroni, str(path),
                cwd=self.folder, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder), "LANG": "C.UTF-8"},
                start_new_session=True,
            )  # fmt: skip

    def _configuration(self, name: str) -> dict[str, Any]:
        rest, port = (f"127.0.0.1:{each}" for each in self.ports[name])
        users = {"superuser": "postgres", "replication": "replicator", "rewind": "rewinder"}
        hba = [
            "local all all trust",
            "host all all 127.0.0.1/32 scram-sha-256",
            "host replication all 127.0.0.1/32 scram-sha-256",
        ]
        # A primary that died gives its place away at once, under the older and the newer name.
        at_once = {"master_start_timeout": 0, "primary_start_timeout": 0}
        return {
            "scope": "stage",
            "name": name,
            "restapi": {"listen": rest, "connect_address": rest},
            "etcd3": {"hosts": self.hosts},
            "bootstrap": {
                "dcs": {**TIMES, **at_once, "postgresql": {"use_pg_rewind": True}},
                "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}, "data-checksums"],
                "pg_hba": hba,
            },
            "postgresql": {
                "listen": port,
                "connect_address": port,
                "data_dir": str(self.folder / name),
                "bin_dir": str(BIN),
                "pgpass": str(self.folder / f"{name}.pgpass"),
                "pg_hba": hba,
                "authentication": {
                    part: {"username": user, "password": "secret"} for part, user in users.items()
                },
                "parameters": {
                    "unix_socket_directories": str(self.folder),
                    "shared_buffers": "32MB",
                    "max_connections": 40,
                },
            },
        }

    # ------------------------------------------------------------------------------------- to see

    async def _look(self) -> None:
        """Ask all of them over and over."""
        before = time.monotonic()
        while True:
            found = await asyncio.gather(*(self._ask(name) for name in self.names))
            now = time.monotonic()
            self.seen = {
                name: s for name, s in zip(self.names, found, strict=True) if s is not None
            }
            leading = [
                n for n, s in self.seen.items() if s.role in PRIMARY and s.state == "running"
            ]
            if not leading:
                self.without_s += now - before
            for name in leading:
                timeline = self.seen[name].timeline
                if timeline > (self.primaries[-1][2] if self.primaries else 0):
                    self.primaries.append((now, name, timeline))
            before = now
            await asyncio.sleep(LOOK_EVERY_S)

    async def _ask(self, name: str) -> Seen | None:
        url = f"http://127.0.0.1:{self.ports[name][0]}/patroni"
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):
            async with self.http.get(url) as answer:
                told = await answer.json(content_type=None)
                # A later version says "running" of one that streams as well.
                state = "running" if told["state"] in {"running", "streaming"} else told["state"]
                return Seen(told["role"], state, int(told.get("timeline") or 0))
        return None

    def primary(self) -> str:
        """Return the primary of the newest timeline. Raises IndexError before there was one."""
        return self.primaries[-1][1]

    async def new_primary(self, since: int) -> float:
        """Return when a primary of a timeline after `since` was first seen. Raises TimeoutError."""
        async with asyncio.timeout(WHOLE_WITHIN_S):
            while not self.primaries or self.primaries[-1][2] <= since:
                await asyncio.sleep(0.05)
        return self.primaries[-1][0]

    async def whole(self) -> None:
        """Wait until one is the primary, the others follow it, and a row that is written to it is
        there at all of them. Raises TimeoutError, and RuntimeError if an earlier row is lost.
        """
        async with asyncio.timeout(WHOLE_WITHIN_S):
            while not self._is_whole():
                await asyncio.sleep(0.1)
            while await self.ask_for(self.primary(), WRITE) is None:
                await asyncio.sleep(0.5)
            rows = await self.ask_for(self.primary(), COUNT)
            for name in self.names:
                while rows is None or await self.ask_for(name, COUNT) != rows:
                    await asyncio.sleep(0.2)
                    rows = await self.ask_for(self.primary(), COUNT)
        if int(rows or 0) <= self.rows:
            raise RuntimeError(f"rows are lost: there were {self.rows}, and are {rows}")
        self.rows = int(rows or 0)

    def _is_whole(self) -> bool:
        primaries = [n for n, s in self.seen.items() if s.role in PRIMARY]
        states = {s.state for s in self.seen.values()}
        timelines = {s.timeline for s in self.seen.values() if s.timeline}
        return (
            len(self.seen) == 3
            and states == {"running"}
            and primaries == [self.primary()]
            and len(timelines) == 1
        )

    async def ask_for(self, name: str, statement: str) -> str | None:
        """Run statements at a PostgreSQL; return what it says, None if it does not do them."""
        target = f"host=127.0.0.1 port={self.ports[name][1]} user=postgres dbname=postgres"
        process = await asyncio.create_subprocess_exec(
            find("psql"), f"{target} password=secret connect_timeout=3", "-Atqc", statement,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        said, _ = await process.communicate()
        return said.decode().strip() if process.returncode == 0 else None

    def errors(self, since: dict[str, int]) -> list[str]:
        """Return the errors that the logs of the Patronis tell behind these positions."""
        found: list[str] = []
        for name in self.names:
            text = (self.folder / f"{name}.log").read_bytes()[since.get(name, 0) :].decode()
            found += re.findall(r"^\S+ \S+ (?:ERROR|CRITICAL): (.*)$", text, re.MULTILINE)
        return found

    def positions(self) -> dict[str, int]:
        """Return how long the logs are."""
        return {name: (self.folder / f"{name}.log").stat().st_size for name in self.names}

    # ------------------------------------------------------------------------------------ to harm

    def kill_postgres(self, name: str) -> None:
        """Kill the first process of a PostgreSQL at once; its others end with it."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
            pid = int((self.folder / name / "postmaster.pid").read_text().split("\n", 1)[0])
            if Path(f"/proc/{pid}/comm").read_text().strip() == "postgres":
                os.kill(pid, signal.SIGKILL)

    async def kill(self, name: str) -> None:
        """Kill a PostgreSQL and its Patroni at once."""
        self.processes[name].kill()
        self.kill_postgres(name)
        await self.processes[name].wait()

    async def switch(self, to: str) -> None:
        """Ask for a switch-over. Raises aiohttp.ClientError if it is refused."""
        wanted = {"leader": self.primary(), "candidate": to}
        url = f"http://127.0.0.1:{self.ports[self.primary()][0]}/switchover"
        limit = aiohttp.ClientTimeout(total=WHOLE_WITHIN_S)
        async with self.http.post(url, json=wanted, timeout=limit) as answer:
            answer.raise_for_status()


def own(path: Path) -> None:
    """Give a file to the user as which PostgreSQL runs."""
    path.chmod(0o700)
    if os.geteuid() == 0:
        who = pwd.getpwnam("postgres")
        os.chown(path, who.pw_uid, who.pw_gid)
