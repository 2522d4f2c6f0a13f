"""What a cluster writes is nobody else's, and it is open to others only where somebody said so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from cluster.ports import free_base_port

WAIT_S = 60.0


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


def test_a_cluster_is_not_open_without_a_word(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "cluster",
        "up",
        "--host",
        "0.0.0.0",
        "--data",
        str(tmp_path / "data"),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert ended.returncode == 78
    assert "http_open" in ended.stderr
    assert not (tmp_path / "data").exists()
