"""Run `python -m cluster COMMAND`: a cluster of processes on this machine."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cluster import autoscaler, worker
from cluster.config import RunnerSettings, load, redacted
from cluster.layout import running
from cluster.runner import EX_CONFIG, LocalCluster
from cluster.status import report
from kv.errors import BadRequest

USAGE = """usage: python -m cluster COMMAND [--help]

  up          start a cluster on this machine and keep it alive; Ctrl-C stops it
  status      show who leads and how far each member is
  down        stop the cluster that `up` started in a directory
  worker      submit asynchronous writes and deliver webhooks; any number may run
  autoscaler  add and remove observers by what Prometheus says
  config      show the settings in effect, passwords hidden
"""


def main(argv: list[str]) -> int:
    commands: dict[str, Callable[[list[str]], int]] = {
        "up": up,
        "status": status,
        "down": down,
        "config": config,
        "worker": worker.main,
        "autoscaler": autoscaler.main,
    }
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if argv else 2
    if argv[0] not in commands:
        print(f"{argv[0]!r} is no command; there are {', '.join(commands)}", file=sys.stderr)
        return 2
    try:
        return commands[argv[0]](argv[1:])
    except BadRequest as exc:
        print(f"error: {exc.detail}" + (f" (allowed: {exc.allowed})" if exc.allowed else ""), file=sys.stderr)
        return EX_CONFIG


def up(argv: list[str]) -> int:
    return asyncio.run(_up(load(RunnerSettings, argv, prog="python -m cluster up")))


async def _up(settings: RunnerSettings) -> int:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def stopping() -> None:
        if stop.is_set():
            cluster.kill_all()
        stop.set()

    cluster = LocalCluster(settings, say=_say)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping)
    async with cluster:
        _say(f"starting {len(cluster.nodes)} node(s) in {settings.data.absolute()}")
        stopped = asyncio.ensure_future(stop.wait())
        ready = asyncio.ensure_future(cluster.wait_ready())
        await asyncio.wait((stopped, ready), return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            try:
                _announce(cluster, ready.result())
            except TimeoutError as exc:
                print(f"error: {exc}; logs: {settings.data.absolute()}/n*/node.log", file=sys.stderr)
                return 1
            failed = asyncio.ensure_future(cluster.all_failed.wait())
            await asyncio.wait((stopped, failed), return_when=asyncio.FIRST_COMPLETED)
            if not stopped.done():
                raise cluster.failure.result()
        ready.cancel()
        _say("stopping; press Ctrl-C again to kill")
    _say("stopped")
    return 0


def _announce(cluster: LocalCluster, leader: str) -> None:
    for node in cluster.nodes.values():
        print(f"  {node.id}  {node.url}{'   leader' if node.id == leader else ''}")
    first = next(iter(cluster.nodes.values())).url
    print(f"\nready, {leader} leads. Open {first}/ in a browser, or try:")
    print(f"  curl -X PUT {first}/v1/kv/hello -d world && curl {first}/v1/kv/hello")
    python = os.path.relpath(sys.executable) if Path.cwd() in Path(sys.executable).parents else sys.executable
    print(f"  {python} -m tests.installation {first}     (checks this installation)")
    print("Ctrl-C stops the cluster; its data stays.\n", flush=True)


def status(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m cluster status")
    parser.add_argument("--url", action="append", help="a node's URL; may be given several times")
    parser.add_argument("--data", type=Path, default=Path("data"), help="directory of a local cluster (default: data)")
    parser.add_argument("--json", action="store_true", help="print what the node said")
    given = parser.parse_args(argv)
    found = running(given.data)
    urls = given.url or ([node.url for node in found.nodes] if found else [])
    if not urls:
        print(f"no cluster runs in {given.data.absolute()}; name one with --url or --data", file=sys.stderr)
        return 2
    return asyncio.run(report(urls, as_json=given.json))


def down(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m cluster down")
    parser.add_argument("--data", type=Path, default=Path("data"), help="directory of a local cluster (default: data)")
    parser.add_argument("--timeout-s", type=float, default=60, help="longest wait for it to stop (default: 60)")
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
            print(f"process {found.runner_pid} did not stop within {given.timeout_s:g} s", file=sys.stderr)
            return 1
        time.sleep(0.1)
    print("stopped")
    return 0


def config(argv: list[str]) -> int:
    print(json.dumps(redacted(load(RunnerSettings, argv, prog="python -m cluster config")), indent=2))
    return 0


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
