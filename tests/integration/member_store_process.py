"""Do one thing to a member's own store in a process of its own, so that tests can kill or stop it.

`python -m tests.integration.member_store_process WHAT PATH`: `write` settles the steps of `endless`
from where the file ends, and prints "written N" or "durable N" when it knows that of the log index
N; `hold` opens a write transaction, as another program may, changes everything in it, and waits;
`rights` and `space` open the store without the right, or the room, to write, and print what they
were told.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sqlite3
import sys
import threading
from collections.abc import Iterator
from itertools import islice

from backends.replicated.store import SqliteMemberStore
from kv.errors import KvError
from kv.ports import Step
from tests.contract.groups import T, delete, put
from tests.contract.history import History, everything, made_by, settle


def endless() -> Iterator[Step]:
    """Yield the same Steps in every process: puts, deletes, keys that expire, floors, terms."""
    history = History()
    while True:
        n = len(history.steps)
        if n % 17 == 5:
            yield history.quiet(term=history.note.term + n % 2)
        elif n % 40 == 30:
            yield history.quiet(floor=history.head.last // 2)
        else:
            expires = 5000 + n if n % 5 == 0 else None
            yield history.submit(
                put(f"c{n}", b"k%d" % (n % 50), b"%d " % n * (n % 300), expires_ms=expires),
                delete(f"~{n}", b"k%d" % (n % 7)),
                log_time_ms=1000 + n,
                skip=n % 3,
            )


async def write(path: str) -> None:
    async with SqliteMemberStore(path) as store:
        start = store.note.index
        print("sound" if store.condition != "damaged" else store.damage, flush=True)
        for n, step in enumerate(endless()):
            if step.note.index <= start:
                continue
            store.settle(step)
            if n % 7 == 0:
                await store.wait_written(step.note.index, timeout_s=T)
                print("written", step.note.index, flush=True)
            if n % 50 == 0:
                await store.make_durable(step.note.index)
                print("durable", step.note.index, flush=True)


def hold(path: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    # so that the changes spill into the write-ahead log
    connection.execute("PRAGMA cache_size = 10")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE ledger SET term = term + 1")
    connection.execute("UPDATE versions SET value = randomblob(20000)")
    connection.execute("DELETE FROM ops")
    print("holding", flush=True)
    threading.Event().wait(60)  # until it is killed


async def rights(path: str) -> None:
    await asyncio.to_thread(lambda: None)  # what is imported late may be closed to others
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    try:
        async with SqliteMemberStore(path):
            print("opened", flush=True)
    except KvError as exc:
        print(type(exc).__name__, exc, flush=True)


async def space(path: str) -> None:
    """Write until the file may not grow any more, then give it room again and go on."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    async with SqliteMemberStore(path) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
        steps = list(islice(endless(), 600))
        settle(store, *steps)
        while not store.trouble:
            await asyncio.sleep(0.05)
        print("trouble", store.trouble, flush=True)
        print("reads go on", await everything(store) == await made_by(steps), flush=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await store.wait_written(steps[-1].note.index, timeout_s=T)
        await store.make_durable(steps[-1].note.index)
        print("healed", store.condition, store.trouble, flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", path]:
            asyncio.run(write(path))
        case ["hold", path]:
            hold(path)
        case ["rights", path]:
            asyncio.run(rights(path))
        case ["space", path]:
            asyncio.run(space(path))
        case _:
            sys.exit(__doc__)
