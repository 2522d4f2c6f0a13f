"""Run a small cluster of this machine for a test or a script: `acordo.embedded()`.

Each node is a process with its own store, as it is in earnest; nothing else is needed. What is
started here ends with the block, and with the process that opened it, however that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

import msgspec

from acordo._extras import server_home

READY_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 30.0
POLL_S: Final = 0.02
STARTS_MAX: Final = 3
"""A port that was free may be taken when the node listens; then others are tried."""
PORTS: Final = (12_000, 30_000)
"""Below the ports that Linux gives away by itself: a node that is started again needs its own."""
ELECTION_TIMEOUT_S: Final = {1: 0.1}
"""A node alone waits for nobody's vote. More of them keep the server's own time-out."""


class NotStarted(RuntimeError):
    """An error about a node that did not start, or not in time; it holds the end of its log."""


class Embedded:
    """A cluster of this machine while its block runs, made by `embedded`."""

    def __init__(
        self,
        nodes: int = 1,
        *,
        data: str | Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._home = server_home("acordo.embedded()")
        self._count, self._settings = nodes, dict(settings or {})
        self._kept = None if data is None else Path(data).absolute()
        self._nodes: list[_Node] = []
        self._directory = Path()

    @property
    def urls(self) -> tuple[str, ...]:
        """The nodes' URLs: what a client takes."""
        return tuple(node.url for node in self._nodes)

    @property
    def url(self) -> str:
        """The first node's URL."""
        return self.urls[0]

    def __enter__(self) -> Self:
        for left in reversed(range(STARTS_MAX)):
            try:
                self._start_all()
            except BaseException as exc:
                taken = isinstance(exc, NotStarted) and "in use" in str(exc)
                self._end()
                if not taken or not left or self._kept is not None:
                    raise
                continue
            break
        return self

    def __exit__(self, *exc: object) -> None:
        self._end()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.to_thread(self._end)

    def kill(self, url: str) -> None:
        """Kill a node without warning, as a power cut does to its process."""
        self._at(url).stop()

    def start(self, url: str) -> None:
        """Start a node again that was killed, and wait until it is ready. Raises NotStarted."""
        node = self._at(url)
        node.start()
        node.wait_ready(time.monotonic() + READY_TIMEOUT_S)

    def _at(self, url: str) -> _Node:
        for node in self._nodes:
            if node.url == url.rstrip("/"):
                return node
        raise ValueError(f"{url} is no node of this cluster: {', '.join(self.urls)}")

    def _start_all(self) -> None:
        self._directory = self._kept or Path(tempfile.mkdtemp(prefix="acordo-embedded-"))
        self._directory.mkdir(parents=True, exist_ok=True)
        self._nodes = [_Node(*each) for each in self._layout()]
        for node in self._nodes:
            node.start()
        deadline = time.monotonic() + READY_TIMEOUT_S
        for node in self._nodes:
            node.wait_ready(deadline)

    def _layout(self) -> list[tuple[str, Path, dict[str, str]]]:
        """Return each node's URL, the server's home, and its environment."""
        cluster = _Layout.of(self._directory, self._count)
        ports, numbers = cluster.ports, range(self._count)
        members = ",".join(f"n{n + 1}=127.0.0.1:{ports[2 * n + 1]}" for n in numbers)
        # settings of the caller's own, such as a token of its cluster's, are not this cluster's
        shared = {
            name: value for name, value in os.environ.items() if not name.startswith("ACORDO_")
        }
        shared |= {
            "ACORDO_CLUSTER_ID": cluster.id,
            "ACORDO_SECRET_FILE": str(self._directory / "secret"),
            "ACORDO_MEMBERS": members,
            "ACORDO_STOP_WITH_STDIN": "true",
        }
        if self._kept is None:
            shared |= {"ACORDO_FSYNC": "off", "ACORDO_UNSAFE_FSYNC": "true"}
        if (election_s := ELECTION_TIMEOUT_S.get(self._count)) is not None:
            shared["ACORDO_ELECTION_TIMEOUT_S"] = str(election_s)
        shared |= self._settings
        shared["PYTHONPATH"] = str(self._home)
        return [
            (
                f"http://127.0.0.1:{ports[2 * n]}",
                self._home,
                {
                    **shared,
                    "ACORDO_NODE_ID": f"n{n + 1}",
                    "ACORDO_HTTP_PORT": str(ports[2 * n]),
                    "ACORDO_RAFT_ADDRESS": f"127.0.0.1:{ports[2 * n + 1]}",
                    "ACORDO_DATA_DIR": str(self._directory / f"n{n + 1}"),
                },
            )
            for n in numbers
        ]

    def _end(self) -> None:
        if self._kept is not None:
            for node in self._nodes:
                node.ask_to_stop()
            for node in self._nodes:
                node.stop(STOP_TIMEOUT_S)
        for node in self._nodes:
            node.stop()
        if self._kept is None and self._directory != Path():
            shutil.rmtree(self._directory, ignore_errors=True)


class _Layout(msgspec.Struct, frozen=True):
    """What a directory remembers of its cluster: members know each other by their ports."""

    id: str
    ports: tuple[int, ...]
    """HTTP and Raft of each node in turn."""

    @classmethod
    def of(cls, directory: Path, nodes: int) -> _Layout:
        """Return that of a directory, or a new one. Raises NotStarted for any other content."""
        file = directory / "embedded.json"
        with contextlib.suppress(FileNotFoundError):
            found = msgspec.json.decode(file.read_bytes(), type=cls)
            if len(found.ports) != 2 * nodes:
                raise NotStarted(
                    f"{directory} holds a cluster of {len(found.ports) // 2} nodes, not {nodes}"
                )
            return found
        if any(directory.iterdir()):
            raise NotStarted(f"{directory} is not empty, and not made by acordo.embedded()")
        made = cls(secrets.token_hex(8), tuple(_free_ports(2 * nodes)))
        secret = directory / "secret"
        secret.touch(mode=0o600)
        secret.write_text(secrets.token_hex(32) + "\n")
        file.write_bytes(msgspec.json.encode(made))
        return made


class _Node:
    """One node, a process."""

    def __init__(self, url: str, home: Path, environ: Mapping[str, str]) -> None:
        self.url, self._home, self._environ = url, home, environ
        self._log = Path(environ["ACORDO_DATA_DIR"]).with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, if it is not there."""
        if self._process is not None and self._process.poll() is None:
            return
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "node"],
                stdin=subprocess.PIPE,  # it ends with us: the node stops when this does
                stdout=log,
                stderr=log,
                env=self._environ,
                cwd=self._home,
                start_new_session=True,  # Ctrl-C is for the script, which ends the node itself
            )

    def wait_ready(self, deadline: float) -> None:
        """Wait until the node is ready. Raises NotStarted."""
        assert self._process is not None
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                code = self._process.returncode
                raise NotStarted(f"{self.url} ended with {code}: {self._last_words()}")
            with (
                contextlib.suppress(OSError),
                direct_opener().open(f"{self.url}/readyz", timeout=1) as response,
            ):
                if response.status == 200:
                    return
            time.sleep(POLL_S)
        raise NotStarted(
            f"{self.url} was not ready within {READY_TIMEOUT_S:g} s: {self._last_words()}"
        )

    def ask_to_stop(self) -> None:
        """Let the node end in order."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def stop(self, patience_s: float = 0.0) -> None:
        """Kill the process if it is still there after a while, and wait until it is gone."""
        process = self._process
        if process is None:
            return
        if patience_s:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            return self._log.read_text(errors="replace")[-2000:].strip()
        return ""


def embedded(
    nodes: int = 1,
    *,
    data: str | Path | None = None,
    settings: Mapping[str, str] | None = None,
) -> Embedded:
    """Return a cluster of this machine to use with `with` or `async with`: its nodes run while the
    block does.

        with acordo.embedded() as node, acordo.SyncClient(node.urls) as client:
            client.put("greeting", "hello")

    `nodes`: how many, each a process. `data`: a directory that is kept, with every write synced to
    it; None: a temporary one, deleted at the end, where nothing waits for a disk. `settings`:
    further settings of the nodes, by the names of their environment variables. Needs the extra
    `server`. Raises MissingExtra, NotStarted.
    """
    return Embedded(nodes, data=data, settings=settings)


def direct_opener() -> urllib.request.OpenerDirector:
    """Return what asks a node of this machine, past any proxy that the environment names."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            probe = stack.enter_context(socket.socket())
            port = random.randrange(*PORTS)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
        return found
