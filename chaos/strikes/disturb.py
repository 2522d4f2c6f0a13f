"""Inflict one fault on a stack under load, heal it, and measure what its clients noticed."""

from __future__ import annotations

import asyncio
from typing import Final

from chaos.nemeses.fault_gauge import WINDOWS
from chaos.strikes.catalogue import Strike
from chaos.strikes.load import ATTEMPT_S, StackLoad
from chaos.strikes.outcome import StrikeOutcome, gap, next_after, resumed
from chaos.targets.docker_stack import DockerTarget
from chaos.waiting import until

PAUSE_S: Final = 5.0
RECOVER_WITHIN_S: Final = 120.0


async def disturb(
    target: DockerTarget, strike: Strike, name: str, pause_s: float = PAUSE_S
) -> StrikeOutcome:
    """Inflict the fault under load, heal in any case, and return the outcome.

    The hit containers stay away for at least `strike.away_s`. Raises TimeoutError if the stack does
    not recover, NoStack, or AcordoError.
    """
    loop = asyncio.get_running_loop()
    load = StackLoad(target.balancer_url or target.urls[0])
    stop = asyncio.Event()
    running = asyncio.create_task(load.run(stop))
    try:
        await load.warmed_up()
        whom = await strike.choose(target)
        try:
            with WINDOWS.window(name, whom):
                struck = await target.strike(strike.how, whom)
                landed = loop.time()
                await asyncio.sleep(strike.away_s(pause_s))
        finally:
            await target.heal_each(whom)
        back = loop.time()
        await _recovered(target, load, back, name)
        ended = loop.time()
    finally:
        stop.set()
        await asyncio.wait([running], timeout=ATTEMPT_S * 4)
        running.cancel()
    return StrikeOutcome(
        name,
        whom=", ".join(whom),
        acked=len(load.acked),
        before=sum(end <= struck for _, end in load.writes_at),
        lost=await load.lost(),
        writes_gap_s=gap(load.writes_at, struck, ended),
        reads_gap_s=gap(load.reads_at, struck, ended),
        writes_after_s=resumed(load.writes_at, struck, landed),
        after_healing_s=next_after(load.writes_at, back) - back,
        failed=load.failed,
        limits=strike.limits,
    )


async def _recovered(target: DockerTarget, load: StackLoad, back: float, name: str) -> None:
    """Wait until clients can write and read again and all nodes are ready. Raises TimeoutError."""

    async def works_again() -> bool:
        writes = any(began > back for began, _ in load.writes_at)
        return writes and any(began > back for began, _ in load.reads_at)

    if not await until(works_again, RECOVER_WITHIN_S) or not await target.healthy(RECOVER_WITHIN_S):
        raise TimeoutError(
            f"{name}: not healthy {RECOVER_WITHIN_S:g} s after everything ran again: {load.failed}"
        )
