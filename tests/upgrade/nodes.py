"""Run three nodes, each of a version of its own, as a service manager would: one is asked to end,
and started again from another tree on the same directory.

It never signals a process that it did not start.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

import aiohttp

from acordo import AcordoError, Client
from cluster.ports import lasting_port
from tests.upgrade.versions import Version

WITHIN_S: Final = 60.0
"""Longest wait for a node to start, or to end: a busy machine is no fault of the product."""
NOTICE_S: Final = 3
"""How long a stopping node serves on while it calls itself unready: the balancer asks each second.
"""
IDS: Final = ("n1", "n2", "n3")


class Node:
    """A member, and the process that it has now."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, str], url: str) -> None:
        self.name, self.settings, self.url = name, settings, url
        self.data, self.log = folder / name, folder / f"{name}.log"
        self.version: Version
        self.process: asyncio.subprocess.Process

    async def start(self, version: Version) -> None:
        """Start it from the tree of a version."""
        self.version = version
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("ACORDO_", "PYTHONPATH"))
        }
        with self.log.open("ab") as log:
            log.write(f"--- {version.name}\n".encode())
            log.flush()
            self.process = await asyncio.create_subprocess_exec(
                version.python, "-m", "node",
                cwd=version.tree, env=inherited | dict(self.settings),
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    async def stop(self) -> int:
        """Ask it to end; return its exit code. Raises TimeoutError."""
        self.process.terminate()
        return await self.ended()

    async def ended(self) -> int:
        """Return its exit code once it has ended. Raises TimeoutError."""
        async with asyncio.timeout(WITHIN_S):
            return await self.process.wait()

    async def kill(self) -> None:
        """End it at once, if it runs."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    def last_words(self) -> str:
        """Return the last line of its log."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def contents(self) -> dict[str, str]:
        """Return a hash of each file of its directory, but for the lock, which has the process's
        id.
        """
        return {
            str(path.relative_to(self.data)): hashlib.blake2b(path.read_bytes()).hexdigest()
            for path in sorted(self.data.rglob("*"))
            if path.is_file() and path.name != "lock"
        }


class Nodes:
    """Three members of one cluster."""

    def __init__(self, folder: Path, *, store: str = "replicated") -> None:
        """`store` is what ACORDO_STORE says."""
        folder.mkdir(parents=True)
        secret = folder / "secret"
        secret.write_text(secrets.token_hex(32) + "\n")
        secret.chmod(0o600)
        http = {name: lasting_port() for name in IDS}
        raft = {name: f"127.0.0.1:{lasting_port()}" for name in IDS}
        members = ",".join(f"{name}={raft[name]}" for name in IDS)
        self.each: dict[str, Node] = {}
        for name in IDS:
            settings = {
                "ACORDO_NODE_ID": name,
                "ACORDO_CLUSTER_ID": "upgrade",
                "ACORDO_STORE": store,
                "ACORDO_MEMBERS": members,
                "ACORDO_RAFT_ADDRESS": raft[name],
                "ACORDO_HTTP_PORT": str(http[name]),
                "ACORDO_DATA_DIR": str(folder / name),
                "ACORDO_SECRET_FILE": str(secret),
                "ACORDO_DRAIN_NOTICE_S": str(NOTICE_S),
                "ACORDO_LOG_FORMAT": "json",
            }
            url = f"http://127.0.0.1:{http[name]}"
            self.each[name] = Node(name, folder, settings, url)

    @property
    def urls(self) -> list[str]:
        """Return where each of them is reached, past the balancer."""
        return [node.url for node in self.each.values()]

    async def __aenter__(self) -> Self:
        limit = aiohttp.ClientTimeout(total=2)
        self.http = aiohttp.ClientSession(timeout=limit)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.http.close()
        for node in self.each.values():
            if hasattr(node, "process"):
                await node.kill()

    async def start(self, version: Version) -> None:
        """Start all of them in one version; wait until each is ready."""
        for node in self.each.values():
            await node.start(version)
        for node in self.each.values():
            await self.ready(node)

    async def ready(self, node: Node) -> None:
        """Wait until a node calls itself ready. Raises TimeoutError, which says why not, and
        RuntimeError if it ends.
        """
        ends, why = time.monotonic() + WITHIN_S, "no answer"
        while time.monotonic() < ends:
            if node.process.returncode is not None:
                raise RuntimeError(
                    f"{node.name} ({node.version.name}) ended with code "
                    f"{node.process.returncode}: {node.last_words()}"
                )
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with self.http.get(f"{node.url}/readyz?verbose") as answer:
                    why = await answer.text()
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.1)
        raise TimeoutError(f"{node.name} ({node.version.name}) is not ready: {why[-400:]}")

    async def leader(self) -> str:
        """Return who leads. Raises TimeoutError."""
        async with asyncio.timeout(WITHIN_S), Client(self.urls, timeout_s=5) as client:
            while True:
                with contextlib.suppress(AcordoError):
                    if (leader := (await client.cluster()).leader) is not None:
                        return leader
                await asyncio.sleep(0.1)

    async def change(self, node: Node, version: Version) -> None:
        """Ask a node to end, and start it again in another version; wait until it is ready."""
        code = await node.stop()
        if code != 0:
            raise RuntimeError(f"{node.name} ended with code {code}: {node.last_words()}")
        await node.start(version)
        await self.ready(node)

    async def in_order(self) -> list[Node]:
        """Return the nodes as docs/deploy.md has them upgraded: the leader last."""
        leader = await self.leader()
        return sorted(self.each.values(), key=lambda node: (node.name == leader, node.name))
