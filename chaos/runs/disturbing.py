"""Inflict the planned faults on a cluster under load, one after another or in parallel lanes."""

from __future__ import annotations

import asyncio
import contextlib
from random import Random
from typing import Final

from chaos.nemeses.base import inflict
from chaos.records.recorder import Recorder
from chaos.runs.interrupt import Interrupt
from chaos.runs.plan import HEALTHY_WITHIN_S, LONGER, Plan
from chaos.runs.result import RunResult
from chaos.runs.schedule import Step
from chaos.runs.weakness import too_little_traffic
from chaos.targets.base import Target
from chaos.waiting import wait_for_stop

LOOK_EVERY_S: Final = 1.0
"""Interval at which the end of the run is checked once all faults are inflicted."""
HOLD_MIN_S: Final = 0.5
"""Shortest duration of a fault that begins close to the end of the run: it must have time to take
effect.
"""


async def disturb(
    target: Target, recorder: Recorder, result: RunResult, interrupt: Interrupt
) -> None:
    """Inflict the steps until the time or the steps are over, or until Ctrl-C."""
    await _Disturbance(target, recorder, result).last(interrupt)


class _Disturbance:
    """The faults of one run, from the moment at which its load begins."""

    def __init__(self, target: Target, recorder: Recorder, result: RunResult) -> None:
        self._target, self._recorder, self._result = target, recorder, result
        self._plan = plan = result.plan
        self._loop = asyncio.get_running_loop()
        self._ends = self._loop.time() + plan.seconds
        self._latest = self._ends + (LONGER - 1) * plan.seconds
        self._asked = bool(plan.operations or plan.faults)
        """Whether a number of operations or faults was requested, so that the run may exceed its
        time.
        """

    async def last(self, interrupt: Interrupt) -> None:
        """Inflict all faults and wait for the end of the run."""
        faults = asyncio.create_task(self._all_lanes())
        interrupted = asyncio.create_task(interrupt.asked.wait())
        try:
            await asyncio.wait({faults, interrupted}, return_when=asyncio.FIRST_COMPLETED)
            while not interrupt.asked.is_set() and not self._over():
                left_s = max(self._ends - self._loop.time(), 0.05)
                await wait_for_stop(interrupt.asked, min(left_s, LOOK_EVERY_S))
        finally:
            interrupted.cancel()
            faults.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await faults

    def _over(self) -> bool:
        """Return whether the time is over, and everything requested is reached or can no longer be
        reached.
        """
        plan, recorder = self._plan, self._recorder
        bit = sum(f.proof is not None for f in self._result.inflicted)
        reached = recorder.count("ok") >= plan.operations and bit >= plan.faults
        enough = not self._asked or (reached and not too_little_traffic(plan, recorder))
        return self._loop.time() >= (self._ends if enough else self._latest)

    async def _all_lanes(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for lane in lanes_of(self._plan, self._result.schedule):
                tasks.create_task(self._lane(lane))

    async def _lane(self, steps: list[Step]) -> None:
        plan, loop, result = self._plan, self._loop, self._result
        # Only the time ends such a run, so no fault may begin or last beyond it.
        bounded = not (self._asked or plan.steps)
        for step in steps:
            late = bounded and loop.time() + step.gap_s >= self._ends
            if not plan.steps and (self._over() or late):
                return
            await asyncio.sleep(step.gap_s)
            nemesis = plan.nemeses[step.nemesis](self._target, Random(f"{plan.seed}/{step.number}"))
            hold_s = step.hold_s
            if bounded:
                hold_s = max(HOLD_MIN_S, min(hold_s, self._ends - loop.time()))
            result.inflicted.append(await inflict(nemesis, self._recorder, hold_s))
            if not plan.at_once and not await self._target.healthy(HEALTHY_WITHIN_S):
                within = f"within {HEALTHY_WITHIN_S:g} s"
                result.weak.append(f"not healthy {within} after {step.nemesis}")


def lanes_of(plan: Plan, steps: list[Step]) -> list[list[Step]]:
    """Divide the steps into lanes that run in parallel: one lane, or one for each set of abilities.

    Two faults of the same lane never overlap: killing a process that is frozen, for example, would
    prove nothing about either fault.
    """
    if not plan.at_once:
        return [steps]
    lanes: dict[tuple[str, ...], list[Step]] = {}
    for step in steps:
        lanes.setdefault(tuple(sorted(plan.nemeses[step.nemesis].needs)), []).append(step)
    return list(lanes.values())
