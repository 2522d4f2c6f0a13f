"""Run what the suites are held against: three Acordo nodes that speak etcd, and the balancer before
them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from bench.local import cluster, ready
from cluster.ports import free_base_port, lasting_port
from cluster.services.install import ensure
from cluster.services.postgres import PostgresServer
from cluster.services.process import find, wait_until

STOP_S = 20


@contextmanager
def acordo(kind: str, folder: str) -> Iterator[list[str]]:
    """Run three nodes with a store of that kind until the block ends; yield their URLs."""
    with ExitStack() as stack:
        chosen = {"ACORDO_ETCD": "true", "ACORDO_STORE": "replicated"}
        if kind == "shared":
            ensure("postgresql")
            server = PostgresServer()
            stack.callback(server.__exit__)
            chosen["ACORDO_STORE"] = server.start().url
        before = {name: os.environ.get(name) for name in chosen}
        os.environ.update(chosen)
        try:
            yield stack.enter_context(
                cluster(free_base_port(3, 23000 + os.getpid() % 900 * 10), folder)
            )
        finally:
            for name, was in before.items():
                os.environ.pop(name)
                if was is not None:
                    os.environ[name] = was


@contextmanager
def behind_nginx(urls: list[str]) -> Iterator[str]:
    """Run the project's balancer before nodes until the block ends; yield its URL."""
    ensure("nginx")
    port = lasting_port()
    with tempfile.TemporaryDirectory(prefix="acordo-peers-nginx-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.balancer"],
            env=os.environ
            | {
                "ACORDO_BALANCER_NODES": ",".join(urlsplit(url).netloc for url in urls),
                "ACORDO_BALANCER_LISTEN": f"127.0.0.1:{port}",
                "ACORDO_BALANCER_DIR": str(Path(folder, "nginx")),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until(lambda: ready(url), "the balancer", timeout_s=STOP_S)
            yield url
        finally:
            process.terminate()
            process.wait(STOP_S)


@contextmanager
def etcd(folder: str) -> Iterator[str]:
    """Run one etcd of the distribution until the block ends; yield its URL."""
    ensure("etcd")
    url, peer = (f"http://127.0.0.1:{lasting_port()}" for _ in range(2))
    with Path(folder, "etcd.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(find("etcd"), "--name", "e1", "--data-dir", f"{folder}/etcd"),
                *("--listen-client-urls", url, "--advertise-client-urls", url),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                *("--initial-cluster", f"e1={peer}", "--log-level", "error"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: healthy(url), "etcd", timeout_s=STOP_S)
        yield url
    finally:
        process.kill()
        process.wait(STOP_S)


def healthy(url: str) -> bool:
    """Return whether an etcd says that it is healthy."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return b"true" in answer.read()
    except OSError:
        return False
