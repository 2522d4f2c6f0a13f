"""Run `python -m cluster down | kill`: stop a running local cluster, or kill one of its nodes.

It signals only the processes that the directory's own runner lists in `running.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Final

import aiohttp

from cluster.local.asking import leader_of
from cluster.local.closing import as_admin
from cluster.local.layout import Running, RunningNode, running
from kv.errors import BadRequest

LEADER: Final = "leader"
"""Name on the command line for the member that leads now."""
ANSWER_TIMEOUT_S: Final = 2.0
LEADER_WITHIN_S: Final = 10.0
"""Longest wait for a leader: an election may be under way."""


def down_main(argv: list[str]) -> int:
    """Stop the cluster that `up` started in a directory, and wait until it has ended."""
    parser = _parser("down", "Stop the cluster that `up` started in a directory.")
    parser.add_argument(
        "--timeout-s", type=float, default=60, help="longest wait for it to stop (default: 60)"
    )
    given = parser.parse_args(argv)
    found = running(given.data)
    if found is None:
        print(f"no cluster runs in {given.data.absolute()}")
        return 0
    with contextlib.suppress(ProcessLookupError):
        os.kill(found.runner_pid, signal.SIGTERM)
    give_up = time.monotonic() + given.timeout_s
    while running(given.data) is not None:
        if time.monotonic() > give_up:
            print(
                f"process {found.runner_pid} did not stop within {given.timeout_s:g} s",
                file=sys.stderr,
            )
            return 1
        time.sleep(0.1)
    print("stopped")
    return 0


def kill_main(argv: list[str]) -> int:
    """Kill one node's process. Raises BadRequest if no such process runs."""
    parser = _parser("kill", "Kill one node's process with SIGKILL; the runner starts it again.")
    parser.add_argument("node", help=f"its id, as `status` shows it, or `{LEADER}`")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    given = parser.parse_args(argv)
    found = running(given.data)
    if found is None:
        raise BadRequest(
            "not_running",
            f"no cluster runs in {given.data.absolute()}",
            allowed="one that `python -m cluster up` runs there now",
        )
    name = asyncio.run(_leader(found, given.data)) if given.node == LEADER else given.node
    node = _node(found, name)
    assert node.pid is not None
    os.kill(node.pid, signal.SIGKILL)
    if given.json:
        print(json.dumps({"member": node.id, "pid": node.pid, "led": given.node == LEADER}))
        return 0
    print(f"killed {node.id}{', the leader' if given.node == LEADER else ''} (process {node.pid})")
    return 0


async def _leader(found: Running, data: Path) -> str:
    """Return the leader's id. Raises BadRequest("no_leader") after LEADER_WITHIN_S without one."""
    timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)
    async with as_admin(timeout, data) as http:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEADER_WITHIN_S):
                while True:
                    leader = await leader_of(http, [node.url for node in found.nodes])
                    if leader is not None:
                        return leader
                    await asyncio.sleep(0.1)
    raise BadRequest("no_leader", "no node knows a leader now", allowed="a node's id")


def _node(found: Running, name: str) -> RunningNode:
    """Return the running node of that id. Raises BadRequest if there is none."""
    running_now = [node for node in found.nodes if node.pid is not None]
    for node in running_now:
        if node.id == name:
            return node
    raise BadRequest(
        "unknown_member",
        f"no process of {name} runs",
        allowed=", ".join([LEADER, *(node.id for node in running_now)]),
    )


def _parser(name: str, text: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m cluster {name}", description=text)
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data"),
        help="directory of a local cluster (default: data)",
    )
    return parser
