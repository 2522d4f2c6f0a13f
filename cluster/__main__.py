"""Run `python -m cluster COMMAND`: a cluster of processes on this machine."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable

from acordo import BadRequest as Unacceptable
from cluster.autoscaler import command as autoscaler
from cluster.local import membership, status, stop, up
from cluster.local.process import EX_CONFIG
from cluster.settings.loading import load, redacted
from cluster.settings.runner import RunnerSettings
from cluster.workers import worker
from kv.errors import BadRequest

USAGE = """usage: python -m cluster COMMAND [--help]

  up          start a cluster on this machine and keep it alive; Ctrl-C stops it
  status      show who leads and how far each member is
  down        stop the cluster that `up` started in a directory
  kill        kill one node's process, or the leader's; the runner starts it again
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
    """Run one command; return its exit code."""
    commands: dict[str, Callable[[list[str]], int]] = {
        "up": up.main,
        "status": status.main,
        "down": stop.down_main,
        "kill": stop.kill_main,
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
    # The files made below hold values, logs and the secret. Without this umask other users of the
    # machine could read them if the directory above is open to them.
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


def config(argv: list[str]) -> int:
    """Print the runner's effective settings as JSON, with passwords hidden."""
    print(
        json.dumps(redacted(load(RunnerSettings, argv, prog="python -m cluster config")), indent=2)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
