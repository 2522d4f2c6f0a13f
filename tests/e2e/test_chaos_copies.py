"""A real member whose own file was changed while it was down is found by comparing the members; and
members that lose their power, their file or their directory are equal in the end.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from random import Random

from acordo import Client
from chaos.checkers import copies as checker
from chaos.checkers.verdict import Verdict
from chaos.nemeses import base
from chaos.records import collect
from chaos.records.copies import collect_copies
from chaos.records.final_state import Evidence
from chaos.records.saved import load_ledger
from chaos.runs.conduct import run
from chaos.runs.plan import Plan
from chaos.runs.schedule import Step
from chaos.targets import memberdisk
from chaos.targets.local import LocalTarget
from cluster.ports import free_base_port
from cluster.settings.runner import RunnerSettings
from kv.model import value_hash

SEED = 20261130


def swap_value(file: Path, old: bytes, new: bytes) -> None:
    """Give every version that has one value another one, with a hash that goes with it."""
    connection = sqlite3.connect(file)
    with connection:
        done = connection.execute(
            "UPDATE versions SET value = ?, hash = ? WHERE value = ?", (new, value_hash(new), old)
        )
        assert done.rowcount == 1
    connection.close()


async def compared(target: LocalTarget, folder: Path) -> tuple[str, ...]:
    """Return what the comparison of all members finds."""
    assert await target.healthy()
    found = await collect.evidence(target.direct_urls, [])
    found = await collect.write_settled_ledger(target.direct_urls, folder / "ledger.jsonl", found)
    newest = max(m.settled for m in found.members)
    copies = await collect_copies(target.nodes, target.direct_urls, newest)
    evidence = Evidence(target.nodes, found.members, copies=copies)
    judged = checker.check(evidence, load_ledger(folder / "ledger.jsonl"))
    assert judged.figures["keys"] == 3 * len(target.nodes)
    return judged.anomalies


async def test_a_member_whose_file_was_changed_is_found(tmp_path: Path) -> None:
    settings = RunnerSettings(
        nodes=3, base_port=free_base_port(3, 17700), data=tmp_path / "data", store="replicated"
    )
    async with LocalTarget(settings, Random(SEED)) as target:
        assert await target.healthy()
        async with Client(list(target.urls)) as client:
            for key in ("a", "b", "c"):
                await client.put(key, f"value of {key}")
        assert await compared(target, tmp_path) == ()
        await target.stop("n2")
        swap_value(target.folder("n2") / "store.sqlite", b"value of b", b"another value")
        target.start("n2")
        assert await compared(target, tmp_path) == ("contents_differ",)


async def test_power_files_and_directories_are_lost_and_members_are_equal_again(
    tmp_path: Path,
) -> None:
    names = ["store-old", "store-deleted", "member-wiped"]
    if memberdisk.compiler_missing() is None:
        names = ["power-cut-all", "store-full", *names, "power-cut-leader"]
    plan = Plan(
        folder=tmp_path / "run",
        workloads=("register", "append"),
        families={},
        seconds=10,
        seed=SEED,
        clients=3,
        pause_s=0.03,
        quiet=True,
        store="replicated",
        steps=tuple(Step(n, name, 0.5, base.POLL_S) for n, name in enumerate(names, 1)),
    )
    result = await run(plan)
    assert result.weak == []
    assert result.verdict is Verdict.OK
    assert {f.nemesis for f in result.inflicted if f.proof is not None} == set(names)
    judged = {j.checker: j for j in result.judgements}
    assert judged["copies"].figures["members"] == 3
    assert judged["copies"].figures["rows"] > 30
