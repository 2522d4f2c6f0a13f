"""Check the ledger by itself (chain, at most once), and against the answers that clients received.

INV-2, INV-3, INV-4.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from chaos.checkers.verdict import Finding, Judgement
from chaos.records.history import ClientOperation, Lookup
from chaos.records.ledger import GENESIS, Ledger, LedgerRow, roll

WRITES: Final = frozenset(
    {"put", "cas", "delete", "append", "txn", "add", "transfer", "increment", "acquire", "release"}
)


def check(
    ledger: Ledger, operations: Iterable[ClientOperation] = (), lookups: Iterable[Lookup] = ()
) -> Judgement:
    """Check the chain of rows, that no op_id took effect twice, and every operation that has an
    op_id.
    """
    findings = [*_chain(ledger.rows), *_once(ledger)]
    count = 0
    for o in operations:
        if o.op_id is not None and o.op in WRITES:
            count += 1
            findings += _told(ledger, o)
    findings += _looked_up(ledger, lookups)
    return Judgement(
        "ledger", tuple(findings), count + len(ledger.rows), {"rows": len(ledger.rows)}
    )


def _chain(rows: tuple[LedgerRow, ...]) -> list[Finding]:
    before: LedgerRow | None = None
    for row in rows:
        if (why := _broken(row, before)) is not None:
            return [Finding("broken_chain", why)]
        before = row
    return []


def _broken(row: LedgerRow, before: LedgerRow | None) -> str | None:
    """Return why a row cannot follow `before`, or None if it can.

    `before` is None for the first row that was read.
    """
    if before is not None and row.seq != before.seq + 1:
        return f"row {row.seq} follows row {before.seq}"
    last, digest = _start(row, before)
    if row.first != last + 1:
        return f"row {row.seq} begins at revision {row.first}, the one before ends at {last}"
    if row.body and len(row.body) != row.last - row.first + 1:
        intents = f"{len(row.body)} intents for revisions {row.first} to {row.last}"
        return f"row {row.seq} has {intents}"
    if row.last < row.first - 1:
        return f"row {row.seq} ends before it begins"
    if before is not None and row.term < before.term:
        return f"row {row.seq} has term {row.term}, the one before {before.term}"
    if before is not None and 0 < row.index <= before.index:
        return f"row {row.seq} has log index {row.index}, the one before {before.index}"
    if digest is None:
        return None
    for e in row.body:
        digest = roll(digest, e.op_id, e.body_hash)
    if digest != row.digest:
        said, given = row.digest.hex()[:16], digest.hex()[:16]
        return f"row {row.seq} says digest {said}…, its intents give {given}…"
    return None


def _start(row: LedgerRow, before: LedgerRow | None) -> tuple[int, bytes | None]:
    """Return the revision and the digest before a row.

    The digest is None if the rows before it are not known.
    """
    if before is not None:
        return before.last, before.digest
    if row.seq == 1:
        return 0, GENESIS
    return row.first - 1, None


def _once(ledger: Ledger) -> list[Finding]:
    findings = []
    first: dict[str, int] = {}
    for e in ledger.intents.values():
        if e.outcome != "applied":
            if e.keys:
                why = f"revision {e.revision} is {e.outcome} and changed {e.keys[0]!r}"
                findings.append(Finding("refusal_with_effect", why, key=e.keys[0]))
            continue
        if e.op_id in first:
            why = (
                f"op_id {e.op_id} took effect at revision {first[e.op_id]} and again at "
                f"{e.revision}"
            )
            findings.append(Finding("applied_twice", why, key=e.keys[0] if e.keys else None))
        first.setdefault(e.op_id, e.revision)
    return findings


def _told(ledger: Ledger, o: ClientOperation) -> list[Finding]:
    assert o.op_id is not None
    found = ledger.applied.get(o.op_id)
    effect = o.outcome == "ok" and o.result is not False
    if o.outcome == "fail" and found is not None:
        why = f"{o.op} {o.op_id} was refused for good, and took effect at revision {found}"
        return [Finding("failed_write_applied", why, key=o.key, operations=(o,))]
    if not effect:
        if (
            o.outcome == "ok"
            and o.op == "delete"
            and found is not None
            and (keys := ledger.intents[found].keys)
        ):
            why = (
                f"delete {o.op_id} was told that its key was absent, and yet changed "
                f"{keys[0]!r} at revision {found}"
            )
            return [Finding("effect_of_nothing", why, key=o.key, operations=(o,))]
        if o.outcome == "ok" and o.op == "cas" and found is not None:
            why = (
                f"cas {o.op_id} was told that its guard failed, and took effect at revision {found}"
            )
            return [Finding("failed_write_applied", why, key=o.key, operations=(o,))]
        return []
    if found is None and (ledger.whole or (o.revision or 0) >= ledger.first):
        why = f"{o.op} {o.op_id} was acknowledged at revision {o.revision}, and the ledger lacks it"
        return [Finding("acknowledged_write_lost", why, key=o.key, operations=(o,))]
    if found is not None and o.revision is not None and found != o.revision:
        why = (
            f"{o.op} {o.op_id} was acknowledged at revision {o.revision}, the ledger has it "
            f"at {found}"
        )
        return [Finding("wrong_revision", why, key=o.key, operations=(o,))]
    return []


def _looked_up(ledger: Ledger, lookups: Iterable[Lookup]) -> list[Finding]:
    findings = []
    answers: dict[str, Lookup] = {}
    for found in lookups:
        if found.answer == "unknown":
            continue
        first = answers.setdefault(found.lookup, found)
        if (first.answer, first.revision) != (found.answer, found.revision):
            why = (
                f"op_id {found.lookup} was {first.answer} at {first.revision}, later "
                f"{found.answer} at {found.revision}"
            )
            findings.append(Finding("answer_changed", why))
        revision = ledger.applied.get(found.lookup)
        if (found.answer == "applied") != (revision is not None) and (
            ledger.whole or revision is not None
        ):
            why = (
                f"op_id {found.lookup} was looked up as {found.answer}, the ledger says "
                f"revision {revision}"
            )
            findings.append(Finding("wrong_answer", why))
    return findings
