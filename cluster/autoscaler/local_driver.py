"""Start observers as processes beside a local cluster, in a subdirectory of its directory.

It never signals a process that it did not start.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from cluster.autoscaler.driver import STOP_WITHIN_S
from cluster.directory import write_whole
from cluster.local.layout import ClusterFile
from cluster.ports import free_ports
from cluster.settings.values import PREFIX, REPLICATED
from kv.errors import BadRequest


class LocalDriver:
    """A driver that runs observers as processes of this machine.

    They use the local cluster's directory, store and secret, and end with the autoscaler.
    """

    def __init__(self, data: Path, settings: Mapping[str, str]) -> None:
        self.data, self.settings = data.absolute(), dict(settings)
        path = self.data.parent / "cluster.json"
        if not path.exists():
            raise BadRequest(
                "no_cluster",
                f"{self.data.parent} holds no local cluster",
                allowed="autoscaler_dir in one",
            )
        try:
            self.file = msgspec.json.decode(path.read_bytes(), type=ClusterFile)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise BadRequest("bad_directory", f"{path} cannot be read: {exc}") from exc
        if self.file.store == "shared" and PREFIX + "STORE" not in self.settings:
            raise BadRequest(
                "bad_settings",
                f"the nodes in {self.data.parent} share a store, and its file names none",
                allowed="the ACORDO_STORE that they were started with",
            )
        self.processes: dict[str, tuple[asyncio.subprocess.Process, str]] = {}

    async def running(self) -> frozenset[str]:
        """Return the names of the observers whose processes are running."""
        return frozenset(n for n, (p, _) in self.processes.items() if p.returncode is None)

    async def start(self, name: str, members: str) -> tuple[str, str]:
        """Start a process in a new directory; return its Raft address and URL."""
        port, raft = free_ports(2)
        folder = self.data / name
        folder.mkdir(parents=True)
        scheme = "https" if self.settings.get(PREFIX + "HTTP_TLS_CERT_FILE") else "http"
        url = f"{scheme}://127.0.0.1:{port}"
        own = {
            "NODE_ID": name,
            "CLUSTER_ID": self.file.cluster_id,
            "HTTP_PORT": str(port),
            "ADVERTISED_URL": url,
            "RAFT_ADDRESS": f"127.0.0.1:{raft}",
            "MEMBERS": f"{members},{name}=127.0.0.1:{raft}/observer",
            "DATA_DIR": str(folder),
            "STOP_WITH_STDIN": "true",
        }
        shared: dict[str, str] = {}
        if self.file.store == "replicated":
            shared["STORE"] = REPLICATED
        if (self.data.parent / "secret").exists():
            shared["SECRET_FILE"] = str(self.data.parent / "secret")
        environ = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
        environ |= (
            {PREFIX + k: v for k, v in shared.items()}
            | self.settings
            | {PREFIX + k: v for k, v in own.items()}
        )
        with (folder / "node.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "node"),
                env=environ,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes[name] = (process, url)
        self._write_targets()
        return f"127.0.0.1:{raft}", url

    async def stop(self, name: str) -> None:
        """Stop the process, and kill it if it has not drained within STOP_WITHIN_S.

        Its directory stays, but no later observer uses it: names are never reused.
        """
        found = self.processes.pop(name, None)
        self._write_targets()
        if found is None:
            return
        process = found[0]
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_WITHIN_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()

    def _write_targets(self) -> None:
        """Write `targets.json`, which a Prometheus with file discovery reads."""
        self.data.mkdir(parents=True, exist_ok=True)
        targets = [url.partition("://")[2] for _, url in self.processes.values()]
        write_whole(
            self.data / "targets.json",
            msgspec.json.encode([{"targets": targets}] if targets else []),
        )
