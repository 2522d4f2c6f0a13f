"""`python -m chaos run`: load a cluster, inject faults, and judge what its clients saw.

Everything is kept in out/chaos/<run>.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import shlex
import signal
import sys
from pathlib import Path

from chaos.commands.commit import OUT, commit, commit_seed
from chaos.nemeses.catalogue import FAMILIES, NEMESES, grouped
from chaos.report import page as report
from chaos.runs.conduct import run
from chaos.runs.interrupt import Interrupt
from chaos.runs.opening import TargetUnfit
from chaos.runs.plan import Plan
from chaos.runs.result import RunResult
from chaos.targets.services import KINDS
from chaos.workloads.catalogue import WORKLOADS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the subcommand."""
    _add_kinds(parser)
    _add_amounts(parser)
    _add_target(parser)


def _add_kinds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workload",
        default="register,append,watch",
        help=f"all, or some of {','.join(WORKLOADS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--nemesis",
        default="",
        help=(
            f"none (default), all, families ({','.join(FAMILIES)}) and single ones "
            f"({','.join(NEMESES)})"
        ),
    )
    parser.add_argument(
        "--at-once",
        action="store_true",
        help="faults of processes, links and servers at the same time",
    )


def _add_amounts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--time",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds of load (default: %(default)g)",
    )
    parser.add_argument("--seed", type=int, help="default: derived from the commit")
    parser.add_argument(
        "--clients", type=int, default=6, help="clients per workload (default: %(default)s)"
    )
    parser.add_argument(
        "--rate",
        type=float,
        help="operations per second and workload, open loop (default: closed loop)",
    )
    parser.add_argument(
        "--pause",
        type=float,
        default=0.01,
        metavar="S",
        help="mean pause of a client (%(default)g)",
    )
    parser.add_argument(
        "--hot",
        type=int,
        default=0,
        metavar="KEYS",
        help="register: so few keys, read back at once",
    )
    parser.add_argument(
        "--operations",
        type=int,
        default=0,
        help="go on until so many took effect (at most 3 times --time)",
    )
    parser.add_argument(
        "--faults", type=int, default=0, help="go on until so many bit (at most 3 times --time)"
    )


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--target",
        default="local",
        help="local, docker, or the URLs of all nodes: http://h1:8001,…",
    )
    parser.add_argument(
        "--nodes", type=int, default=3, help="nodes of a local cluster (default: %(default)s)"
    )
    parser.add_argument(
        "--servers",
        default="",
        help="local target: private servers as back ends: postgres,redis,rabbitmq",
    )
    parser.add_argument(
        "--store",
        default="",
        help="local target: the store of its nodes, as ACORDO_STORE has it (default: the nodes' "
        "own default, or the private postgres)",
    )
    parser.add_argument(
        "--node-command",
        metavar="COMMAND",
        help="local target: starts a node (default: python -m node)",
    )
    parser.add_argument(
        "--broadcast",
        default="",
        metavar="AMQP_URL",
        help="the target's broker: what it tells is recorded and judged",
    )
    parser.add_argument(
        "--out", type=Path, default=OUT, help="where runs are kept (default: out/chaos)"
    )


def main(args: argparse.Namespace) -> int:
    """Run and report. Return 0: no anomaly, 1: anomaly, 2: weak, or the target or an argument is
    unfit.

    For an error the caller returns CRASHED, 3.
    """
    try:
        plan = _plan(args)
    except ValueError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    try:
        result = asyncio.run(_run(plan))
    except TargetUnfit as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    print(f"\n{report.summary(result)}\n")
    page = report.write(result)
    print(
        f"report: {_short(page)}\nagain:  {plan.command}\ncheck:  python -m chaos check "
        f"{_short(plan.folder)}"
    )
    return result.code


async def _run(plan: Plan) -> RunResult:
    interrupt = Interrupt()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt.signalled)
    return await run(plan, interrupt=interrupt)


def _plan(args: argparse.Namespace) -> Plan:
    """Return the plan that the arguments describe. Raises ValueError."""
    _check_amounts(args)
    seed = args.seed if args.seed is not None else commit_seed()
    began = datetime.datetime.now(datetime.UTC)
    return Plan(
        folder=args.out / f"{began:%Y%m%dT%H%M%S}-seed{seed}",
        workloads=_workloads(args.workload),
        families=_families(args.nemesis),
        seconds=args.time,
        seed=seed,
        clients=args.clients,
        rate=args.rate,
        pause_s=args.pause,
        hot=args.hot,
        operations=args.operations,
        faults=args.faults,
        nodes=args.nodes,
        servers=_servers(args.servers),
        store=args.store,
        node_command=tuple(shlex.split(args.node_command)) if args.node_command else None,
        at_once=args.at_once,
        broadcast=args.broadcast,
        target=args.target,
        began=began.isoformat(timespec="seconds"),
        commit=commit(),
    )


def _check_amounts(args: argparse.Namespace) -> None:
    if (
        args.time <= 0
        or args.clients < 1
        or not 1 <= args.nodes <= 9
        or (args.rate is not None and args.rate <= 0)
    ):
        raise ValueError("--time, --clients and --rate must be above 0, --nodes from 1 to 9")
    if min(args.hot, args.operations, args.faults) < 0:
        raise ValueError("--hot, --operations and --faults must not be below 0")


def _workloads(given: str) -> tuple[str, ...]:
    names = tuple(WORKLOADS) if given == "all" else _list(given)
    for name in names:
        if name not in WORKLOADS:
            raise ValueError(f"no workload {name!r}; known are {', '.join(WORKLOADS)}")
    if not names:
        raise ValueError("no workload given")
    return names


def _families(given: str) -> dict[str, tuple[str, ...]]:
    try:
        families = grouped("" if given == "none" else given)
    except KeyError as exc:
        known = ", ".join([*FAMILIES, *NEMESES])
        raise ValueError(f"no nemesis {exc.args[0]!r}; known are {known}, all and none") from exc
    return {name: tuple(members) for name, members in families.items()}


def _servers(given: str) -> tuple[str, ...]:
    servers = _list(given)
    if unknown := set(servers) - set(KINDS):
        raise ValueError(f"no server {min(unknown)!r}; known are {', '.join(KINDS)}")
    return servers


def _list(given: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in given.split(",") if name.strip())


def _short(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
