"""Define the few places where PostgreSQL and CockroachDB differ: settings, and key look-ups.

It never opens a connection.
"""

# ruff: noqa: S608 - every statement is put together from constants of this package, never from what
# a caller gives

from __future__ import annotations

import functools
from typing import Final, TypeAlias

from backends.postgres.sql import HEAD_ROW, NUMBERS, POINT_ROWS, VALUE, VERSION_COLUMNS

ASKED: Final = {
    "default_transaction_isolation": "serializable",
    "statement_timeout": "15000",
    "lock_timeout": "5000",
    "idle_in_transaction_session_timeout": "10000",
}
"""Settings that each session requests when it starts, so that no default of the server, database or
login overrides them.
"""

KEYS_MAX: Final = 256
"""The number of keys looked up by one statement on CockroachDB, where each key takes a scan and two
parameters.
"""


def bucket(count: int) -> int:
    """Return the next power of two, so that there are few shapes of statement, and all of them stay
    prepared.
    """
    return 1 << max(count - 1, 0).bit_length()


class Postgres:
    """PostgreSQL: a lateral join looks up the newest version of each key in one index probe."""

    name: Final = "postgresql"
    version_min: Final = (14, 0)
    keys_max: Final = 4096
    asked: Final = {
        "synchronous_commit": "on",
        "idle_session_timeout": "0",
        "default_transaction_deferrable": "off",
        "plan_cache_mode": "force_generic_plan",
        "enable_seqscan": "off",
        "enable_hashjoin": "off",
        "enable_mergejoin": "off",
        "jit": "off",
    }
    """These settings force index probes. Every statement needs only a few of them, whatever the
    size of the tables. But a prepared plan lives on, and one that was made while the tables were
    empty would read them whole until the server happens to analyse them (a minute, or more).
    """
    relied_on: Final = {
        "synchronous_commit": (
            frozenset({"on", "remote_apply"}),
            "an acknowledged write could be lost (was asked to be on: does a pooler leave out "
            "what sessions ask for?)",
        ),
        "default_transaction_isolation": (
            frozenset({"serializable"}),
            "transactions would not be serializable (was asked for: does a pooler leave out what "
            "sessions ask for?)",
        ),
        "fsync": (
            frozenset({"on"}),
            "a power cut loses acknowledged writes, or the whole database",
        ),
        "zero_damaged_pages": (frozenset({"off"}), "damaged rows would vanish without a word"),
        "server_encoding": (frozenset({"utf8", "sql_ascii"}), "not every text can be kept"),
    }
    """Setting -> the values that the promises allow, and what any other value means. A session can
    set only the first two, and does; the others are the server's, and a server that cannot keep
    INV-2 is refused with the setting's name.
    """
    doubtful: Final = {
        "full_page_writes": (
            "off",
            "safe only on a file system that never tears a page (ZFS, btrfs)",
        ),
    }
    """Setting -> a value that is warned about, because only the operator can know whether it is
    safe.
    """

    _NEWEST: Final = f"""UNION ALL (SELECT u.n - 1::int8, v.revision, v.kind, v.expires,
            {NUMBERS}, v.key, {{value}}
        FROM unnest({{keys}}::text[], {{whole}}::text[]) WITH ORDINALITY AS u(k, w, n)
        CROSS JOIN LATERAL (
            SELECT i.key, i.revision, i.kind, i.expires, i.value, i.hash, i.create_revision,
                i.version, i.lease
            FROM acordo_versions i
            WHERE i.key = decode(u.k, 'base64') AND i.revision <= {{upto}}::int8
            ORDER BY i.revision DESC LIMIT 1) AS v)"""
    _READ: Final = POINT_ROWS + _NEWEST.format(
        value=VALUE.format(w="u.w"), keys="$3", whole="$4", upto="$2"
    )
    _FACTS: Final = f"""{HEAD_ROW}
        UNION ALL (SELECT (-4)::int8, o.revision, o.log_time, 0::int8, o.op_id, o.body_hash,
            o.outcome, NULL::bytea
            FROM acordo_ops o WHERE o.op_id IN (SELECT z.x FROM unnest($1::text[]) AS z(x)))
        UNION ALL (SELECT (-5)::int8, 0::int8, 0::int8, 0::int8, b.op_id, b.hash,
            NULL::bytea, NULL::bytea
            FROM acordo_blobs b
            WHERE (b.op_id, b.hash) IN (
                SELECT z.o, decode(z.h, 'base64') FROM unnest($2::text[], $3::text[]) AS z(o, h)))
        """ + _NEWEST.format(value=VALUE.format(w="u.w"), keys="$5", whole="$6", upto="$4")

    @classmethod
    def read(cls, count: int) -> str:
        """Return the statement for `count` keys: $1 settled, $2 upto, then `keys` parameters."""
        return cls._READ

    @classmethod
    def facts(cls, count: int) -> str:
        """Return the statement: $1 op_ids, $2 $3 blobs, $4 upto, then `keys` parameters."""
        return cls._FACTS

    @staticmethod
    def keys(encoded: list[str], raw: list[bytes], whole: list[str]) -> list[object]:
        """Return the parameters that name the keys."""
        return [encoded, whole]


class Cockroach:
    """CockroachDB: one constrained scan per key, because lateral joins with a limit run row by row
    there.
    """

    name: Final = "cockroachdb"
    version_min: Final = (22, 1)
    keys_max: Final = KEYS_MAX
    asked: Final[dict[str, str]] = {}
    """Nothing that PostgreSQL does not know: if the server is PostgreSQL after all, the connection
    must get far enough to find that out.
    """
    relied_on: Final = {
        "default_transaction_isolation": Postgres.relied_on["default_transaction_isolation"],
        "default_transaction_use_follower_reads": (
            frozenset({"off"}),
            "reads would be seconds old",
        ),
    }
    doubtful: Final[dict[str, tuple[str, str]]] = {}

    @classmethod
    def read(cls, count: int) -> str:
        """Return the statement for `count` keys, with one scan for each of `bucket(count)`."""
        return _scans(POINT_ROWS, "$2", 3, bucket(count))

    @classmethod
    def facts(cls, count: int) -> str:
        """Return the statement for the facts of `count` keys, with one scan for each of
        `bucket(count)`.
        """
        start = Postgres._FACTS.partition("UNION ALL (SELECT u.n")[0]
        return _scans(start, "$4", 5, bucket(count))

    @staticmethod
    def keys(encoded: list[str], raw: list[bytes], whole: list[str]) -> list[object]:
        """Return the parameters that name the keys, two for each scan."""
        size = bucket(len(raw)) - len(raw)
        flat: list[object] = []
        for key, wanted in zip([*raw, *[b""] * size], [*whole, *["0"] * size], strict=True):
            flat += [key, wanted]
        return flat


Dialect: TypeAlias = type[Postgres] | type[Cockroach]


@functools.cache
def _scans(start: str, upto: str, first: int, count: int) -> str:
    scans = [
        f"""UNION ALL (SELECT {n}::int8, {VERSION_COLUMNS},
            {VALUE.format(w=f"${first + 2 * n + 1}::text")}
        FROM acordo_versions v WHERE v.key = ${first + 2 * n}::bytea AND v.revision <= {upto}::int8
        ORDER BY v.revision DESC LIMIT 1)"""
        for n in range(count)
    ]
    return "\n".join([start, *scans])
