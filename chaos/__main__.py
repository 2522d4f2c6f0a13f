"""Dispatch `python -m chaos <command>`. Wiring only."""

from __future__ import annotations

import argparse
import sys
import traceback
from typing import Final

from chaos.commands import check, failover, planted_bugs, run

CRASHED: Final = 3
"""Exit code for an unexpected error. Python's own exit code for one, 1, would say that an anomaly
was found.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command that the arguments name; return its exit code, or CRASHED on an exception."""
    parser = argparse.ArgumentParser(
        prog="python -m chaos", description="disturb a cluster and judge what clients saw"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    check.add_arguments(
        commands.add_parser(
            "check", help="judge a saved run or history again", description=check.__doc__
        )
    )
    run.add_arguments(
        commands.add_parser(
            "run", help="load, disturb and judge a cluster", description=run.__doc__
        )
    )
    planted_bugs.add_arguments(
        commands.add_parser(
            "teeth",
            help="show that planted product bugs are caught",
            description=planted_bugs.__doc__,
        )
    )
    failover.add_arguments(
        commands.add_parser(
            "failover",
            help="measure how long writes stop when leaders die",
            description=failover.__doc__,
        )
    )
    args = parser.parse_args(argv)
    try:
        return _done(args)
    except Exception:  # noqa: BLE001 - see CRASHED
        traceback.print_exc()
        return CRASHED


def _done(args: argparse.Namespace) -> int:
    match args.command:
        case "check":
            return check.main(args)
        case "run":
            return run.main(args)
        case "teeth":
            return planted_bugs.main(args)
        case "failover":
            return failover.main(args)
        case _:
            raise AssertionError(args.command)


if __name__ == "__main__":
    sys.exit(main())
