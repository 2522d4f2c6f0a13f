"""Refuse every SQL form that breaks on CockroachDB or PostgreSQL, over all statements that the
adapter can send.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import backends.postgres
from backends.postgres import dialects, schema, sql
from backends.postgres.connections import Connections

FORBIDDEN = {
    "star select": r"SELECT\s+(DISTINCT\s+)?(\w+\.)?\*",
    "collation": r"\bCOLLATE\b",
    "short int": r"::int\b|\bint\s+(NOT NULL|PRIMARY|,)|\binteger\b|\bint4\b|\bbigint\b",
    "array type other than text[]": r"\b(?!text\b)\w+\[\]",
    "row limit by cursor": r"\bDECLARE\b|\bFETCH\b",
    "notification": r"\b(LISTEN|NOTIFY|pg_notify)\b",
    "advisory lock": r"pg_\w*advisory",
    "generated id": r"\b(BIG|SMALL)?SERIAL\b|\bnextval\b|\bGENERATED\b|unique_rowid",
    "insert-or-update trick": r"\bxmax\b|\btxid_current\b",
    "interval without a cast": r"\$\d+(?!::)\s*\*\s*interval|::int8\s*\*\s*interval|make_interval",
    "server-side hash": r"\bsha256\s*\(|\bmd5\s*\(|\bdigest\s*\(",
    "integer division": r"\s/\s",
    "session setting": r"^\s*(SET|RESET|SHOW)\s",
    "one dialect only": r"\bMERGE\b|\bDO\s+\$|SKIP LOCKED|\bCOPY\b|\bUPSERT\b|AS OF SYSTEM TIME"
    r"|USING HASH|ON COMMIT",
}
SENDS = ("fetch", "execute", "change")
SOURCE = "\n".join(
    path.read_text() for path in sorted(Path(backends.postgres.__file__).parent.glob("*.py"))
)


def statements() -> Iterator[tuple[str, str]]:
    """Yield (name, text) of every statement that the adapter can send."""
    for name, value in (*vars(sql).items(), *vars(schema).items()):
        if name.startswith("__") or name in {"APPLICATION", "annotations"}:
            continue
        if isinstance(value, str) and not name.startswith("_"):
            yield name, value
        if name == "MIGRATIONS":
            for number, version in enumerate(value, 1):
                yield from ((f"migration {number}.{n}", text) for n, text in enumerate(version))
    for dialect in (dialects.Postgres, dialects.Cockroach):
        for count in (1, 2, 3, 100, dialects.KEYS_MAX):
            yield f"{dialect.name} read {count}", dialect.read(count)
            yield f"{dialect.name} facts {count}", dialect.facts(count)
    for call in ast.walk(ast.parse(SOURCE)):
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr in SENDS
            and call.args
        ):
            first = call.args[0]
            if isinstance(first, ast.Constant):
                yield f"line {call.lineno}", str(first.value)


def faults(text: str) -> list[str]:
    """Return what is wrong with one statement."""
    bare = re.sub(r"--[^\n]*|'[^']*'", "''", text)
    found = [name for name, pattern in FORBIDDEN.items() if re.search(pattern, bare, re.IGNORECASE)]
    found += [f"placeholder ${n} without a cast" for n in re.findall(r"\$(\d+)(?!\d|::)", bare)]
    changed = re.findall(r"(?:INSERT INTO|(?<!DO )UPDATE|DELETE FROM)\s+(\w+)", bare, re.IGNORECASE)
    found += [
        f"{table} changed twice" for table in sorted({t for t in changed if changed.count(t) > 1})
    ]
    if re.search(r"ON CONFLICT DO", bare):
        found.append("conflict without its columns")
    return found


ALL = dict(statements())


@pytest.mark.parametrize("name", ALL)
def test_statement_is_portable(name: str) -> None:
    assert faults(ALL[name]) == []


def test_all_statements_are_looked_at() -> None:
    sent = set(re.findall(r"\b(?:sql|schema)\.([A-Z][A-Z_]+)\b", SOURCE))
    constants = {
        "HEAD",
        "OPERATION",
        "STAGED",
        "AT_SETTLED",
        "FLOOR",
        "KEYS_MAX",
        "APPLICATION",
        "MIGRATIONS",
    }
    assert sent - constants <= set(ALL)
    assert len(ALL) > 50


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("SELECT * FROM acordo_ops", "star select"),
        ("SELECT v.* FROM acordo_versions v", "star select"),
        ("SELECT a FROM t WHERE k = $1", "placeholder $1 without a cast"),
        ("SELECT $1::int", "short int"),
        ("SELECT unnest($1::bytea[])", "array type other than text[]"),
        ("SELECT unnest($1::int8[])", "array type other than text[]"),
        ('SELECT k FROM t ORDER BY k COLLATE "C"', "collation"),
        ("LISTEN changes", "notification"),
        ("SELECT pg_try_advisory_lock(1::int8)", "advisory lock"),
        ("CREATE TABLE t (id BIGSERIAL)", "generated id"),
        ("SELECT now() + $1::int8 * interval '1 second'", "interval without a cast"),
        ("SELECT sha256(v) FROM t", "server-side hash"),
        ("SELECT a / b FROM t", "integer division"),
        ("SET lock_timeout = 5", "session setting"),
        ("INSERT INTO t (a) SELECT 1::int8 ON CONFLICT DO NOTHING", "conflict without its columns"),
        (
            "WITH a AS (DELETE FROM t RETURNING k) INSERT INTO t (k) SELECT k FROM a",
            "t changed twice",
        ),
        ("SELECT k FROM t FOR UPDATE SKIP LOCKED", "one dialect only"),
    ],
)
def test_a_forbidden_form_is_refused(text: str, fault: str) -> None:
    assert fault in faults(text)


def test_the_adapter_leaves_no_portal_open_and_names_its_isolation() -> None:
    for call in ast.walk(ast.parse(SOURCE)):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
            continue
        assert call.func.attr not in {
            "fetchrow",
            "fetchval",
            "cursor",
            "executemany",
            "add_listener",
            "prepare",
        }
        if call.func.attr == "transaction":
            assert {"isolation"} <= {keyword.arg for keyword in call.keywords}


def test_an_unknown_completion_is_caught_before_what_is_retried() -> None:
    import asyncpg  # type: ignore[import-untyped]  # ships no types

    assert issubclass(asyncpg.StatementCompletionUnknownError, asyncpg.TransactionRollbackError)
    handlers = [
        ast.unparse(handler.type)
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(Connections.run))))
        if isinstance(node, ast.Try)
        for handler in node.handlers
        if handler.type is not None
    ]
    assert handlers.index("_UNKNOWN") < handlers.index("ROLLED_BACK")
