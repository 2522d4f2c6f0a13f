"""Workloads and nemeses on a real cluster: what is recorded is whole, the faults bite, every
checker is content.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from chaos.checkers import judge as recheck
from chaos.checkers.verdict import Verdict
from chaos.nemeses.base import Inflicted, inflict
from chaos.nemeses.catalogue import NEMESES
from chaos.records import collect
from chaos.records.copies import collect_copies
from chaos.records.recorder import Recorder
from chaos.records.saved import load_history, open_run
from chaos.targets.local import LocalTarget
from chaos.workloads.base import LoadSettings, Workload
from chaos.workloads.catalogue import WORKLOADS
from cluster.ports import free_base_port
from cluster.settings.runner import RunnerSettings
from tests.e2e.conftest import until

SEED: Final = int(os.environ.get("ACORDO_TEST_SEED", "7"))
"""Replay another one with ACORDO_TEST_SEED=…"""
FAULTS: Final = (
    "kill-leader", "isolate-leader", "pause-follower", "pause-leader", "clock-jump-most",
    "slow-one", "reset-clients",
)  # fmt: skip
FAULT_S: Final = 1.5
WARM: Final = 200
"""Operations before the first fault and after the last."""


async def test_every_workload_under_faults_is_judged_legal(tmp_path: Path) -> None:
    settings = RunnerSettings(
        nodes=3, base_port=free_base_port(3, 17500), data=tmp_path / "data", etcd=True
    )
    target = LocalTarget(settings, Random(SEED), clocks=True)
    async with target, AsyncExitStack() as stack:
        assert await target.healthy()
        kinds = [WORKLOADS[name] for name in WORKLOADS]
        made: list[Workload] = []
        header = {
            "bank": {"accounts": [f"a{n}" for n in range(8)], "total": 100},
            "ttl": {"sweep_interval_s": 1.0},
        }
        with Recorder(tmp_path / "history.jsonl", seed=SEED, settings=header) as recorder:
            for kind in kinds:
                made.append(
                    kind(
                        LoadSettings(target.urls, SEED, f"chaos/{SEED}/", clients=4, pause_s=0.02),
                        recorder,
                    )
                )
            inflicted = await _disturb(target, made, recorder, stack)
            assert [w.complaints for w in made] == [[]] * len(made)
        await _collect(target, tmp_path)
    assert {i.nemesis: i.error for i in inflicted if i.proof is None} == {}
    run = open_run(tmp_path)
    ops = run.history.operations
    assert {o.workload for o in ops if o.outcome == "ok"} == set(WORKLOADS)
    assert {o.node for o in ops if o.node} == set(target.nodes), "every node answered"
    for resolved in (False, True):
        judged = recheck.judge(run, resolved=resolved)
        assert {j.checker for j in judged} == set(recheck.MODELS)
        assert {j.checker: j.findings[:2] for j in judged if j.verdict is not Verdict.OK} == {}


async def _disturb(
    target: LocalTarget, made: list[Workload], recorder: Recorder, stack: AsyncExitStack
) -> list[Inflicted]:
    stop, quiet = asyncio.Event(), asyncio.Event()
    inflicted = []
    for workload in made:
        await workload.open(stack)
        await workload.set_up(workload.workers[0])
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(collect.observe(target.direct_urls, recorder, quiet))
        loads = [tasks.create_task(w.run(stop)) for w in made]
        await until(lambda: recorder.count("ok") >= WARM, "the load began")
        for n, name in enumerate(FAULTS):
            inflicted.append(
                await inflict(NEMESES[name](target, Random(f"{SEED}/{n}")), recorder, FAULT_S)
            )
            assert await target.healthy()
        after = recorder.count("ok")
        await until(lambda: recorder.count("ok") >= after + WARM, "the load went on")
        stop.set()
        await asyncio.gather(*loads)
        for workload in made:
            await workload.finish(workload.workers)
        quiet.set()
    return inflicted


async def _collect(target: LocalTarget, folder: Path) -> None:
    """Look up what is unknown in a second history of its own, and keep the ledger and the final
    reads.
    """
    history = load_history(folder / "history.jsonl")
    written = (o.key for o in history.operations if o.op in {"put", "cas", "delete"} and o.key)
    found = await collect.evidence(target.direct_urls, list(dict.fromkeys(written)))
    found = await collect.write_settled_ledger(target.direct_urls, folder / "ledger.jsonl", found)
    newest = max(m.settled for m in found.members)
    copies = await collect_copies(target.nodes, target.direct_urls, newest)
    found = msgspec.structs.replace(found, copies=copies)
    (folder / "final.json").write_bytes(msgspec.json.encode(found))
