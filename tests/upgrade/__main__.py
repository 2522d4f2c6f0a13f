"""Upgrade a cluster of the released version under load, and back: `python -m tests.upgrade
[--kinds replicated,shared] [--short]`.

The exit code is 1 if a request through the balancer failed, a checker found an anomaly, members
ended with other contents, a version served where it cannot, or the released tree cannot be had.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import aiohttp

from acordo import Client
from cluster.services.install import Missing, ensure
from cluster.services.postgres import PostgresServer
from tests.peers.local import behind_nginx
from tests.upgrade.load import SHOWN_MAX, Seen, loaded
from tests.upgrade.nodes import WITHIN_S, Node, Nodes
from tests.upgrade.versions import NoTree, Version, of_a_later_level, released, working

REQUESTS_LEAST: Final = 500
"""Fewer requests than that would show little."""
BETWEEN_S: Final = 1.0
"""How long the load goes on between two members."""
EX_CONFIG: Final = 78
KINDS: Final = ("replicated", "shared")


class Report:
    """What was found to be wrong."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def check(self, held: bool, fault: str) -> None:
        """Note a fault unless it held."""
        if not held:
            self.faults.append(fault)
            print(f"  FAULT: {fault}", flush=True)


async def listed(url: str, wanted: int) -> None:
    """Wait until the balancer sends requests to that many nodes. Raises TimeoutError."""
    async with asyncio.timeout(WITHIN_S), aiohttp.ClientSession() as http:
        while True:
            async with http.get(f"{url}/balancer") as answer:
                if len((await answer.text()).split()) == wanted:
                    return
            await asyncio.sleep(0.1)


async def roll(
    kind: str, old: Version, new: Version, folder: Path, report: Report, *, short: bool
) -> None:
    """Upgrade member by member under load, and back as far as the feature levels allow."""
    with ExitStack() as stack:
        store = "replicated"
        if kind == "shared":
            server = PostgresServer()
            stack.callback(server.__exit__)
            store = server.start().url
        async with Nodes(folder / "nodes", store=store) as nodes:
            await nodes.start(old)
            url = stack.enter_context(behind_nginx(nodes.urls))
            await listed(url, len(nodes.each))

            async def change(node: Node, version: Version) -> None:
                began = time.monotonic()
                await nodes.change(node, version)
                await listed(url, len(nodes.each))
                print(f"  {node.name} → {version.name}: {time.monotonic() - began:.1f} s")
                await asyncio.sleep(BETWEEN_S)

            def is_old(name: str) -> bool:
                return nodes.each[name].version is old if name in nodes.each else False

            async with loaded(
                [url],
                nodes.urls,
                folder / "run",
                once=True,
                own_stores=kind == "replicated",
                is_old=is_old,
            ) as seen:
                await asyncio.sleep(BETWEEN_S)
                for number, node in enumerate(await nodes.in_order()):
                    await change(node, new)
                    if number == 0 or (number == 1 and not short):
                        await change(node, old)  # a mixed cluster, in the other direction
                        await change(node, new)
                if old.level == new.level or kind == "shared":
                    for node in await nodes.in_order():
                        await change(node, old)
                        if short:
                            break
            _judge(kind, seen, report)
            for node in nodes.each.values():
                said = [line for line in _severe(node) if line]
                report.check(not said, f"{node.name} logged: {said[:3]}")


def _severe(node: Node) -> list[str]:
    """Return lines of a node's log that an operator would have to look at."""
    lines = node.log.read_text(errors="replace").splitlines()
    return [
        line
        for line in lines
        if any(mark in line for mark in ('"level":"error"', '"level":"critical"', "Traceback"))
    ]


def _judge(kind: str, seen: Seen, report: Report) -> None:
    print(
        f"  {seen.requests} requests, {len(seen.failed)} failed; judged {seen.judged}; "
        f"{seen.copies} copies of {seen.rows} rows",
        flush=True,
    )
    if seen.old_refusals:
        print(f"  {seen.old_refusals} reads refused by the earlier version as the leader changed")
    report.check(seen.requests >= REQUESTS_LEAST, f"only {seen.requests} requests were sent")
    report.check(not seen.failed, f"requests failed: {seen.failed[:SHOWN_MAX]}")
    report.check(not seen.anomalies, f"anomalies: {seen.anomalies[:SHOWN_MAX]}")
    report.check(len(seen.nodes) == 3, f"only these answered: {seen.nodes}")
    if kind == "replicated":
        report.check(seen.copies == 3 and seen.rows > 0, "not all members' copies were compared")


async def gap(old: Version, new: Version, folder: Path, report: Report) -> None:
    """Show that a version cannot become a member where a later feature level is in force, and that
    what it met stays as it was: once the later version is back, everything is there.
    """
    later = of_a_later_level(folder)
    async with Nodes(folder / "nodes") as nodes, Client(nodes.urls, timeout_s=20) as client:
        await nodes.start(later)
        await client.put("kept", "1")
        await _in_force(client, later.level)
        node = (await nodes.in_order())[0]
        for version in (new, old):
            await node.stop()
            before = node.contents()
            await node.start(version)
            code = await node.ended()
            report.check(
                code == EX_CONFIG, f"{version.name} ended with code {code} at a later feature level"
            )
            report.check(
                "feature level" in node.last_words(), f"{version.name} said: {node.last_words()}"
            )
            changed = {name for name, was in before.items() if node.contents().get(name) != was}
            print(f"  {version.name} is refused: {node.last_words()}; changed: {sorted(changed)}")
            await client.put("kept", version.name)
            await node.start(later)
            await nodes.ready(node)
        async with Client(node.url, timeout_s=20) as own:
            found = (await own.read("kept")).value
        report.check(found == old.name.encode(), f"the member reads {found!r} afterwards")


async def _in_force(client: Client, level: int) -> None:
    async with asyncio.timeout(WITHIN_S):
        while (await client.cluster()).raw.get("feature_level") != level:
            await asyncio.sleep(0.2)


def run(name: str, story: Callable[[Path], None]) -> None:
    """Do one part in a folder of its own, and say how long it took."""
    print(f"{name}:", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="acordo-upgrade-") as made:
        story(Path(made))
    print(f"  {time.monotonic() - began:.0f} s", flush=True)


def main(argv: list[str]) -> int:
    """Run what the arguments say; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.upgrade")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args(argv)
    kinds = options.kinds.split(",")
    report = Report()
    with tempfile.TemporaryDirectory(prefix="acordo-upgrade-tree-") as made:
        try:
            ensure("nginx", *(["postgresql"] if "shared" in kinds else []))
            old, new = released(Path(made)), working()
        except (Missing, NoTree) as why:
            print(f"error: the upgrade cannot be shown: {why}", file=sys.stderr)
            return 1
        print(f"{old.name} speaks level {old.level}, {new.name} {new.level}")
        for kind in kinds:
            run(
                f"rolling, {kind} store",
                lambda folder, kind=kind: asyncio.run(  # type: ignore[misc]  # a default binds it
                    roll(kind, old, new, folder, report, short=options.short)
                ),
            )
        run("across a gap", lambda folder: asyncio.run(gap(old, new, folder, report)))
    print("\n".join(["", *(f"fault: {fault}" for fault in report.faults)]) or "")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
