"""Delete from a member's file: what pruning may take, and what is cut back.

Every function runs within one write transaction, and never commits it.
"""

# ruff: noqa: S608 - every statement is put together from constants of this file, never from what a
# caller gives

from __future__ import annotations

import sqlite3

from backends.replicated.rows import NOTE
from backends.replicated.schema import end_of, one
from kv.model import GENESIS_DIGEST
from kv.ports import LocalRetention, Note, Pruning


def prune(connection: sqlite3.Connection, retention: LocalRetention) -> Pruning:
    """Do one small step of pruning."""
    limit = retention.rows_max
    ordered, walked = connection.execute("SELECT floor, walked FROM state").fetchone()
    last = one(connection, "SELECT ifnull(max(last), 0) FROM ledger")
    below = min(retention.floor, ordered, last)
    versions, more = _prune_versions(connection, walked, end_of(below), limit)
    # the newest row at or below the dump is the head to which a file is cut back
    rows = connection.execute(
        """DELETE FROM ledger WHERE seq IN (SELECT seq FROM ledger WHERE last < ? AND seq <
            (SELECT seq FROM ledger WHERE idx <= ? ORDER BY idx DESC LIMIT 1) ORDER BY seq LIMIT ?
        )""",
        (below, retention.index, limit),
    ).rowcount
    operations = connection.execute(
        """DELETE FROM ops WHERE revision IN (SELECT revision FROM
            (SELECT revision, log_time FROM ops ORDER BY revision LIMIT ?) WHERE log_time < ?)""",
        (limit, retention.operations_before_ms),
    ).rowcount
    _prune_marks(connection, retention.index)
    return Pruning(ordered, versions, rows, operations, 0, more or limit in {rows, operations})


def _prune_versions(
    connection: sqlite3.Connection, walked: int, below: int, limit: int
) -> tuple[int, bool]:
    """Process the next versions up to the id `below`, in order, and delete what each of them
    supersedes.

    A processed tombstone is deleted too. Reads at or above the floor return the same as before,
    because each key keeps its newest version there.
    """
    if below <= walked:
        return 0, False
    step = [
        row[0]
        for row in connection.execute(
            "SELECT id FROM versions WHERE id > ? AND id <= ? ORDER BY id LIMIT ?",
            (walked, below, limit),
        )
    ]
    more = len(step) == limit
    upto = step[-1] if more else below
    connection.execute("UPDATE state SET walked = ?", (upto,))
    gone = connection.execute(
        """DELETE FROM versions WHERE id IN (
            SELECT older.id FROM versions AS newer CROSS JOIN versions AS older
            ON older.key = newer.key AND older.id < newer.id
            WHERE newer.id > ? AND newer.id <= ?)""",
        (walked, upto),
    ).rowcount
    gone += connection.execute(
        "DELETE FROM versions WHERE id > ? AND id <= ? AND kind = 0", (walked, upto)
    ).rowcount
    return gone, more


def _prune_marks(connection: sqlite3.Connection, index: int) -> None:
    """Keep, of the marks up to a log index, the newest and the newest that ordered a floor."""
    connection.execute(
        """DELETE FROM marks WHERE idx < (SELECT max(idx) FROM marks WHERE idx <= ?1)
            AND idx <> ifnull((SELECT max(idx) FROM marks WHERE idx <= ?1 AND floor > 0), -1)""",
        (index,),
    )


def cut_back(connection: sqlite3.Connection, index: int) -> Note:
    """Remove everything that commands above this log index made. Return the note there."""
    connection.execute("DELETE FROM ledger WHERE idx > ?", (index,))
    connection.execute("DELETE FROM marks WHERE idx > ?", (index,))
    last, digest = connection.execute(
        "SELECT last, digest FROM ledger ORDER BY seq DESC LIMIT 1"
    ).fetchone() or (0, GENESIS_DIGEST)
    connection.execute("DELETE FROM ops WHERE revision > ?", (last,))
    _cut_versions(connection, end_of(last) if last else 0)
    floor = one(connection, "SELECT ifnull(max(floor), 0) FROM marks")
    history = one(connection, "SELECT history FROM state")
    note = Note(history, index, term_at(connection), digest)
    connection.execute(
        # `durable` must never be a log index that comes again: noting it would write nothing then
        f"""UPDATE state SET ({NOTE}, floor) = (?1, ?2, ?3, ?4, ?5), durable = min(durable, ?2),
            walked = min(walked, ?6)""",
        (note.history, note.index, note.term, note.digest, floor, end_of(last) if last else 0),
    )
    return note


def _cut_versions(connection: sqlite3.Connection, end: int) -> None:
    """Delete the versions with higher ids, and find out anew which of their keys are due when."""
    connection.execute("CREATE TEMP TABLE cut AS SELECT key FROM versions WHERE id > ?", (end,))
    connection.execute("DELETE FROM versions WHERE id > ?", (end,))
    connection.execute("DELETE FROM due WHERE key IN (SELECT key FROM temp.cut)")
    connection.execute(
        """INSERT INTO due (key, expires, id)
            SELECT v.key, v.expires, v.id FROM (SELECT DISTINCT key FROM temp.cut) AS cut
            CROSS JOIN versions AS v ON v.id = (
                SELECT id FROM versions WHERE key = cut.key ORDER BY id DESC LIMIT 1)
            WHERE v.expires IS NOT NULL"""
    )
    connection.execute("DROP TABLE temp.cut")


def term_at(connection: sqlite3.Connection) -> int:
    """Return the term of the newest command that is kept. Terms only rise with the index."""
    return int(
        one(
            connection,
            """SELECT max(ifnull((SELECT term FROM ledger ORDER BY seq DESC LIMIT 1), 0),
                ifnull((SELECT term FROM marks ORDER BY idx DESC LIMIT 1), 0))""",
        )
    )
