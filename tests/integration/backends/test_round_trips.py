"""The commit of a group costs at most two round trips to PostgreSQL: facts and append. Counted, at
20 ms each.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

import pytest

from backends.postgres.store import PostgresStore
from kv.model import (
    GENESIS,
    Applied,
    Group,
    Head,
    LedgerRow,
    Recorded,
    RecordedOperation,
    Version,
    roll,
)
from kv.ports import Appended
from tests.services import fresh_database

ONE_WAY_S: Final = 0.010
TIMEOUT_S: Final = 20.0


class Counting:
    """A TCP proxy that delays both ways and counts round trips: each turn from the server's words
    to the client's.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self.port = 0
        self.trips = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        turn = {"client": False}

        async def pump(
            source: asyncio.StreamReader, sink: asyncio.StreamWriter, client: bool
        ) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(1 << 16):
                    if client and not turn["client"]:
                        self.trips += 1
                    turn["client"] = client
                    await asyncio.sleep(ONE_WAY_S)
                    sink.write(data)
            sink.close()

        for each in (pump(reader, up_writer, True), pump(up_reader, writer, False)):
            task = asyncio.create_task(each)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


@contextlib.asynccontextmanager
async def counting(port: int) -> AsyncIterator[Counting]:
    proxy = Counting(port)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in list(proxy._tasks):
            task.cancel()


def group(base: Head, size: int) -> Group:
    """Return a group of `size` intents on `base`, each of one key."""
    first = base.last + 1
    digest, body, versions, operations = base.digest, [], [], []
    for n in range(size):
        op_id, key, revision = f"op-{first + n}", b"key/%d" % n, first + n
        digest = roll(digest, op_id, b"x" * 16)
        body.append(Recorded(op_id, b"x" * 16, Applied(), (key,)))
        versions.append(Version(key, revision, b"value"))
        operations.append(RecordedOperation(op_id, b"x" * 16, revision, Applied(), 1))
    row = LedgerRow(base.seq + 1, 1, "n1", first, first + size - 1, digest, 1, tuple(body))
    return Group(base, row, tuple(versions), tuple(operations))


@pytest.mark.timeout(120)
async def test_a_group_commit_costs_at_most_two_round_trips() -> None:
    """Up to the largest group that a committer makes."""
    url = fresh_database()
    host, _, database = url.rpartition("@")[2].partition("/")
    async with counting(int(host.rpartition(":")[2])) as proxy:
        through = f"{url.rpartition('@')[0]}@127.0.0.1:{proxy.port}/{database}"
        async with PostgresStore(through) as store:
            taken = await store.take_over(1, "n1", 1, timeout_s=TIMEOUT_S)
            head = taken.own if hasattr(taken, "own") else GENESIS
            spent: dict[int, int] = {}
            # each statement is prepared on its first use: the first four
            for size in (1, 7, 64, 512, 1, 3, 128, 512):
                made = group(head, size)
                before = proxy.trips
                keys = [v.key for v in made.versions]
                facts = await store.facts(
                    [o.op_id for o in made.operations], keys, keys[:1], (), timeout_s=TIMEOUT_S
                )
                assert facts.head == head
                assert isinstance(await store.append(made, timeout_s=TIMEOUT_S), Appended)
                spent[len(spent)] = proxy.trips - before
                head = made.row.head
            assert list(spent.values())[4:] == [2, 2, 2, 2], spent
