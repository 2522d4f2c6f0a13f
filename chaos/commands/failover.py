"""`python -m chaos failover`: kill the leader again and again; how long does nobody get a write
acknowledged?

It keeps what it measured in out/chaos/failover-<time>: failover.json, and a page with a bar per
kill.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from acordo import AcordoError, Client
from chaos.commands.commit import OUT, commit
from chaos.report.outages import quantile
from chaos.targets.local import LocalTarget
from chaos.waiting import until
from cluster.ports import free_base_port
from cluster.settings.runner import RunnerSettings

WITHIN_S: Final = 30.0
STEADY_S: Final = 1.0
"""Quiet time between whole again and the next kill."""
LONGEST_S: Final = 1.2
"""A longer gap fails the measurement."""
BAR_PX: Final = 600


@dataclass(frozen=True)
class Gap:
    """One kill: who led, who took over, how long no write was acknowledged."""

    killed: str
    then: str | None
    gap_s: float
    rate: float
    """Writes acknowledged per second in the second before it: a gap is known to about its
    inverse.
    """


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

    Returns 0, 1 when a gap was too long, 2 when a kill did not lead to a new leader.
    """
    began = datetime.datetime.now(datetime.UTC)
    gaps = asyncio.run(_measure(args))
    folder = args.out / f"failover-{began:%Y%m%dT%H%M%S}"
    told = summary(gaps)
    command = f"python -m chaos failover --kills {args.kills} --nodes {args.nodes} --writers {args.writers}"
    write(folder, gaps, f"{command} --seed {args.seed}", began.isoformat(timespec="seconds"))
    print(f"{told}\nreport: {folder / 'failover.html'}")
    if len(gaps) < args.kills:
        print(f"only {len(gaps)} of {args.kills} kills were measured", file=sys.stderr)
        return 2
    return 0 if max(g.gap_s for g in gaps) <= LONGEST_S else 1


def summary(gaps: list[Gap]) -> str:
    """Return the figures in a line."""
    if not gaps:
        return "no kill was measured"
    values = [g.gap_s for g in gaps]
    return (
        f"{len(gaps)} leader kills: longest gap between acknowledged writes p50 {quantile(values, 0.5):.2f} s, "
        f"p90 {quantile(values, 0.9):.2f} s, longest {max(values):.2f} s (limit {LONGEST_S:g} s)"
    )


def write(folder: Path, gaps: list[Gap], command: str, began: str) -> None:
    """Write failover.json and the page."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"command": command, "began": began, "commit": commit(), "system": platform.platform()}
    document = {**facts, "processors": os.cpu_count(), "summary": summary(gaps), "kills": gaps}
    (folder / "failover.json").write_bytes(
        msgspec.json.format(msgspec.json.encode(document), indent=2)
    )
    most = max([LONGEST_S, *(g.gap_s for g in gaps)])
    rows = "".join(
        f"<tr><td>{n}</td><td>{escape(g.killed)} → {escape(g.then or '?')}</td>"
        f"<td>{g.gap_s:.2f} s</td><td>{g.rate:.0f}/s</td>"
        f'<td><div class="{"bad" if g.gap_s > LONGEST_S else "bar"}" style="width:{g.gap_s / most * BAR_PX:.0f}px">'
        "</div></td></tr>"
        for n, g in enumerate(gaps, 1)
    )
    (folder / "failover.html").write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Acordo fail-over</title><style>'
        "body{font:14px/1.5 system-ui,sans-serif;max-width:1000px;margin:32px auto;padding:0 16px}"
        "td,th{padding:2px 16px 2px 0;text-align:left;font-variant-numeric:tabular-nums}"
        ".bar,.bad{height:12px;background:#2f7d4f;border-radius:2px}.bad{background:#b42318}</style></head><body>"
        f"<h1>Fail-over</h1><p><b>{escape(summary(gaps))}</b></p><p>"
        + "<br>".join(f"{escape(k)}: <code>{escape(v)}</code>" for k, v in facts.items())
        + "</p><table><tr><th>kill</th><th>leader</th><th>gap</th><th>writes before</th><th></th></tr>"
        f"{rows}</table></body></html>\n",
        encoding="utf-8",
    )


async def _measure(args: argparse.Namespace) -> list[Gap]:
    acknowledged: list[float] = []
    stop = asyncio.Event()
    gaps: list[Gap] = []
    with tempfile.TemporaryDirectory(prefix="acordo-failover-") as folder:
        settings = RunnerSettings(
            nodes=args.nodes,
            base_port=free_base_port(args.nodes, 24000 + os.getpid() % 300 * 10),
            data=Path(folder) / "data",
        )
        async with LocalTarget(settings, Random(args.seed)) as target, asyncio.TaskGroup() as tasks:
            if not await target.healthy():
                return []
            for n in range(args.writers):
                tasks.create_task(_write(target.direct_urls, n, acknowledged, stop))
            for kill in range(args.kills):
                await asyncio.sleep(STEADY_S)
                leader = await target.leader()
                if leader is None:
                    break
                at = time.monotonic()
                await target.kill(leader)

                async def another(old: str = leader, since: float = at) -> bool:
                    now = await target.leader()
                    return now not in (None, old) and acknowledged[-1:] > [since + 0.2]

                if not await until(another, WITHIN_S):
                    break
                await asyncio.sleep(STEADY_S)
                # Now ends a gap as well: writes may have stopped once more.
                around = [*(t for t in acknowledged if t > at - 1.0), time.monotonic()]
                rate = float(sum(t <= at for t in around))
                gaps.append(
                    Gap(
                        leader, await target.leader(), max(b - a for a, b in pairwise(around)), rate
                    )
                )
                print(
                    f"kill {kill + 1:>3}: {leader} → {gaps[-1].then}  {gaps[-1].gap_s:.2f} s",
                    flush=True,
                )
                target.start(leader)
                await target.healthy()
                acknowledged[:-1000] = []
            stop.set()
    return gaps


async def _write(
    urls: tuple[str, ...], n: int, acknowledged: list[float], stop: asyncio.Event
) -> None:
    turned = urls[n % len(urls) :] + urls[: n % len(urls)]
    async with Client(turned, timeout_s=10.0, attempt_timeout_s=2.0) as client:
        count = 0
        while not stop.is_set():
            count += 1
            try:
                await client.put(f"failover/{n}/{count % 50}", str(count))
                acknowledged.append(time.monotonic())
            except AcordoError:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.005)
