"""Run a local three-node cluster for a measurement, and find its leader and its processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def cluster(base_port: int, data: str, *, tree: Path | None = None) -> Iterator[list[str]]:
    """Run a cluster until the block ends; yield the nodes' URLs. `tree`: the directory whose code
    is run; None: the present one.
    """
    command = [sys.executable, "-m", "cluster", "up", "--nodes", "3", "--base-port", str(base_port)]
    command += ["--data", str(Path(data) / "cluster")]
    with open(Path(data) / "bench.log", "wb") as log:
        process = subprocess.Popen(
            command, cwd=tree, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
        urls = [f"http://127.0.0.1:{base_port + n}" for n in range(3)]
        try:
            deadline = time.monotonic() + 60
            while not all(ready(url) for url in urls):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(
                        f"the cluster did not start:\n{(Path(data) / 'bench.log').read_text()}"
                    )
                time.sleep(0.1)
            yield urls
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def ready(url: str) -> bool:
    """Return whether a node reports that it is ready."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def get(url: str) -> str:
    """Return the body of a node's answer. Raises OSError."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


def leader_of(urls: list[str]) -> str | None:
    """Return the leader's URL as the first node that answers gives it; None if none answers."""
    for url in urls:
        try:
            return str(json.loads(get(f"{url}/v1/leader"))["url"])
        except OSError:
            continue
    return None


def pids(data: str) -> dict[str, int]:
    """Return the process ids of the running nodes by URL, from the runner's `running.json`."""
    running = json.loads((Path(data) / "cluster" / "running.json").read_text())
    return {node["url"]: node["pid"] for node in running["nodes"] if node["pid"]}
