"""`python -m chaos teeth`: show that each planted product bug is caught from outside.

Each bug has a workload and faults that should show it within a bounded time. A control run without
a bug must find nothing. The given command, which starts a node, plants the bugs: no bug is part of
this program.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from chaos.checkers.verdict import Verdict
from chaos.commands.commit import commit, commit_seed
from chaos.runs.provocations import (
    BUDGET_S,
    BUG,
    NO_BUG,
    PROVOCATIONS,
    ROUND_S,
    Caught,
    Provocation,
    control_run,
    provoke,
)

QUICK: Final = 2
"""Number of bugs in a quick run."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the subcommand."""
    parser.add_argument(
        "--node-command",
        required=True,
        metavar="COMMAND",
        help=f"starts a node that carries the bug {BUG}, or none where that is {NO_BUG!r}:"
        f" 'python -m MODULE {BUG}'",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=[p.bug for p in PROVOCATIONS],
        help="this bug; may be repeated",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="two of them, other ones each commit, and no control run",
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=BUDGET_S,
        help="seconds of load per bug (default: %(default)g)",
    )
    parser.add_argument("--seed", type=int, help="default: derived from the commit")
    parser.add_argument("--keep", type=Path, help="keep the runs in this directory")


def main(args: argparse.Namespace) -> int:
    """Run the bugs and print the table.

    Return 0 if every bug was caught and the control run is clean, 1 if not, 2 if the command that
    starts a node has no place for the bug's name.
    """
    if BUG not in args.node_command:
        print(f"error: --node-command must say where the bug's name goes: {BUG}", file=sys.stderr)
        return 2
    seed = args.seed if args.seed is not None else commit_seed()
    chosen = [p for p in PROVOCATIONS if args.only is None or p.bug in args.only]
    if args.quick:
        chosen = [chosen[(seed * QUICK + n) % len(chosen)] for n in range(min(QUICK, len(chosen)))]
    budget = f"each bug has {args.budget:g} s of load, judged every {ROUND_S:g} s"
    print(f"seed {seed}, commit {commit() or '?'}; {budget}")
    with tempfile.TemporaryDirectory(prefix="acordo-planted-") as folder:
        return asyncio.run(_all(args, chosen, seed, args.keep or Path(folder)))


async def _all(
    args: argparse.Namespace, chosen: Sequence[Provocation], seed: int, folder: Path
) -> int:
    command = shlex.split(args.node_command)
    clean = True
    if not args.quick and args.only is None:
        clean = await _control(command, seed, folder)
    print(_row("bug", "workload", "nemesis", "caught after", "by"), flush=True)
    caught = left_out = 0
    for provocation in chosen:
        found = await provoke(provocation, command, seed, folder, args.budget)
        caught += found.after_s is not None
        left_out += bool(found.left_out)
        print(_row_of(found), flush=True)
    tried = len(chosen) - left_out
    print(f"{caught} of {tried} caught" + (f", {left_out} left out" if left_out else ""))
    return 0 if caught == tried and clean else 1


async def _control(command: Sequence[str], seed: int, folder: Path) -> bool:
    result = await control_run(command, seed, folder)
    clean = result.verdict is Verdict.OK
    operations = 0 if result.run is None else len(result.run.history.operations)
    worth = "clean" if clean else "NOT CLEAN"
    print(f"control run without a bug: {operations} operations, {worth}")
    for judged in (*result.judgements, *result.resolved):
        for finding in judged.findings[:3]:
            print(f"  {judged.checker}: {finding.anomaly}: {finding.message}")
    return clean


def _row_of(found: Caught) -> str:
    provocation = found.provocation
    faults = ", ".join(provocation.nemeses) or "none"
    by = ", ".join(found.by[:3])
    if found.after_s is not None:
        return _row(provocation.bug, provocation.workload, faults, f"{found.after_s:.1f} s", by)
    if found.left_out:
        return _row(provocation.bug, provocation.workload, faults, "LEFT OUT", found.left_out[:90])
    if found.weak:
        by += f"  ({found.weak[0][:90]})"
    return _row(provocation.bug, provocation.workload, faults, "NOT CAUGHT", by)


def _row(bug: str, workload: str, faults: str, after: str, by: str) -> str:
    return f"{bug:<34} {workload:<9} {faults:<46} {after:<13} {by}"
