"""Do one small step of pruning in an open transaction.

The tables say where a step starts and stops: no state is kept between two steps.
"""

from __future__ import annotations

from typing import Final

from backends.postgres import sql
from backends.postgres.hosts import Connection
from kv.ports import Pruning, Retention

BLOBS_SWEPT_MAX: Final = 64
"""The number of staged values checked in one step: each costs a statement."""


async def prune(connection: Connection, retention: Retention) -> Pruning:
    """Raise the floor, and delete what is below it and what is older than its retention."""
    limit = retention.rows_max
    state = (await connection.fetch(sql.STATE_FOR_PRUNING))[0]
    floor, below = state["floor"], min(retention.revision_below, state["last_rev"])
    gone, more = 0, False
    if below > floor:
        step = await connection.fetch(sql.NEXT_VERSIONS, floor, below, limit)
        more = len(step) == limit
        upto = step[-1]["revision"] if more else below
        await connection.execute(sql.RAISE_FLOOR, upto)
        dropped = await connection.fetch(sql.DROP_SUPERSEDED, floor, upto)
        if freed := [row["staged"] for row in dropped if row["staged"] is not None]:
            await connection.execute(sql.LOOK_AGAIN, freed)
        gone = len(dropped) + _rows_changed(
            await connection.execute(sql.DROP_TOMBSTONES, floor, upto)
        )
        floor = upto
    rows = _rows_changed(await connection.execute(sql.DROP_ROWS, below, state["seq"], limit))
    operations = _rows_changed(
        await connection.execute(sql.DROP_OPERATIONS, retention.operations_before_ms, limit)
    )
    before_ms = max(retention.operations_before_ms, retention.staged_before_ms)
    looked = await connection.fetch(sql.BLOBS_TO_LOOK_AT, before_ms, min(limit, BLOBS_SWEPT_MAX))
    for op_id, digest, used in looked:
        await connection.execute(sql.KEEP_BLOB if used else sql.DROP_BLOB, op_id, digest)
    await connection.execute(sql.DROP_DONE_DUE, limit)
    more = more or limit in {rows, operations} or len(looked) >= min(limit, BLOBS_SWEPT_MAX)
    return Pruning(
        max(floor, state["adopted"]),
        gone,
        rows,
        operations,
        sum(not used for *_, used in looked),
        more,
    )


def _rows_changed(tag: str) -> int:
    """Return the number of rows in a command tag: "DELETE 3"."""
    return int(tag.rsplit(" ", 1)[1])
