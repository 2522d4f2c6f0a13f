"""Read versions and facts from the SQL server, many keys in one snapshot.

Each read is one round trip, unless it has more keys than one statement of the dialect takes. It
never returns a value that is not what was written.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from backends.fence import SCRUB_ROWS, bounds_of, checked, hash_of, scrubbed
from backends.postgres import sql
from backends.postgres.connections import Connections, Pool
from backends.postgres.hosts import Connection
from backends.postgres.rows import Snapshot, b64, head_of, operation_of, snapshot_of, version_of
from kv.errors import StoreDamaged
from kv.leases import LEASE_KEYS_MAX
from kv.model import GENESIS, REVISION_MAX, RecordedOperation, Version
from kv.ports import Facts, LeaseAsk, LeaseFacts, Listing, Read, Scrubbed, Span

LIST_VALUES_MAX: Final = 128
"""The number of versions with values fetched by one statement of a listing: at most 8 MiB
inline.
"""

Asked: TypeAlias = list[tuple[bytes, str]]
"""Keys, each with the part of its version that is wanted: `sql.WHOLE`, `sql.HASH` or `sql.BARE`."""
T = TypeVar("T")
_LookedUp: TypeAlias = tuple[
    list[tuple[Asked, list[Any]]], dict[Span, list[Any]], dict[int, LeaseFacts]
]


async def facts(
    connections: Connections,
    op_ids: Sequence[str],
    keys: Sequence[bytes],
    hashed: Sequence[bytes],
    blobs: Sequence[tuple[str, bytes]],
    *,
    spans: Sequence[Span] = (),
    leases: Sequence[LeaseAsk] = (),
    timeout_s: float,
) -> Facts:
    """Read what `evaluate` needs for one group; see the port's `facts`."""
    whole = frozenset(hashed)
    asked = [(key, sql.HASH if key in whole else sql.BARE) for key in dict.fromkeys(keys)]
    owners, hashes = [o for o, _ in blobs], [b64(h) for _, h in blobs]
    head = GENESIS
    operations: dict[str, RecordedOperation] = {}
    versions: dict[bytes, Version] = {}
    found: dict[bytes, bytes] = {}
    staged: set[tuple[str, bytes]] = set()
    snapshots, within, leased = await _looked_up(
        connections,
        connections.writers,
        connections.dialect.facts,
        (list(op_ids), owners, hashes, REVISION_MAX),
        asked,
        spans=spans,
        leases=leases,
        timeout_s=timeout_s,
    )
    for part, rows in snapshots:
        for row in rows:
            match row["n"]:
                case sql.HEAD:
                    head = head_of(row)
                case sql.OPERATION:
                    op_id = row["t"]
                    operations[op_id] = operation_of(op_id, row["x"], row["a"], row["y"], row["b"])
                case sql.STAGED:
                    staged.add((row["t"], row["x"]))
                case n:
                    key, wanted = part[n]
                    version = versions[key] = _version(row, key, connections.name)
                    if version.present and wanted == sql.HASH:
                        found[key] = row["z"] or hash_of(version)
    name = connections.name
    seen = {
        span: tuple(_version(row, row["x"], name) for row in rows) for span, rows in within.items()
    }
    missing = frozenset(set(blobs) - staged)
    return Facts(head, operations, versions, found, missing, seen, leased)


async def read(
    connections: Connections,
    keys: Sequence[bytes],
    at: int | None,
    settled: int,
    *,
    timeout_s: float,
) -> Read:
    """Read the newest version ≤ `at` of each key; see the port's `read`."""
    return await connections.ahead(
        lambda left_s: _read_once(connections, keys, at, settled, left_s),
        lambda found: found.head.last >= settled,
        timeout_s,
    )


async def _read_once(
    connections: Connections, keys: Sequence[bytes], at: int | None, settled: int, timeout_s: float
) -> Read:
    found: dict[bytes, Version] = {}
    snapshot = Snapshot(GENESIS, None, 0)
    asked = [(key, sql.WHOLE) for key in dict.fromkeys(keys)]
    first = (settled, REVISION_MAX if at is None else at)
    name, statement = connections.name, connections.dialect.read
    snapshots, _, _ = await _looked_up(
        connections, connections.readers, statement, first, asked, timeout_s=timeout_s
    )
    for _, rows in snapshots:
        snapshot = snapshot_of(rows, at)
        for row in rows:
            if row["n"] >= 0:
                version = _version(row, row["x"], name)
                found[row["x"]] = checked(version, row["z"], snapshot.unhashed, name)
    return Read(snapshot.head, tuple(found.get(key) for key in keys), snapshot.digest_at)


async def listing(
    connections: Connections,
    bounds: tuple[bytes, bytes],
    limit: int,
    at: int | None,
    settled: int,
    *,
    keys_only: bool,
    timeout_s: float,
) -> Listing:
    """List present keys within `bounds`; see the port's `list`."""
    upto = REVISION_MAX if at is None else at
    wanted = limit if keys_only else min(limit, LIST_VALUES_MAX)
    statement = sql.LIST_KEYS if keys_only else sql.LIST
    name = connections.name

    async def ask(left_s: float) -> tuple[list[Any], Snapshot]:
        rows = await connections.fetch(
            statement, settled, *bounds, upto, wanted + 1, timeout_s=left_s
        )
        return rows, snapshot_of(rows, at)

    rows, snapshot = await connections.ahead(
        ask, lambda found: found[1].head.last >= settled, timeout_s
    )
    versions: list[Version] = []
    for row in rows:
        if row["n"] >= 0:
            version = _version(row, row["x"], name)
            if not keys_only:
                version = checked(version, row["z"], snapshot.unhashed, name)
            versions.append(version)
    versions.sort(key=lambda version: version.key)
    more = len(versions) > wanted
    return Listing(snapshot.head, tuple(versions[:wanted]), more, snapshot.digest_at)


async def exact(
    connections: Connections, at: Sequence[tuple[bytes, int]], *, timeout_s: float
) -> tuple[Version | None, ...]:
    """Return exactly the versions (key, revision); see the port's `versions`."""
    keys, revisions = [b64(key) for key, _ in at], [str(revision) for _, revision in at]
    rows = await connections.fetch(sql.EXACT, keys, revisions, timeout_s=timeout_s)
    name = connections.name
    found = {
        (key, revision): checked(version_of(key, revision, rest, store=name), kept, unhashed, name)
        for key, revision, *rest, kept, unhashed in rows
    }
    return tuple(found.get(asked) for asked in at)


async def scrub(connections: Connections, after: int, *, timeout_s: float) -> Scrubbed:
    """Check the next versions against their hashes; see the port's `scrub`."""
    found: list[tuple[Version | None, bytes, int, bytes]] = []
    rows = await connections.fetch(sql.SCRUB, after, SCRUB_ROWS, timeout_s=timeout_s)
    for key, revision, *rest, kept, _ in rows:
        version: Version | None = None
        with contextlib.suppress(StoreDamaged):
            version = version_of(key, revision, rest, store=connections.name)
        found.append((version, key, revision, kept))
    return scrubbed(found, after, rows[0]["unhashed"] if rows else 0)


async def _looked_up(
    connections: Connections,
    pool: Pool | None,
    statement: Callable[[int], str],
    first: tuple[object, ...],
    asked: Asked,
    *,
    spans: Sequence[Span] = (),
    leases: Sequence[LeaseAsk] = (),
    timeout_s: float,
) -> _LookedUp:
    """Look keys up, and spans and leases, in one snapshot: with one statement, or with a
    transaction of several when there are many keys, or spans or leases.
    """
    dialect = connections.dialect
    parts = list(_parts(asked, dialect.keys_max))

    async def one(connection: Connection, part: Asked, left_s: float) -> list[Any]:
        raw, whole = [key for key, _ in part], [wanted for _, wanted in part]
        named = dialect.keys([b64(key) for key in raw], raw, whole)
        rows: list[Any] = await connection.fetch(
            statement(len(part)), *first, *named, timeout=left_s
        )
        return rows

    async def within(connection: Connection, span: Span, left_s: float) -> list[Any]:
        wanted = sql.WHOLE if span.whole else sql.BARE
        bounds = bounds_of(span.key, span.end)
        rows: list[Any] = await connection.fetch(
            sql.SPAN, *bounds, span.limit, wanted, timeout=left_s
        )
        return rows

    async def body(connection: Connection, left_s: float) -> _LookedUp:
        if len(parts) == 1 and not (spans or leases):
            return [(parts[0], await one(connection, parts[0], left_s))], {}, {}
        async with (
            asyncio.timeout(left_s),
            connection.transaction(isolation="serializable", readonly=True),
        ):
            found = [(part, await one(connection, part, left_s)) for part in parts]
            seen = {span: await within(connection, span, left_s) for span in spans}
            return found, seen, await _leased(connection, leases, left_s)

    return await connections.run(pool, body, timeout_s, writes=False)


async def _leased(
    connection: Connection, leases: Sequence[LeaseAsk], left_s: float
) -> dict[int, LeaseFacts]:
    """Return what is asked of leases, with a statement for all keys and one for all numbers."""
    listed = sorted({lease for lease, whole in leases if whole})
    counted = sorted({lease for lease, whole in leases if not whole} - set(listed))
    keys: dict[int, list[bytes]] = {lease: [] for lease in listed}
    found: dict[int, LeaseFacts] = dict.fromkeys(counted, LeaseFacts(0))
    for statement, asked in ((sql.ALL_ATTACHED, listed), (sql.COUNT_ATTACHED, counted)):
        rows: list[Any] = []
        if asked:
            names = [str(lease) for lease in asked]
            rows = await connection.fetch(statement, names, LEASE_KEYS_MAX, timeout=left_s)
        for row in rows:
            if asked is listed:
                keys[row["lease"]].append(row["key"])
            else:
                found[row["lease"]] = LeaseFacts(row["total"])
    return found | {lease: LeaseFacts(len(its), tuple(its)) for lease, its in keys.items()}


def _version(row: Any, key: bytes, store: str) -> Version:
    """Return the version in a row of the common shape."""
    return version_of(key, row["a"], (row["b"], row["c"], row["t"], row["y"]), store=store)


def _parts(items: list[T], size: int) -> Iterable[list[T]]:
    return (items[n : n + size] for n in range(0, max(len(items), 1), size))
