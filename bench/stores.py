"""Run what is compared: a local Acordo cluster, and three etcd members with their HTTP gateways."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from bench.load import request
from bench.local import leader_of, pids
from cluster.services.install import ensure

VALUE: Final = b"v" * 100
ETCD_READY_S: Final = 30
JSON: Final = "Content-Type: application/json\r\n"


class Store(Protocol):
    """The store that is measured: three members on loopback, one of which leads."""

    name: str
    urls: list[str]

    def put(self, key: str) -> bytes:
        """Return a request that writes VALUE."""
        ...

    def get(self, key: str) -> bytes:
        """Return a request for a linearizable read."""
        ...

    def leader(self) -> str:
        """Return the URL of the current leader."""
        ...

    def signal(self, url: str, number: int) -> None:
        """Send a signal to a member's process."""
        ...

    def processes(self) -> list[int]:
        """Return the ids of the members' processes."""
        ...

    def bring_back(self, url: str) -> None:
        """Make sure that a killed member runs again, and wait until all answer."""
        ...


class Acordo:
    """A cluster started as by `make run`, of the kind that ACORDO_STORE says; its runner restarts
    nodes.
    """

    name = "Acordo"

    def __init__(self, urls: list[str], data: str) -> None:
        self.urls, self._data = urls, data

    def put(self, key: str) -> bytes:
        """Return a PUT of VALUE."""
        return request("PUT", f"/v1/kv/{key}", VALUE)

    def get(self, key: str) -> bytes:
        """Return a GET, which is linearizable unless it says otherwise."""
        return request("GET", f"/v1/kv/{key}")

    def leader(self) -> str:
        """Wait for a leader, and return its URL."""
        return wait_for(lambda: leader_of(self.urls), "a leader")

    def signal(self, url: str, number: int) -> None:
        """Signal the node's process."""
        os.kill(pids(self._data)[url], number)

    def processes(self) -> list[int]:
        """Return the nodes' processes, without their runner."""
        return list(pids(self._data).values())

    def bring_back(self, url: str) -> None:
        """Wait until all nodes are ready; the runner restarts the killed one."""
        wait_answer(f"{each}/readyz" for each in self.urls)


class Etcd:
    """Three members of etcd with default settings. Each is used through its own gateway."""

    name = "etcd"

    def __init__(self, program: str, base_port: int, data: str) -> None:
        self.urls = [f"http://127.0.0.1:{base_port + 2 * n}" for n in range(3)]
        peers = [f"http://127.0.0.1:{base_port + 2 * n + 1}" for n in range(3)]
        members = ",".join(f"e{n}={peer}" for n, peer in enumerate(peers))
        self._commands = {
            url: [
                *(program, "--name", f"e{n}", "--data-dir", f"{data}/e{n}"),
                *("--initial-cluster", members, "--log-level", "error"),
                *("--listen-client-urls", url, "--advertise-client-urls", url),
                *("--listen-peer-urls", peers[n], "--initial-advertise-peer-urls", peers[n]),
            ]
            for n, url in enumerate(self.urls)
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._log = Path(data, "etcd.log")

    def start(self, url: str) -> None:
        """Start one member, or start it again."""
        with self._log.open("ab") as log:
            self._processes[url] = subprocess.Popen(
                self._commands[url],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # as the nodes: the kernel shares out by session
            )

    def put(self, key: str) -> bytes:
        """Return a put of VALUE."""
        return request("POST", "/v3/kv/put", _json(key=key.encode(), value=VALUE), JSON)

    def get(self, key: str) -> bytes:
        """Return a range request, which is linearizable unless it says otherwise."""
        return request("POST", "/v3/kv/range", _json(key=key.encode()), JSON)

    def leader(self) -> str:
        """Wait for a leader, and return its URL."""
        return wait_for(self._leader, "a leader of etcd")

    def _leader(self) -> str | None:
        for url in self.urls:
            said = json.loads(ask(f"{url}/v3/maintenance/status", b"{}") or "{}")
            if said and said.get("leader") == said["header"]["member_id"]:
                return url
        return None

    def signal(self, url: str, number: int) -> None:
        """Signal the member's process."""
        self._processes[url].send_signal(number)
        if number == signal.SIGKILL:
            self._processes[url].wait()

    def processes(self) -> list[int]:
        """Return the members' processes."""
        return [process.pid for process in self._processes.values()]

    def bring_back(self, url: str) -> None:
        """Start the member again unless it runs, and wait until all answer."""
        if self._processes[url].poll() is not None:
            self.start(url)
        wait_answer(f"{each}/health" for each in self.urls)

    def stop(self) -> None:
        """End every member."""
        for process in self._processes.values():
            process.kill()
            process.wait()


@contextmanager
def etcd(base_port: int, data: str) -> Iterator[Etcd]:
    """Run three members of etcd until the block ends."""
    ensure("etcd")
    store = Etcd("/usr/bin/etcd", base_port, data)
    try:
        for url in store.urls:
            store.start(url)
        wait_answer(f"{url}/health" for url in store.urls)
        yield store
    finally:
        store.stop()


def cpu_s(processes: Iterable[int]) -> float:
    """Return the CPU seconds that running processes have taken, all their threads."""
    total = 0.0
    for pid in processes:
        for place in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            total += int(place.read_text().split()[0]) / 1e9
    return total


def _json(**fields: bytes) -> bytes:
    return json.dumps(
        {name: base64.b64encode(content).decode() for name, content in fields.items()}
    ).encode()


def ask(url: str, body: bytes | None = None) -> str | None:
    """Return the body of an answer; None: there is none."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return None


def wait_answer(urls: Iterable[str]) -> None:
    """Wait until each URL answers 200."""
    for url in urls:
        wait_for(partial(ask, url), url)


def wait_for(found: Callable[[], str | None], what: str) -> str:
    """Return what `found` finds, once it does. Raises SystemExit when that takes too long."""
    deadline = time.monotonic() + ETCD_READY_S
    while time.monotonic() < deadline:
        result = found()
        if result:
            return result
        time.sleep(0.1)
    raise SystemExit(f"waited {ETCD_READY_S} s in vain for {what}")
