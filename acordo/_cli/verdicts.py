"""Sum up a measured load, and judge it by limits. It measures nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

RATE_SHARE = 0.9
"""Share of the wanted rate that has to be reached."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a load has to keep to."""

    rate: float
    """Writes a second that were wanted."""
    p99_ms: float


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a load. Latencies are in milliseconds, from the moment at which a write was due:
    one that had to wait for others counts its wait.
    """

    writes: int
    failed: int
    seconds: float
    rate: float
    """Acknowledged writes a second."""
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    client_cpu_percent: float
    member_cpu_percent: dict[str, float]
    """By member that let its metrics be read."""


def percentile(latencies: Sequence[float], share: float) -> float:
    """Return the smallest latency that is not exceeded by `share` of them (0 to 1); 0.0: none."""
    ordered = sorted(latencies)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def summed_up(
    latencies_s: Sequence[float],
    failed: int,
    seconds: float,
    client_cpu_s: float,
    member_cpu_s: dict[str, float],
) -> Summary:
    """Sum up the latencies of acknowledged writes, the count of others, and CPU time used."""
    p50, p90, p99, most = (
        round(percentile(latencies_s, share) * 1000, 1) for share in (0.5, 0.9, 0.99, 1.0)
    )
    return Summary(
        writes=len(latencies_s),
        failed=failed,
        seconds=round(seconds, 2),
        rate=round(len(latencies_s) / seconds, 1) if seconds > 0 else 0.0,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        max_ms=most,
        client_cpu_percent=round(100 * client_cpu_s / seconds, 1) if seconds > 0 else 0.0,
        member_cpu_percent={
            id: round(100 * used / seconds, 1) for id, used in member_cpu_s.items() if seconds > 0
        },
    )


def missed(found: Summary, limits: Limits) -> list[str]:
    """Return which limits were not kept; empty: passed."""
    why = []
    if found.failed:
        why.append(f"{found.failed} writes failed")
    if found.rate < limits.rate * RATE_SHARE:
        why.append(f"{found.rate:g} writes/s, below {RATE_SHARE:.0%} of {limits.rate:g}")
    if found.p99_ms > limits.p99_ms:
        why.append(f"p99 {found.p99_ms:g} ms, above {limits.p99_ms:g} ms")
    return why
