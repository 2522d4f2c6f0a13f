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

from acordo import BadRequest as Unacceptable
from cluster.autoscaler import command as autoscaler
from cluster.local import membership, up
from cluster.local.layout import running
from cluster.local.process import EX_CONFIG
from cluster.local.status import report
from cluster.settings.loading import load, redacted
from cluster.settings.runner import RunnerSettings
from cluster.workers import worker
from kv.errors import BadRequest

USAGE = """usage: python -m cluster COMMAND [--help]

  up          start a cluster on this machine and keep it alive; Ctrl-C stops it
  status      show who leads and how far each member is
  down        stop the cluster that `up` started in a directory
  add         start one more voting member in a running cluster
  remove      take a member out of a running cluster for good; its directory stays
  replace     give the place of a damaged or lost member to a new one, under a new id
  worker      submit asynchronous writes and deliver webhooks; any number may run
  stack       the stack in containers: up, down, status, upgrade, replace
  autoscaler  add and remove observers by what Prometheus says
  config      show the settings in effect, passwords hidden
"""
CUT_OFF = ": what was begun stays begun, and the same command goes on where it stopped"


def main(argv: list[str]) -> int:
    commands: dict[str, Callable[[list[str]], int]] = {
        "up": up.main,
        "status": status,
        "down": down,
        "add": membership.add_main,
        "remove": membership.remove_main,
        "replace": membership.replace_main,
        "config": config,
        "worker": worker.main,
        "stack": stack,
        "autoscaler": autoscaler.main,
    }
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if argv else 2
    if argv[0] not in commands:
        print(f"{argv[0]!r} is no command; there are {', '.join(commands)}", file=sys.stderr)
        return 2
    # values, logs and the secret are nobody else's, also in a directory that is open
    os.umask(0o077)
    try:
        return commands[argv[0]](argv[1:])
    except (BadRequest, Unacceptable) as exc:
        print(
            f"error: {exc.detail}" + (f" (allowed: {exc.allowed})" if exc.allowed else ""),
            file=sys.stderr,
        )
        return EX_CONFIG
    except KeyboardInterrupt:
        print(
            "interrupted" + (CUT_OFF if argv[0] in ("add", "remove", "replace", "stack") else ""),
            file=sys.stderr,
        )
        return 128 + signal.SIGINT


def stack(argv: list[str]) -> int:
    """Run a command on the stack in containers."""
    from cluster.stack import cli

    return cli.main(argv)


def status(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m cluster status")
    parser.add_argument("--url", action="append", help="a node's URL; may be given several times")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data"),
        help="directory of a local cluster (default: data)",
    )
    parser.add_argument("--json", action="store_true", help="print what the node said")
    given = parser.parse_args(argv)
    found = running(given.data)
    urls = given.url or ([node.url for node in found.nodes] if found else [])
    if not urls:
        print(
            f"no cluster runs in {given.data.absolute()}; name one with --url or --data",
            file=sys.stderr,
        )
        return 2
    return asyncio.run(report(urls, as_json=given.json))


def down(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m cluster down")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data"),
        help="directory of a local cluster (default: data)",
    )
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


def config(argv: list[str]) -> int:
    print(
        json.dumps(redacted(load(RunnerSettings, argv, prog="python -m cluster config")), indent=2)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
