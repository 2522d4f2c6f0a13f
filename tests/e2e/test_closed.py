"""What a cluster writes is nobody else's, and it is open to others only where somebody said so."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from cluster.local.closing import is_closed_here, names_of
from cluster.ports import free_base_port
from cluster.settings.runner import RunnerSettings

WAIT_S = 60.0
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("ACORDO_")}


def test_files_are_closed_in_an_open_directory(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    data.chmod(0o755)
    port = free_base_port(1, 22000 + os.getpid() % 900 * 10)
    command = [
        sys.executable,
        "-m",
        "cluster",
        "up",
        "--nodes",
        "1",
        "--base-port",
        str(port),
        "--data",
        str(data),
    ]
    runner = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, umask=0o022
    )
    try:
        deadline = time.monotonic() + WAIT_S
        while not any(data.rglob("store.sqlite*")) or not any(data.rglob("journal*")):
            assert runner.poll() is None, runner.stdout.read() if runner.stdout else b""
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        runner.send_signal(signal.SIGINT)
        runner.communicate(timeout=WAIT_S)
    files = [path for path in data.rglob("*") if path.is_file()]
    assert len(files) >= 5
    assert {path.name: oct(path.stat().st_mode & 0o077) for path in files} == {
        path.name: "0o0" for path in files
    }


@contextlib.contextmanager
def up(data: Path, *words: str) -> Iterator[str]:
    """Run a cluster of one node until it says that it is ready; yield its port."""
    port = str(free_base_port(1, 22000 + os.getpid() % 900 * 10))
    given = [] if (data / "cluster.json").exists() else ["--nodes", "1", "--base-port", port]
    command = [sys.executable, "-m", "cluster", "up", *given, "--data", str(data), *words]
    runner = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRON
    )
    assert runner.stdout is not None
    said = ""
    try:
        for line in runner.stdout:
            said += line
            if "ready, n1 leads" in line:
                break
        else:
            raise AssertionError(said)
        found = re.search(r"https://127.0.0.1:(\d+)", said)
        assert found, said
        yield found[1]
    finally:
        runner.send_signal(signal.SIGINT)
        runner.communicate(timeout=WAIT_S)


def acordo(*words: str | Path, **environ: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "acordo", *map(str, words)],
        env=ENVIRON | {name: str(value) for name, value in environ.items()},
        capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip


def test_a_cluster_that_others_reach_gets_https_and_an_admin_once(tmp_path: Path) -> None:
    data = tmp_path / "data"
    token, trusted = data / "admin.token", data / "https" / "ca.pem"
    with up(data, "--host", "0.0.0.0") as port:
        url = ("--url", f"https://localhost:{port}")
        assert acordo(*url, "put", "k", "v", ACORDO_CA=trusted).returncode != 0, "no token"
        assert acordo(*url, "put", "k", "v", ACORDO_TOKEN_FILE=token).returncode != 0, "no CA"
        known = {"ACORDO_CA": trusted, "ACORDO_TOKEN_FILE": token}
        assert acordo(*url, "put", "k", "v", **known).returncode == 0
        # The commands of the runner's machine find both by themselves.
        status = [sys.executable, "-m", "cluster", "status", "--data", str(data)]
        shown = subprocess.run(
            status, env=ENVIRON, capture_output=True, text=True, timeout=WAIT_S, check=False
        )
        assert "n1 leads" in shown.stdout, shown.stderr
    made = {path: path.read_bytes() for path in (token, trusted)}
    assert {oct(path.stat().st_mode & 0o077) for path in (token, trusted.with_suffix(".key"))} == {
        "0o0"
    }
    with up(data, "--host", "0.0.0.0") as port:
        url = ("--url", f"https://127.0.0.1:{port}")
        assert acordo(*url, "get", "k", **known).stdout.strip() == "v"
    assert made == {path: path.read_bytes() for path in made}, "made once"


def test_a_cluster_that_is_said_to_be_open_gets_neither() -> None:
    for given in ({"host": "127.0.0.1"}, {"host": "0.0.0.0", "http_open": True}):
        assert not is_closed_here(RunnerSettings(**given))
    assert is_closed_here(RunnerSettings(host="::"))
    names = names_of(RunnerSettings(host="10.1.2.3", http_names=("kv.example", "*")))
    assert {"10.1.2.3", "127.0.0.1", "kv.example"} <= set(names) and "*" not in names
