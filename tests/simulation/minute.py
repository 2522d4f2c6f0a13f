"""Measure what a simulated minute costs: `python -m tests.simulation.minute` (make bench-raft).

It asserts nothing: figures depend on the machine.
"""

from __future__ import annotations

import time

from tests.simulation.plans import Plan
from tests.simulation.run import run


def cpu_s_per_minute() -> float:
    """Return the CPU seconds of a simulated minute of three members at rest, store and clients
    included.
    """
    plan = Plan(
        seed=1,
        nodes=3,
        fsync="always",
        ghosts=False,
        faults=("cache",),
        clients=0,
        chaos_s=60.0,
        compact_entries=100_000,
        window_max=10_000,
        recent_max=10_000,
        group_max=512,
        restores=False,
    )
    began = time.process_time()
    result = run(1, plan=plan)
    return (time.process_time() - began) * 60 / result.simulated_s


if __name__ == "__main__":
    what = "a simulated minute of three idle members (CPU)"
    print(f"{what:52} {f'{cpu_s_per_minute():.2f} s':34} ≤ 0.5 s")
