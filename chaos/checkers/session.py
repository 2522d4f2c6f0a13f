"""Check the session guarantees of each client by revision, across all nodes it talked to.

After Terry et al., "Session guarantees for weakly consistent replicated data" (1994).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from chaos.checkers.verdict import Finding, Judgement, Verdict
from chaos.records.history import Client, ClientOperation

WRITES = frozenset({"put", "cas", "delete"})


@dataclass
class _Session:
    """The state of one client's session: what it has read and written so far."""

    position: int = 0
    """Highest revision at which it has read."""
    reader: ClientOperation | None = None
    written: int = 0
    writer: ClientOperation | None = None
    versions: dict[str, tuple[int, ClientOperation]] = field(default_factory=dict)
    """Newest version of each key that it has read or written."""


def check(operations: Iterable[ClientOperation]) -> Judgement:
    """Check the writes and the reads at level session or stronger that carry revisions."""
    everything = list(operations)
    ops = [
        o for o in everything if o.level != "stale" and o.outcome == "ok" and o.revision is not None
    ]
    by_client: dict[Client, list[ClientOperation]] = {}
    contents: dict[tuple[int, str], ClientOperation] = {}
    deleted: dict[str, int] = {}
    """Highest revision at which each key may have been deleted."""
    for o in ops:
        by_client.setdefault(o.client, []).append(o)
        if o.op in WRITES and o.result is not False and o.key is not None:
            contents[o.revision or 0, o.key] = o
    for o in everything:
        if o.op == "delete" and o.outcome != "fail" and o.key is not None:
            reach = (o.revision or 0) if o.outcome == "ok" else 1 << 62
            deleted[o.key] = max(deleted.get(o.key, 0), reach)
    findings: list[Finding] = []
    for mine in by_client.values():
        session = _Session()
        for o in sorted(mine, key=lambda o: o.start_ns):
            if o.op in WRITES:
                findings += _write(session, o)
            elif o.op == "get":
                findings += _read(session, o, contents, deleted)
    if not any(o.op == "get" for o in ops):
        findings.append(Finding("nothing_read", "no session read succeeded", Verdict.UNKNOWN))
    return Judgement("session", tuple(findings), len(ops), {"clients": len(by_client)})


def _write(session: _Session, o: ClientOperation) -> Iterable[Finding]:
    revision = o.revision or 0
    if o.result is False:
        return
    if revision <= session.written and session.writer is not None:
        why = f"client {o.client!r} wrote at {revision} after it had written at {session.written}"
        yield Finding("monotonic_writes", why, key=o.key, operations=(session.writer, o))
    if revision <= session.position and session.reader is not None:
        why = f"client {o.client!r} wrote at {revision} after it had read at {session.position}"
        yield Finding("writes_follow_reads", why, key=o.key, operations=(session.reader, o))
    if revision > session.written:
        session.written, session.writer = revision, o
    if o.key is not None:
        session.versions[o.key] = (revision, o)


def _read(
    session: _Session,
    o: ClientOperation,
    contents: dict[tuple[int, str], ClientOperation],
    deleted: dict[str, int],
) -> Iterable[Finding]:
    position, key = o.revision or 0, o.key or ""
    if position < session.position and session.reader is not None:
        why = f"client {o.client!r} read at {position} after it had read at {session.position}"
        yield Finding("monotonic_reads", why, key=key, operations=(session.reader, o))
    if position < session.written and session.writer is not None:
        why = f"client {o.client!r} read at {position}, before its own write at {session.written}"
        yield Finding("read_your_writes", why, key=key, operations=(session.writer, o))
    seen, before = session.versions.get(key, (0, o))
    version = o.version or 0
    gone = o.result is None and deleted.get(key, 0) > seen
    mine_gone = o.result is None and before.op == "delete"
    if version < seen and not gone and not mine_gone:
        own = before.op in WRITES
        why = (
            f"client {o.client!r} read version {version} of {key!r} after "
            f"{'writing' if own else 'reading'} {seen}"
        )
        yield Finding(
            "read_your_writes" if own else "monotonic_reads", why, key=key, operations=(before, o)
        )
    writer = contents.get((version, key))
    if writer is not None and o.result is not None and not _same(writer.value, o.result):
        why = f"version {version} of {key!r} reads {o.result!r}, {writer.value!r} was written"
        yield Finding("wrong_content", why, key=key, operations=(writer, o))
    if version >= seen:
        session.versions[key] = (version, o)
    if position > session.position:
        session.position, session.reader = position, o


def _same(one: Any, other: Any) -> bool:
    return msgspec.json.encode(one, order="deterministic") == msgspec.json.encode(
        other, order="deterministic"
    )
