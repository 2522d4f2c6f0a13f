"""Count what happened over many seeds. What a simulation never does, it does not test: a zero is a
failure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

MUST_HAPPEN: Final = {
    "elections": "elections",
    "truncations": "raft truncations",
    "snapshots installed": "raft snapshots_installed",
    "Rebases": "coordinator rebases",
    "ambiguous commits": "ambiguous commits",
    "cache hits": "cache hits",
    "crashes": "crashes",
    "power cuts": "power cuts",
    "partitions": "partitions",
    "membership changes": "membership changes",
    "transfers": "transfers",
    "disk faults": "disk faults",
    "clock jumps": "clock jumps",
    "restores": "restores",
    "resets": "resets",
    "store outages": "store outages",
    "unknown outcomes": "unknown",
    "disks lost": "disks lost",
    "late messages": "network ghosts",
    "doubled messages": "network doubles",
    "expired keys": "expired keys",
    "session reads": "sessions",
    "stale reads": "reads stale",
    "shared cache hits": "shared cache hits",
    "watched changes": "watched",
    "logs compared": "log checks",
    "times lost": "times lost",
    "lives judged": "lives judged",
}
"""What the summary says -> the name of its counter."""
ENOUGH_SEEDS: Final = 100
"""From so many seeds on, nothing above may be zero."""


def missing(counts: Mapping[str, int], seeds: int) -> list[str]:
    """Return what never happened, although there were seeds enough."""
    return (
        [said for said, name in MUST_HAPPEN.items() if not counts.get(name)]
        if seeds >= ENOUGH_SEEDS
        else []
    )


def line(counts: Mapping[str, int], seeds: int, simulated_s: float, violations: int) -> str:
    """Return the one line that ends a run."""
    happened = ", ".join(f"{said} {counts.get(name, 0):,}" for said, name in MUST_HAPPEN.items())
    operations, messages = counts.get("operations", 0), counts.get("network messages", 0)
    return (
        f"{seeds:,} seeds, {simulated_s / 60:,.0f} simulated minutes, {operations:,} operations, "
        f"{messages:,} messages: {violations} violations; {happened}"
    )
