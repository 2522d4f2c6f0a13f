"""docs/operations.md: its commands, run in their order against real nodes."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from acordo import Client
from cluster.local.runner import LocalCluster
from tests.e2e.conftest import Start

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "operations.md"
PROGRAMS = {"python": sys.executable, "acordo": f"{sys.executable} -m acordo"}


def commands(heading: str) -> list[str]:
    """Return the commands under a heading of the page."""
    text = PAGE.read_text()
    part = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"^```sh\n(.*?)^```", part, re.DOTALL | re.MULTILINE)
    found = "".join(blocks).replace("\\\n", " ").splitlines()
    assert found, heading
    return [line for line in found if line and not line.startswith("#")]


async def carried_out(line: str, directory: Path, urls: list[str]) -> str:
    """Run a command of the page in a directory of its own; return what it printed."""
    process = await asyncio.create_subprocess_shell(
        re.sub(r"\.venv/bin/(python|acordo)", lambda found: PROGRAMS[found[1]], line),
        cwd=directory,
        env={**os.environ, "ACORDO_URLS": ",".join(urls), "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, (line, out.decode())
    return out.decode()


def urls_of(cluster: LocalCluster) -> list[str]:
    return [node.url for node in cluster.nodes.values()]


@pytest.mark.parametrize("start", ["replicated", "shared"], indirect=True)
async def test_a_backup_is_taken_and_verified_as_the_page_says(
    start: Start, tmp_path: Path
) -> None:
    async with start(nodes=1) as cluster, Client(urls_of(cluster)) as client:
        await client.put("a", "1")
        await client.put("b", b"v" * 300_000, ttl_s=3600)
        said = [
            await carried_out(line, tmp_path, urls_of(cluster))
            for line in commands("Take a backup")
        ]
        assert "whole: 2 keys as of revision 2" in said[0] and said[0] == said[1]
