"""`python -m chaos run` as a user runs it: Ctrl-C heals everything and still writes the report;
unfit targets.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from chaos.records.intervals import fault_windows
from chaos.records.saved import load_history
from cluster.ports import free_base_port

ROOT: Final = Path(__file__).resolve().parents[2]
WAIT_S: Final = 120.0
"""Bound of every wait for a condition."""


def command(out: Path, *words: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "chaos",
        "run",
        "--seed",
        "5",
        "--clients",
        "3",
        "--out",
        str(out),
        *words,
    ]


def wait_for(condition: object, child: subprocess.Popen[str], what: str) -> None:
    assert callable(condition)
    end = time.monotonic() + WAIT_S
    while not condition():
        assert child.poll() is None, f"ended early: {child.communicate()}"
        assert time.monotonic() < end, f"never within {WAIT_S:g} s: {what}"
        time.sleep(0.05)


def pids(folder: Path) -> dict[str, int]:
    """Return the processes of the cluster's nodes, as /proc tells them by their directory
    of data.
    """
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environ = (entry / "environ").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in environ and b"ACORDO_NODE_ID=" in environ:
            node = environ.split(b"ACORDO_NODE_ID=")[1].split(b"\0")[0].decode()
            found[node] = int(entry.name)
    return found


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


def test_ctrl_c_heals_everything_and_still_writes_the_report(tmp_path: Path) -> None:
    words = ("--workload", "register", "--nemesis", "pause-follower", "--time", "300")
    child = subprocess.Popen(command(tmp_path, *words), cwd=ROOT, text=True, stdout=subprocess.PIPE)
    try:
        wait_for(lambda: list(tmp_path.glob("*/history.jsonl")), child, "the run began")
        (folder,) = tmp_path.iterdir()
        wait_for(
            lambda: "T" in [state(p) for p in pids(folder).values()], child, "a node is stopped"
        )
        nodes = pids(folder)
        assert len(nodes) == 3
        child.send_signal(signal.SIGINT)
        told, _ = child.communicate(timeout=WAIT_S)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    assert child.returncode == 2, told
    assert "weak: the run was interrupted" in told
    assert (folder / "report.html").read_text().count("the run was interrupted")
    assert (folder / "throughput.png").stat().st_size > 1000
    history = load_history(folder / "history.jsonl")
    assert history.faults
    assert all(w.healed_ns is not None for w in fault_windows(history.faults)), (
        "every fault was healed"
    )
    assert json.loads((folder / "final.json").read_text())["members"], (
        "it was collected from healed nodes"
    )
    assert "convergence  ok" in told
    assert {n: state(p) for n, p in nodes.items()} == dict.fromkeys(nodes, "gone"), (
        "nothing is left running"
    )


def test_a_target_that_is_no_acordo_exits_2_and_says_so(tmp_path: Path) -> None:
    port = free_base_port(1, 16800 + os.getpid() % 500)
    server = subprocess.Popen(
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        words = ("--target", f"http://127.0.0.1:{port}", "--time", "1")
        ended = subprocess.run(
            command(tmp_path / "out", *words), cwd=ROOT, text=True, capture_output=True, check=False
        )
    finally:
        server.kill()
        server.wait()
    assert ended.returncode == 2
    assert f"http://127.0.0.1:{port}" in ended.stderr
    assert "Traceback" not in ended.stderr
