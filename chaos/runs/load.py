"""Load a cluster while it is disturbed, let clients finish after healing, and settle unknown
outcomes.

Everything that happens is written to the run's history file as it happens.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

from acordo import AcordoError, Client
from chaos.records import collect
from chaos.records.recorder import Recorder
from chaos.records.saved import HISTORY_FILE
from chaos.records.subscriber import Subscriber, SubscriberFailed
from chaos.runs.disturbing import disturb
from chaos.runs.interrupt import Interrupt
from chaos.runs.opening import entrances
from chaos.runs.plan import HEALTHY_WITHIN_S, Plan
from chaos.runs.progress import say, show_progress
from chaos.runs.result import RunResult
from chaos.runs.weakness import thin_traffic
from chaos.targets.base import Target
from chaos.targets.local import LocalTarget
from chaos.workloads.base import LoadSettings, Workload, WorkloadFailed
from chaos.workloads.catalogue import WORKLOADS

FINISH_WITHIN_S: Final = 180.0


async def load_and_disturb(target: Target, result: RunResult, interrupt: Interrupt) -> bool:
    """Load, disturb and heal the cluster and let clients finish; return whether there was load."""
    plan = result.plan
    stamp = f"{time.time_ns():x}"
    prefix = f"chaos/{plan.seed}/{stamp}/"
    load = {name: _load_settings(plan, target, prefix) for name in plan.workloads}
    header: dict[str, Any] = {"began": plan.began, "command": plan.command}
    for name in plan.workloads:
        # Each workload adds what its checker must know to the header, which is written before any
        # record.
        header |= WORKLOADS[name](load[name], Recorder(plan.folder / "none")).settings()
    with Recorder(plan.folder / HISTORY_FILE, seed=plan.seed, settings=header) as recorder:
        workloads = [WORKLOADS[name](load[name], recorder) for name in plan.workloads]
        stop, quiet = asyncio.Event(), asyncio.Event()
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            stack.callback(quiet.set)
            stack.callback(stop.set)
            tasks.create_task(collect.observe(target.looking_urls, recorder, quiet))
            try:
                queue = f"acordo.chaos.{stamp}"
                subscriber = await _subscribed(plan, target, stack, recorder, queue)
                for workload in workloads:
                    await workload.open(stack)
                    await workload.set_up(workload.workers[0])
            except (WorkloadFailed, SubscriberFailed, AcordoError) as exc:
                result.weak.append(f"a workload could not be set up: {exc}")
                return False
            loads = [tasks.create_task(w.run(stop)) for w in workloads]
            progress = tasks.create_task(show_progress(recorder, result))
            await disturb(target, recorder, result, interrupt)
            stop.set()
            progress.cancel()
            say(plan, "load over, healing and collecting …")
            result.weak += await _not_healthy(target)
            try:
                async with asyncio.timeout(max(FINISH_WITHIN_S, plan.seconds / 4)):
                    await asyncio.gather(*loads)
                    end = f"{prefix}end"
                    result.weak += await _finish(target, workloads, recorder, subscriber, end)
            except TimeoutError:
                result.weak.append("the last operations and look-ups were not over in time")
                for task in loads:
                    task.cancel()
            quiet.set()
        result.weak += thin_traffic(plan, target, recorder, workloads)
        result.interrupted = interrupt.asked.is_set()
        if result.interrupted:
            result.weak.append("the run was interrupted")
    return True


def _load_settings(plan: Plan, target: Target, prefix: str) -> LoadSettings:
    return LoadSettings(
        entrances(target),
        plan.seed,
        prefix,
        clients=plan.clients,
        rate=plan.rate,
        pause_s=plan.pause_s,
        hot=plan.hot,
    )


async def _subscribed(
    plan: Plan, target: Target, stack: AsyncExitStack, recorder: Recorder, queue: str
) -> Subscriber | None:
    """Subscribe to the target's broker, if there is a known one. Raises SubscriberFailed."""
    services = target.services if isinstance(target, LocalTarget) else None
    url = plan.broadcast or (services.broadcast if services is not None else "")
    if not url:
        return None
    async with Client(target.looking_urls) as client:
        names = (await client.cluster()).raw.get("channels")
    exchange = names["changes"] if isinstance(names, dict) else "acordo.changes"
    return await stack.enter_async_context(Subscriber(url, exchange, queue, recorder))


async def _not_healthy(target: Target) -> list[str]:
    if await target.healthy(HEALTHY_WITHIN_S):
        return []
    return [f"the cluster was not healthy within {HEALTHY_WITHIN_S:g} s after the last fault"]


async def _finish(
    target: Target,
    workloads: Sequence[Workload],
    recorder: Recorder,
    subscriber: Subscriber | None,
    end_key: str,
) -> list[str]:
    """Let workloads make their final reads, and look up unknown writes; return what makes the run
    weak.
    """
    weak = []
    for workload in workloads:
        await workload.finish(workload.workers)
    async with Client(list(target.looking_urls)) as client:
        left = await collect.look_up(client, recorder.unknown, recorder)
        if subscriber is not None and not await subscriber.reach_end(client, end_key):
            weak.append("the broker's subscriber was not told of the last write in time")
    if left:
        weak.append(f"{left} unknown writes could not be looked up")
    return weak
