"""Collect, after healing, the ledger, the fate of unknown writes, members' states, and final reads.

Everything comes over HTTP through the client library. It judges nothing, and leaves out nodes that
do not answer.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from itertools import product
from pathlib import Path
from typing import Final

import msgspec

from acordo import AcordoError, Client, Cluster
from chaos.records.final_state import LEVELS, Evidence, FinalRead, MemberState
from chaos.records.history import ClientOperation, HistoryError, Lookup, NodeStatus
from chaos.records.recorder import Recorder
from chaos.records.saved import load_ledger
from chaos.waiting import wait_for_stop

LOOKUP_TIMEOUT_S: Final = 20.0
LOOKUP_ROUNDS: Final = 3
"""Attempts to look up an outcome: a store that has just come back may not answer the first one."""
READ_TIMEOUT_S: Final = 15.0
LEDGER_ROUNDS: Final = 10
"""Most times that the ledger is read again because it grew in the meantime."""
QUIET_S: Final = 60.0
"""Longest wait for all members to settle the same position once nobody writes."""
PARALLEL: Final = 16
UNANSWERED_MAX: Final = 48
"""Reads without an answer after which a node is not read any more: each may take READ_TIMEOUT_S."""
POLL_S: Final = 0.2


async def look_up(client: Client, unknown: Iterable[ClientOperation], recorder: Recorder) -> int:
    """Look up the outcome of every unknown write and record it; return how many stay unknown.

    An op_id that is not known is cancelled, so that it never takes effect later.
    """
    gate = asyncio.Semaphore(PARALLEL)
    left = dict.fromkeys(o.op_id for o in unknown if o.outcome == "info" and o.op_id is not None)

    async def one(op_id: str) -> None:
        async with gate:
            try:
                found = await client.operation(op_id, settle=True, timeout_s=LOOKUP_TIMEOUT_S)
            except AcordoError:
                return
        now = recorder.clock()
        match found.outcome:
            case "applied" | "refused" | "expired" as answer:
                recorder.add(
                    Lookup(op_id, answer, now, found.revision or None, branch=found.branch)
                )
                del left[op_id]

    for _ in range(LOOKUP_ROUNDS):
        async with asyncio.TaskGroup() as tasks:
            for op_id in tuple(left):
                tasks.create_task(one(op_id))
        if not left:
            break
        await asyncio.sleep(POLL_S)
    return len(left)


async def write_ledger(client: Client, path: Path) -> int:
    """Write every row of the ledger as a JSON line; return how many. Raises AcordoError."""
    rows = 0
    with path.open("wb") as file:
        async for row in client.ledger(1, limit=200, timeout_s=READ_TIMEOUT_S):
            file.write(msgspec.json.encode(row) + b"\n")
            rows += 1
    return rows


async def write_settled_ledger(urls: Sequence[str], path: Path, found: Evidence) -> Evidence:
    """Write the ledger; return the evidence with the members' states at the ledger's end.

    Keys with a time to live still expire for half a minute after the last client stopped. If the
    ledger was read before such an expiry, it would lack what the members have settled since, and
    they would seem to diverge from it. Raises AcordoError.
    """
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(Client(url, timeout_s=READ_TIMEOUT_S)) for url in urls
        ]
        reader = await stack.enter_async_context(Client(list(urls)))
        for _ in range(LEDGER_ROUNDS):
            await write_ledger(reader, path)
            members = tuple(s for s in await _quiet(clients) if s is not None)
            found = msgspec.structs.replace(found, members=members)
            if not _grew(path, members):
                break
    return found


def _grew(path: Path, members: Sequence[MemberState]) -> bool:
    """Return whether all members settled the same position and it differs from the written ledger's
    end.
    """
    settled = {m.settled for m in members}
    try:
        return len(settled) == 1 and settled != {load_ledger(path).last}
    except HistoryError:
        return False  # the checkers report a ledger that cannot be read


async def evidence(
    urls: Sequence[str],
    keys: Sequence[str],
    *,
    levels: Sequence[str] = LEVELS,
    broker: bool = False,
    wiped: bool = False,
) -> Evidence:
    """Wait until all members settled the same position, then read every key through every node at
    every level.
    """
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(Client(url, timeout_s=READ_TIMEOUT_S)) for url in urls
        ]
        states = await _quiet(clients)
        newest = max((s.settled for s in states if s is not None), default=0)
        names = [s.node if s is not None else url for s, url in zip(states, urls, strict=True)]
        reads = await _read_everywhere(list(zip(names, clients, strict=True)), levels, keys, newest)
        # The reads changed nothing, but keys may have expired since, so the members' states are
        # read again.
        states = await _quiet(clients)
    return Evidence(
        nodes=tuple(names),
        members=tuple(s for s in states if s is not None),
        reads=tuple(sorted(reads, key=lambda r: (r.key, r.node, r.level))),
        levels=tuple(levels),
        broker=broker,
        wiped=wiped,
    )


async def _read_everywhere(
    nodes: Sequence[tuple[str, Client]], levels: Sequence[str], keys: Sequence[str], newest: int
) -> list[FinalRead]:
    """Read every key through every node at every level; leave out reads without an answer."""
    reads: list[FinalRead] = []
    gate = asyncio.Semaphore(PARALLEL)
    unanswered: Counter[str] = Counter()

    async def one(node: str, client: Client, level: str, key: str) -> None:
        async with gate:
            if unanswered[node] >= UNANSWERED_MAX:
                return
            try:
                found = await client.read(
                    key,
                    level=level,  # type: ignore[arg-type]  # one of LEVELS
                    min_revision=newest if level == "session" else None,
                    max_age_s=0.0 if level == "stale" else None,
                )
            except AcordoError:
                unanswered[node] += 1
                return
        value = None if found.value is None else found.value.decode()
        reads.append(FinalRead(node, level, key, value, found.revision))

    async with asyncio.TaskGroup() as tasks:
        for (node, client), level, key in product(nodes, levels, keys):
            tasks.create_task(one(node, client, level, key))
    return reads


async def _quiet(clients: Sequence[Client]) -> list[MemberState | None]:
    """Return each node's state once all agree, or after QUIET_S."""
    states: list[MemberState | None] = []
    try:
        async with asyncio.timeout(QUIET_S):
            while True:
                states = list(await asyncio.gather(*(_state(c) for c in clients)))
                digests = {(s.settled, s.digest) for s in states if s is not None}
                if len(digests) == 1 and None not in states:
                    return states
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        return states


async def _state(client: Client) -> MemberState | None:
    try:
        status = await client.cluster(timeout_s=2.0)
    except AcordoError:
        return None
    mine = next((m for m in status.members if m.id == status.node), None)
    if mine is None or mine.settled is None or mine.digest is None:
        return None
    return MemberState(status.node, mine.settled, mine.digest, mine.applied)


async def observe(
    urls: Sequence[str], recorder: Recorder, stop: asyncio.Event, *, every_s: float = 0.2
) -> None:
    """Record the nodes' states whenever they change, until `stop`.

    Every explanation of a finding includes who was leader.
    """
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        for url in urls:
            client = await stack.enter_async_context(Client(url, retries=False, timeout_s=1.0))
            tasks.create_task(_observe(client, recorder, stop, every_s))


async def _observe(client: Client, recorder: Recorder, stop: asyncio.Event, every_s: float) -> None:
    last: tuple[object, ...] = ()
    while not stop.is_set():
        try:
            status = await client.cluster(timeout_s=1.0)
        except AcordoError:
            status = None
        now = () if status is None else _shown(status)
        if status is not None and now != last:
            last = now
            mine = next((m for m in status.members if m.id == status.node), None)
            recorder.add(
                NodeStatus(
                    status.node,
                    recorder.clock(),
                    term=status.term,
                    role=status.role,
                    leader=status.leader,
                    applied=mine.applied if mine else None,
                    settled=mine.settled if mine else None,
                    digest=mine.digest if mine else None,
                    store=_store_state(status),
                )
            )
        await wait_for_stop(stop, every_s)


def _shown(status: Cluster) -> tuple[object, ...]:
    """Return what is recorded again when it has changed."""
    store = _store_state(status)
    return (status.node, status.term, status.role, status.leader, status.settled, store)


def _store_state(status: Cluster) -> str | None:
    state = status.raw.get("store_state")
    return state if isinstance(state, str) and state else None
