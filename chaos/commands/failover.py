"""`python -m chaos failover`: kill the leader repeatedly and measure how long no write is
acknowledged.

The results are kept in out/chaos/failover-<time>: failover.json, and a page with one bar per kill.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import sys
from pathlib import Path

from chaos.commands.commit import OUT, commit
from chaos.report.failover import LONGEST_S, summary, write
from chaos.runs.failover import Gap, measure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the subcommand."""
    parser.add_argument(
        "--kills", type=int, default=20, help="leaders to kill (default: %(default)s)"
    )
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument(
        "--writers",
        type=int,
        default=6,
        help="clients that write all the time (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, default=OUT, help="where reports are kept (default: out/chaos)"
    )


def main(args: argparse.Namespace) -> int:
    """Print a line per kill and the quantiles, and write the report.

    Return 0; 1 if a gap was too long; 2 if a kill did not lead to a new leader.
    """
    began = datetime.datetime.now(datetime.UTC)
    gaps = asyncio.run(
        measure(
            kills=args.kills,
            nodes=args.nodes,
            writers=args.writers,
            seed=args.seed,
            report=_print_gap,
        )
    )
    folder = args.out / f"failover-{began:%Y%m%dT%H%M%S}"
    command = (
        f"python -m chaos failover --kills {args.kills} --nodes {args.nodes}"
        f" --writers {args.writers} --seed {args.seed}"
    )
    write(folder, gaps, command, began.isoformat(timespec="seconds"), commit())
    print(f"{summary(gaps)}\nreport: {folder / 'failover.html'}")
    if len(gaps) < args.kills:
        print(f"only {len(gaps)} of {args.kills} kills were measured", file=sys.stderr)
        return 2
    return 0 if max(g.gap_s for g in gaps) <= LONGEST_S else 1


def _print_gap(kill: int, gap: Gap) -> None:
    print(f"kill {kill:>3}: {gap.killed} → {gap.then}  {gap.gap_s:.2f} s", flush=True)
