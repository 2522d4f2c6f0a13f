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
    "cache hits": "cache hits",
    "crashes": "crashes",
    "power cuts": "power cuts",
    "partitions": "partitions",
    "membership changes": "membership changes",
    "transfers": "transfers",
    "disk faults": "disk faults",
    "clock jumps": "clock jumps",
    "resets": "resets",
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
    "leases": "leases",
    "leases kept alive": "leases kept",
    "keys of leases read": "keys of leases read",
}
"""What the summary says -> the name of its counter."""
ONLY: Final[Mapping[str, Mapping[str, str]]] = {
    "shared": {
        "Rebases": "coordinator rebases",
        "ambiguous commits": "ambiguous commits",
        "restores": "restores",
        "store outages": "store outages",
    },
    "replicated": {
        "installs": "coordinator store_installs",
        "rebuilds": "coordinator store_set_aside",
        "refetches": "coordinator store_refetches",
        "rows lost by power cuts": "prefix losses",
        "prefix losses": "coordinator prefix_losses",
        "rows taken from files": "coordinator rows_replayed",
        "pauses of applying": "coordinator apply_holds",
        "digests compared": "coordinator content_comparisons",
        "levels raised": "levels ordered",
        "directories refused": "twins refused",
        "stores compared": "stores compared",
        "row by row": "stores compared row by row",
        "files hurt": "files hurt",
    },
}
"""The same, of one kind of store."""
ENOUGH_SEEDS: Final = 100
ENOUGH_OF_A_KIND: Final = 80
"""From so many seeds on, nothing above may be zero."""


def missing(counts: Mapping[str, int], kinds: Mapping[str, int]) -> list[str]:
    """Return what never happened, although there were seeds enough. `kinds`: how many there were of
    each kind of store.
    """
    due = dict(MUST_HAPPEN) if sum(kinds.values()) >= ENOUGH_SEEDS else {}
    for kind, names in ONLY.items():
        due |= names if kinds.get(kind, 0) >= ENOUGH_OF_A_KIND else {}
    return [said for said, name in due.items() if not counts.get(name)]


def line(
    counts: Mapping[str, int], kinds: Mapping[str, int], simulated_s: float, violations: int
) -> str:
    """Return the one line that ends a run."""
    names = dict(MUST_HAPPEN)
    for kind, own in ONLY.items():
        names |= own if kinds.get(kind) else {}
    happened = ", ".join(f"{said} {counts.get(name, 0):,}" for said, name in names.items())
    operations, messages = counts.get("operations", 0), counts.get("network messages", 0)
    seeds = f"{sum(kinds.values()):,} seeds ({kinds.get('replicated', 0):,} replicated)"
    return (
        f"{seeds}, {simulated_s / 60:,.0f} simulated minutes, {operations:,} operations, "
        f"{messages:,} messages: {violations} violations; {happened}"
    )
