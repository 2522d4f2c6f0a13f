"""Write to the SQLite file what a store changes, and prune it.

Every function runs on a store's writing thread, within one write transaction, and never commits it.
"""

# ruff: noqa: S608 - every statement is put together from constants of this file, never from what a
# caller gives

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from backends.fence import check_room
from backends.sqlite_reads import ROW, head_of
from backends.sqlite_schema import REVISION_SHIFT, bucket, end_of
from backends.sqlite_thread import Turn
from kv.errors import BackendUnavailable, BadRequest
from kv.model import GENESIS, Group, LedgerRow, Reference, Version, value_hash
from kv.ports import Appended, Fenced, Identity, Pruning, Retention

ROWS_MAX: Final = 128
"""The number of rows inserted by one statement."""
BLOBS_SWEPT_MAX: Final = 64

_TOMBSTONE, _INLINE, _STAGED = 0, 1, 2
"""The values of versions.kind."""

pack = msgspec.msgpack.Encoder().encode

INSERT_ROW: Final = f"INSERT INTO ledger ({ROW}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT_ROW_BEHIND: Final = f"""INSERT INTO ledger ({ROW}) SELECT ?, ?, ?, ?, ?, ?, ?, ?
    WHERE (SELECT (seq, term, committer, last, digest) = (?, ?, ?, ?, ?) FROM ledger
        ORDER BY seq DESC LIMIT 1)"""
_INSERT_ROW_FIRST: Final = f"""INSERT INTO ledger ({ROW}) SELECT ?, ?, ?, ?, ?, ?, ?, ?
    WHERE NOT EXISTS (SELECT 1 FROM ledger)"""
_RECORD_STAGED: Final = """UPDATE blobs SET state = 1
    WHERE state = 0 AND +op_id IN (SELECT value FROM json_each(?))"""
"""The + makes SQLite walk the few values that wait to be recorded, instead of looking up each op_id
of the group.
"""
_MISSING: Final = "SELECT 1 FROM blobs WHERE op_id = ? AND hash = ?"
_STAGE: Final = """INSERT INTO blobs (op_id, hash, state, seq, reference, value)
    VALUES (?, ?, 0, ifnull((SELECT max(seq) FROM ledger), 0), ?, ?)"""
_CLAIM: Final = "UPDATE blobs SET claims = claims + ? WHERE op_id = ? AND hash = ?"
_UNCLAIMED: Final = "DELETE FROM blobs WHERE op_id = ? AND hash = ? AND state = 0 AND claims <= 0"
_WAITING: Final = "SELECT ifnull(sum(length(value)), 0) FROM blobs WHERE state = 0"
MOVE_CURSOR: Final = """INSERT INTO cursors (name, position) VALUES (?, ?)
    ON CONFLICT (name) DO UPDATE SET position = excluded.position
        WHERE excluded.position > position"""


def stage(turn: Turn, reference: Reference, value: bytes, bytes_max: int) -> None:
    """Stage a value, or add one claim to a value that is staged already. Raises NotApplied."""
    if turn.execute(_CLAIM, (1, reference.op_id, reference.hash)).rowcount:
        return
    check_room(turn.fetch(_WAITING)[0][0], len(value), bytes_max)
    turn.execute(_STAGE, (reference.op_id, reference.hash, pack(reference), value))


def unstage(turn: Turn, reference: Reference) -> None:
    """Take one claim back. The value is deleted with the last claim, unless its op_id is
    recorded.
    """
    turn.execute(_CLAIM, (-1, reference.op_id, reference.hash))
    turn.execute(_UNCLAIMED, (reference.op_id, reference.hash))


def append(
    turn: Turn, group: Group, body: bytes | None, rows: list[tuple[Any, ...]]
) -> Appended | Fenced:
    """Write a group iff the newest row is its base."""
    row, base = group.row, group.base
    if base == GENESIS:
        done = turn.execute(_INSERT_ROW_FIRST, (*row_values(row), body))
    else:
        place = (base.seq, base.term, base.committer, base.last, base.digest)
        done = turn.execute(_INSERT_ROW_BEHIND, (*row_values(row), body, *place))
    if done.rowcount != 1:
        return Fenced(head_of(turn))
    _insert(turn, "versions (id, key, kind, expires, staged, value, hash)", 7, rows)
    operations = [
        (o.revision, o.op_id, o.body_hash, o.log_time_ms, pack(o.outcome)) for o in group.operations
    ]
    _insert(turn, "ops (revision, op_id, body_hash, log_time, outcome)", 5, operations)
    if row.body:
        turn.execute(
            _RECORD_STAGED,
            (msgspec.json.encode([recorded.op_id for recorded in row.body]).decode(),),
        )
    for version in group.versions:
        if isinstance(version.value, Reference) and not turn.fetch(
            _MISSING, (version.value.op_id, version.value.hash)
        ):
            raise BackendUnavailable(
                "sqlite", f"the value staged by {version.value.op_id} is gone: evaluate again"
            )
    return Appended()


def claim(turn: Turn, identity: Identity) -> Identity:
    """Claim an unclaimed store for the given cluster; return the identity that the store has
    then.
    """
    turn.execute(
        """UPDATE identity SET cluster = ?1, history = ?2
            WHERE cluster = '' OR (cluster = ?1 AND history = x'' AND ?2 <> x'')""",
        (identity.cluster_id, identity.history),
    )
    cluster, history = turn.fetch("SELECT cluster, history FROM identity")[0]
    return Identity(cluster.decode(), history)


def adopt(turn: Turn, last: int, identity: Identity | None) -> None:
    """Apply the effects of an adoption besides its row, in the same transaction."""
    turn.execute("UPDATE identity SET adopted = ?", (last,))
    if identity is not None:
        turn.execute(
            "UPDATE identity SET cluster = ?, history = ?", (identity.cluster_id, identity.history)
        )


def version_rows(versions: Sequence[Version]) -> list[tuple[Any, ...]]:
    """Return the rows of the table `versions` for these versions, numbered within each revision."""
    rows: list[tuple[Any, ...]] = []
    revision, place = -1, 0
    for version in sorted(versions, key=lambda version: version.revision):
        place = place + 1 if version.revision == revision else 0
        revision = version.revision
        if place >= 1 << REVISION_SHIFT:
            raise BadRequest(
                "too_many_keys", f"revision {revision} changes more than {1 << REVISION_SHIFT} keys"
            )
        id_ = revision << REVISION_SHIFT | place
        match version.value:
            case None:
                rows.append((id_, version.key, _TOMBSTONE, version.expires_ms, None, None, b""))
            case Reference() as ref:
                rows.append(
                    (id_, version.key, _STAGED, version.expires_ms, ref.op_id, pack(ref), ref.hash)
                )
            case value:
                rows.append(
                    (id_, version.key, _INLINE, version.expires_ms, None, value, value_hash(value))
                )
    return rows


def row_values(row: LedgerRow) -> tuple[Any, ...]:
    """Return a ledger row's columns except its body."""
    return (row.seq, row.term, row.committer, row.first, row.last, row.digest, row.log_time_ms)


def _insert(turn: Turn, table: str, width: int, rows: Sequence[tuple[Any, ...]]) -> None:
    for start in range(0, len(rows), ROWS_MAX):
        part = rows[start : start + ROWS_MAX]
        size = bucket(len(part))
        parameters = [value for row in part for value in row]
        parameters += [None] * (width * (size - len(part)))
        turn.execute(_insert_sql(table, width, size), parameters)


@functools.cache
def _insert_sql(table: str, width: int, size: int) -> str:
    """Return an INSERT of up to `size` rows. Rows whose first column is NULL are padding."""
    row = f"({', '.join('?' * width)})"
    rows = ", ".join([row] * size)
    return f"INSERT INTO {table} SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL"


def prune(turn: Turn, retention: Retention) -> Pruning:
    """Do one small step of pruning."""
    limit = retention.rows_max
    head = head_of(turn)
    floor, walked = turn.fetch("SELECT floor, walked FROM state")[0]
    below = min(retention.revision_below, head.last)
    versions, floor, more_versions = _prune_versions(turn, floor, walked, below, limit)
    rows = turn.execute(
        """DELETE FROM ledger WHERE seq IN (
            SELECT seq FROM ledger WHERE last < ? AND seq < ? ORDER BY seq LIMIT ?)""",
        (below, head.seq, limit),
    ).rowcount
    operations = turn.execute(
        """DELETE FROM ops WHERE revision IN (SELECT revision FROM
            (SELECT revision, log_time FROM ops ORDER BY revision LIMIT ?) WHERE log_time < ?)""",
        (limit, retention.operations_before_ms),
    ).rowcount
    before_ms = max(retention.operations_before_ms, retention.staged_before_ms)
    blobs, more_blobs = _sweep(turn, before_ms, min(limit, BLOBS_SWEPT_MAX))
    more = more_versions or more_blobs or limit in {rows, operations}
    adopted = turn.fetch("SELECT adopted FROM identity")[0][0]
    return Pruning(max(floor, adopted), versions, rows, operations, blobs, more)


def _prune_versions(
    turn: Turn, floor: int, walked: int, below: int, limit: int
) -> tuple[int, int, bool]:
    """Process the next versions at or below revision `below`, in order, and delete what each of
    them supersedes.

    A processed tombstone is deleted too. Reads at or above the floor return the same as before,
    because each key keeps its newest version there.
    """
    if below <= floor:
        return 0, floor, False
    step = [
        row[0]
        for row in turn.fetch(
            "SELECT id FROM versions WHERE id > ? AND id <= ? ORDER BY id LIMIT ?",
            (walked, end_of(below), limit),
        )
    ]
    more = len(step) == limit
    upto = step[-1] if more else end_of(below)
    floor = upto >> REVISION_SHIFT
    turn.execute("UPDATE state SET floor = ?, walked = ?", (floor, upto))
    gone = turn.execute(
        """DELETE FROM versions WHERE id IN (
            SELECT older.id FROM versions AS newer CROSS JOIN versions AS older
            ON older.key = newer.key AND older.id < newer.id
            WHERE newer.id > ? AND newer.id <= ?)""",
        (walked, upto),
    ).rowcount
    gone += turn.execute(
        "DELETE FROM versions WHERE id > ? AND id <= ? AND kind = 0", (walked, upto)
    ).rowcount
    return gone, floor, more


def _sweep(turn: Turn, before_ms: int, limit: int) -> tuple[int, bool]:
    """Check staged values whose op_id is recorded, or that are too old to be ordered ever; delete
    those that no version refers to.

    The age of a value is bounded by the log time of the row that came next, because the head at the
    time of staging may already have been days old.
    """
    found = turn.fetch(
        """SELECT rowid, EXISTS (
                SELECT 1 FROM versions WHERE staged = blobs.op_id AND value = blobs.reference)
            FROM blobs WHERE state = 1 LIMIT ?""",
        (limit,),
    )
    found += turn.fetch(
        """SELECT rowid, 0 FROM blobs WHERE state = 0
            AND ((SELECT log_time FROM ledger
                    WHERE ledger.seq > blobs.seq ORDER BY ledger.seq LIMIT 1) < ?
                OR EXISTS (SELECT 1 FROM ops WHERE ops.op_id = blobs.op_id)) LIMIT ?""",
        (before_ms, limit - len(found)),
    )
    for rowid, used in found:
        turn.execute(
            "UPDATE blobs SET state = 2 WHERE rowid = ?"
            if used
            else "DELETE FROM blobs WHERE rowid = ?",
            (rowid,),
        )
    return sum(not used for _, used in found), len(found) == limit
