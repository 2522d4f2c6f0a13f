"""Dispatch `python -m chaos <command>`. Wiring only."""

from __future__ import annotations

import argparse
import sys

from chaos import check


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos", description="disturb a cluster and judge what clients saw")
    commands = parser.add_subparsers(dest="command", required=True)
    check.add_arguments(
        commands.add_parser("check", help="judge a saved run or history again", description=check.__doc__)
    )
    args = parser.parse_args(argv)
    match args.command:
        case "check":
            return check.main(args)
        case _:
            raise AssertionError(args.command)


if __name__ == "__main__":
    sys.exit(main())
