"""Read what a node's metrics say of its load, and compare two looks. It asks nobody."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

_SAMPLE: Final = re.compile(r"^(acordo_\w+)(?:\{(.*)\})? ([0-9.e+-]+)$", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')
_BUCKET: Final = "acordo_http_request_seconds_bucket"
_WRITES: Final = {
    *(("PUT", "/v1/kv/{key}"), ("DELETE", "/v1/kv/{key}")),
    *(("POST", "/v1/txn"), ("POST", "/v1/batch")),
}
"""Method and route of requests that write."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """The counters of one node, or of several together."""

    writes: float = 0.0
    """Acknowledged since it started."""
    buckets: dict[float, float] = {}
    """Upper bound in seconds → requests that write and took at most so long."""
    watchers: int = 0


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """What happened between two looks."""

    writes_per_s: float
    p99_ms: float | None
    """An upper bound, as the histogram gives it; None: no request that writes ended."""


def load_of(text: str) -> Load:
    """Return what metrics in the text format of Prometheus say of the load."""
    writes, watchers, buckets = 0.0, 0, dict[float, float]()
    for name, labels, value in _SAMPLE.findall(text):
        if name == "acordo_writes_acknowledged_total":
            writes = float(value)
        elif name == "acordo_watchers":
            watchers = int(float(value))
        elif name == _BUCKET:
            found = dict(_LABEL.findall(labels))
            if (found.get("method"), found.get("route")) in _WRITES:
                bound = float(found["le"])  # "+Inf" is a float, too
                buckets[bound] = buckets.get(bound, 0.0) + float(value)
    return Load(writes=writes, buckets=buckets, watchers=watchers)


def together(loads: Sequence[Load]) -> Load:
    """Return the sum of several nodes' loads."""
    buckets: dict[float, float] = {}
    for each in loads:
        for bound, count in each.buckets.items():
            buckets[bound] = buckets.get(bound, 0.0) + count
    return Load(
        writes=sum(each.writes for each in loads),
        buckets=buckets,
        watchers=sum(each.watchers for each in loads),
    )


def grown(before: Mapping[str, Load], after: Mapping[str, Load]) -> Load:
    """Return what came between two looks at several nodes, by the nodes that were seen in both.
    The watchers are those of all that are seen now.
    """
    both = [
        Load(
            writes=max(0.0, now.writes - was.writes),
            buckets={
                bound: max(0.0, count - was.buckets.get(bound, 0.0))
                for bound, count in now.buckets.items()
            },
        )
        for id, now in after.items()
        if (was := before.get(id)) is not None
    ]
    watchers = sum(each.watchers for each in after.values())
    return msgspec.structs.replace(together(both), watchers=watchers)


def rates(before: Load, after: Load, seconds: float) -> Rates:
    """Return what happened between two looks. A node that restarted counts from nothing: the rate
    is never below 0.
    """
    done = max(0.0, after.writes - before.writes)
    grown = {
        bound: max(0.0, count - before.buckets.get(bound, 0.0))
        for bound, count in sorted(after.buckets.items())
    }
    total = max(grown.values(), default=0.0)
    p99 = next((bound for bound, count in grown.items() if count >= 0.99 * total), None)
    return Rates(
        writes_per_s=done / seconds if seconds > 0 else 0.0,
        p99_ms=p99 * 1000 if total and p99 is not None else None,
    )
