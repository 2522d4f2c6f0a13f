"""The pytest fixture, in a pytest of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from tests.unit.acordo.fake_cluster import FakeCluster

SUITE = """
async def test_client(acordo, acordo_prefix):
    await acordo.put(acordo_prefix + "k", "v")
    assert (await acordo.get(acordo_prefix + "k")).text == "v"

def test_urls(acordo_urls):
    assert len(acordo_urls) == 2
"""


async def run(directory: Path, urls: str | None) -> tuple[int | None, str]:
    (directory / "test_suite.py").write_text(SUITE)
    environment = {k: v for k, v in os.environ.items() if k != "ACORDO_URLS"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[3]) if urls else str(directory)
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    if urls:
        environment["ACORDO_URLS"] = urls
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "pytest_asyncio.plugin",
            "-p",
            "acordo.pytest_plugin",
        ),
        *(
            "-o",
            "asyncio_mode=auto",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            str(directory),
            str(directory),
        ),
        env=environment,
        cwd=directory,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode, out.decode()


async def test_against_a_cluster_given_by_its_urls(tmp_path: Path) -> None:
    async with FakeCluster(2) as cluster:
        code, out = await run(tmp_path, " ".join(cluster.urls))
        assert code == 0, out
        assert "2 passed" in out
        assert cluster.applied == 1
