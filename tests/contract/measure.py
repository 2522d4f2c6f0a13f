"""Measure one store adapter: `python -m tests.contract.measure [STORE] [SECONDS]` (a name of
tests.contract.adapters).

Prints a table: groups of 60 intents of 100 bytes (facts, append, and both), reads, a listing of
100,000 keys, pruning. It judges nothing.
"""

from __future__ import annotations

import asyncio
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from kv.model import Head
from kv.ports import Appended, Retention, Store
from tests.contract.adapters import STORES
from tests.contract.groups import T, group, put

GROUP, VALUE, KEYS, PAGE = 60, b"v" * 100, 100_000, 1000


def line(what: str, rate: str, times_s: list[float]) -> None:
    ranked = sorted(times_s)
    shown = [
        1000 * x for x in (statistics.median(ranked), ranked[int(len(ranked) * 0.99)], ranked[-1])
    ]
    print(
        f"{what:34} {rate:>18}   p50 {shown[0]:8.2f} ms   p99 {shown[1]:8.2f} ms   max "
        f"{shown[2]:8.2f} ms"
    )


async def fill(store: Store, head: Head) -> Head:
    """Write all keys once, in large groups."""
    for start in range(0, KEYS, 1000):
        made = group(
            head,
            [
                put(f"~{n}", b"key%06d" % (n * 7919 % KEYS), VALUE)
                for n in range(start, start + 1000)
            ],
        )
        assert isinstance(await store.append(made, timeout_s=T), Appended)
        head = made.row.head
    return head


async def append(store: Store, head: Head, seconds: float) -> Head:
    """Commit as a committer does: facts, then the group."""
    facts_s, append_s = [], []
    began, number = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        steps = [
            put(f"{number:08d}-{n}", b"key%06d" % ((number * GROUP + n) * 7919 % KEYS), VALUE)
            for n in range(GROUP)
        ]
        made = group(head, steps)
        start = time.perf_counter()
        keys = [version.key for version in made.versions]
        await store.facts([step.op_id for step in steps], keys, [], [], timeout_s=T)
        middle = time.perf_counter()
        assert isinstance(await store.append(made, timeout_s=T), Appended)
        facts_s.append(middle - start)
        append_s.append(time.perf_counter() - middle)
        head, number = made.row.head, number + 1
    busy = sum(facts_s) + sum(append_s)
    line("facts for 60 intents", "", facts_s)
    line("append 60 intents", f"{number * GROUP / sum(append_s):,.0f} intents/s", append_s)
    line(
        "facts + append",
        f"{number * GROUP / busy:,.0f} intents/s",
        [a + b for a, b in zip(facts_s, append_s, strict=True)],
    )
    return head


async def read(store: Store, head: Head, seconds: float, count: int) -> None:
    times_s: list[float] = []
    began, number = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        keys = [b"key%06d" % ((number * count + n) * 104_729 % KEYS) for n in range(count)]
        start = time.perf_counter()
        await store.read(keys, settled=head.last, timeout_s=T)
        times_s.append(time.perf_counter() - start)
        number += 1
    line(f"read {count} keys", f"{number * count / sum(times_s):,.0f} keys/s", times_s)


async def listing(store: Store, at: int | None, keys_only: bool) -> None:
    times_s: list[float] = []
    after, seen = b"", 0
    while True:
        start = time.perf_counter()
        page = await store.list(
            b"key", after=after, limit=PAGE, at=at, keys_only=keys_only, timeout_s=T
        )
        times_s.append(time.perf_counter() - start)
        seen += len(page.versions)
        if not page.more:
            break
        after = page.versions[-1].key
    what = (
        f"list {seen:,} keys"
        + (" at a revision" if at else "")
        + (", keys only" if keys_only else "")
    )
    line(what, f"{sum(times_s):.2f} s", times_s)


async def prune(store: Store, head: Head) -> None:
    times_s: list[float] = []
    gone, more = 0, True
    while more:
        start = time.perf_counter()
        done = await store.prune(Retention(head.last, 10**12), timeout_s=T)
        times_s.append(time.perf_counter() - start)
        gone, more = gone + done.versions + done.ledger_rows + done.operations, done.more
    line("prune (rows_max 500)", f"{gone / sum(times_s):,.0f} rows/s", times_s)


async def main(name: str, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with STORES[name](Path(directory)) as opened, opened() as store:
            head = await fill(store, await store.head(timeout_s=T))
            head = await append(store, head, seconds)
            for count in (1, 64):
                await read(store, head, seconds / 2, count)
            await listing(store, None, keys_only=False)
            await listing(store, KEYS, keys_only=False)
            await listing(store, None, keys_only=True)
            await prune(store, head)
        size = sum(path.stat().st_size for path in Path(directory).iterdir())
    print(
        f"files {size / 1e6:,.0f} MB, this process "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB"
    )


if __name__ == "__main__":
    uvloop.install()
    chosen = sys.argv[1] if len(sys.argv) > 1 else "postgres"
    asyncio.run(main(chosen, float(sys.argv[2]) if len(sys.argv) > 2 else 5.0))
