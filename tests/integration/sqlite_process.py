"""Do one thing to a store's SQLite file in a process of its own, so that tests can kill or stop it.

`python -m tests.integration.sqlite_process WHAT PATH …`: `append NAME COUNT TERM` takes over in
that term and the next ones, appends a group in each and prints its op_id once it is acknowledged;
`hold` opens a write transaction, changes everything in it, and waits; `restricted rights|space`
runs without the rights or the space to write, and prints what it was told.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sqlite3
import sys
import threading

from backends.sqlite import SqliteStore
from kv.errors import KvError
from kv.model import GENESIS
from kv.ports import Appended, TakenOver
from tests.contract.groups import T, group, put


async def append(path: str, name: str, count: int, first_term: int) -> None:
    async with SqliteStore(path) as store:
        for n, term in enumerate(range(first_term, first_term + count)):
            taken = await store.take_over(term, name, 1, timeout_s=T)
            if not isinstance(taken, TakenOver):
                continue
            made = group(
                taken.own, [put(f"{name}-{n}", b"k", b"x" * 2000)], term=term, committer=name
            )
            if await store.append(made, timeout_s=T) == Appended():
                print(f"{name}-{n}", flush=True)


def hold(path: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    # so that the changes spill into the write-ahead log
    connection.execute("PRAGMA cache_size = 10")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE ledger SET committer = 'nobody'")
    connection.execute("UPDATE versions SET value = randomblob(20000)")
    connection.execute("DELETE FROM ops")
    print("holding", flush=True)
    threading.Event().wait(60)  # until it is killed


async def restricted(path: str, kind: str) -> None:
    if kind == "rights":
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
    else:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        async with SqliteStore(path, open_timeout_s=3) as store:
            print("opened", await store.head(timeout_s=T), flush=True)
            if kind == "space":
                await _fill(store)
    except KvError as exc:
        print(type(exc).__name__, exc, flush=True)


async def _fill(store: SqliteStore) -> None:
    """Write until the file may not grow any more, then give it room again and go on."""
    head, landed = GENESIS, 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
    for n in range(200):
        made = group(head, [put(f"op-{n}", b"k%d" % n, b"x" * 10_000)])
        try:
            assert await store.append(made, timeout_s=T) == Appended()
        except KvError as exc:
            print(type(exc).__name__, exc, flush=True)
            break
        head, landed = made.row.head, landed + 1
    print("reads go on", (await store.read([b"k0"], timeout_s=T)).head == head, flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    taken = await store.take_over(9, "n9", 1, timeout_s=T)
    assert isinstance(taken, TakenOver)
    listing = await store.list(b"", limit=1000, timeout_s=T)
    print(
        "whole",
        taken.before.last in {landed, landed + 1},
        len(listing.versions) == taken.before.last,
        flush=True,
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["append", path, name, count, term]:
            asyncio.run(append(path, name, int(count), int(term)))
        case ["hold", path]:
            hold(path)
        case ["restricted", path, kind]:
            asyncio.run(restricted(path, kind))
        case _:
            sys.exit(__doc__)
