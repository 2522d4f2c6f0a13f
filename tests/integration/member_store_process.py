"""Write a member's own store in a process of its own, so that tests can kill it.

`python -m tests.integration.member_store_process PATH` settles the steps of `endless` from where
the file ends, and prints "written N" or "durable N" when it knows that of the log index N.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator

from backends.replicated.store import SqliteMemberStore
from kv.ports import Step
from tests.contract.groups import T, delete, put
from tests.contract.history import History


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


async def main(path: str) -> None:
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


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
