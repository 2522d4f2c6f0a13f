"""Clusters of this machine: how they are asked, and that they end with who started them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest

from acordo._local import _Node
from tests.unit.acordo.scripted import closed_port
from tests.unit.node.conftest import opened

ROOT = Path(__file__).parents[3]
RUNNER = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
open("running", "w").write("x")
time.sleep(60)
"""


async def test_a_node_of_this_machine_is_asked_past_the_proxy_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Companies' shells name one, which knows no 127.0.0.1 of ours."""
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{await closed_port()}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)

    class Running:
        returncode = None

        def poll(self) -> None:
            return None

    async with opened() as api:
        node = _Node(api.url, tmp_path, {"ACORDO_DATA_DIR": str(tmp_path / "n1")})
        node._process = cast(subprocess.Popen[bytes], Running())
        await asyncio.to_thread(node.wait_ready, time.monotonic() + 5)


async def test_a_cluster_to_try_things_with_ends_with_the_command(tmp_path: Path) -> None:
    """Also where that is told to end by SIGTERM, as by a supervisor: the runner hears of it."""
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "__init__.py").touch()
    (tmp_path / "cluster" / "__main__.py").write_text(RUNNER)
    code = (
        "import pathlib; from acordo._cli.dev import _run; "
        "here = pathlib.Path.cwd(); raise SystemExit(_run(here, 1, 8001, here))"
    )
    environ: dict[str, Any] = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, cwd=tmp_path, env=environ
    )
    async with asyncio.timeout(60):
        while not (tmp_path / "running").exists():
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 5
