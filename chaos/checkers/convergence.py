"""Check whether, after healing, every node, the ledger and the broker's stream agree.

It uses only what was reported over HTTP and AMQP, imports nothing of the nodes, and computes every
digest anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from chaos.checkers import ledger as ledger_checker
from chaos.checkers.verdict import Finding, Judgement, Verdict
from chaos.records.final_state import Evidence, FinalRead, MemberState
from chaos.records.history import ClientOperation, Watched
from chaos.records.ledger import GENESIS, Ledger, roll


def check(
    evidence: Evidence,
    ledger: Ledger,
    operations: Iterable[ClientOperation] = (),
    broker: Sequence[Watched] = (),
) -> Judgement:
    """Compare the members with each other and with the ledger, and compare the final reads and the
    broker's events with the ledger.
    """
    findings = [
        *ledger_checker.check(ledger).findings,
        *_members(evidence, ledger),
        *_reads(evidence, ledger, list(operations)),
    ]
    if not ledger.read:
        why = "the ledger could not be read: members and reads are held against each other alone"
        findings.append(Finding("no_ledger", why, Verdict.UNKNOWN))
    elif evidence.broker:
        findings += _broker(ledger, broker, wiped=evidence.wiped)
    figures = {
        "members": len(evidence.members),
        "reads": len(evidence.reads),
        "rows": len(ledger.rows),
    }
    return Judgement(
        "convergence", tuple(findings), len(evidence.members) + len(evidence.reads), figures
    )


def _members(evidence: Evidence, ledger: Ledger) -> list[Finding]:
    findings = []
    for node in evidence.nodes:
        if not any(m.node == node for m in evidence.members):
            findings.append(Finding("no_answer", f"{node} did not say its state", Verdict.UNKNOWN))
    digests = _digests(ledger)
    by_settled: dict[int, MemberState] = {}
    for m in evidence.members:
        other = by_settled.setdefault(m.settled, m)
        if other.digest != m.digest:
            why = (
                f"{other.node} has digest {other.digest[:16]}… at {m.settled}, {m.node} has "
                f"{m.digest[:16]}…"
            )
            findings.append(Finding("diverged", why))
        right = digests.get(m.settled)
        if right is not None and right.hex() != m.digest:
            why = (
                f"{m.node} has digest {m.digest[:16]}… at {m.settled}, the ledger gives "
                f"{right.hex()[:16]}…"
            )
            findings.append(Finding("differs_from_ledger", why))
    if len(by_settled) > 1:
        positions = ", ".join(f"{m.node} at {m.settled}" for m in evidence.members)
        findings.append(Finding("not_converged", f"members settled differently: {positions}"))
    if by_settled and ledger.rows and max(by_settled) != ledger.last:
        why = f"members settled {max(by_settled)}, the ledger ends at {ledger.last}"
        findings.append(Finding("not_converged", why))
    return findings


def _digests(ledger: Ledger) -> dict[int, bytes]:
    """Return the digest after each revision, computed from the first row whose digest can be
    trusted.
    """
    digest: bytes | None = GENESIS if ledger.whole else None
    found: dict[int, bytes] = {0: GENESIS} if ledger.whole else {}
    for row in ledger.rows:
        if digest is None:
            digest = row.digest
        else:
            for e in row.body:
                digest = roll(digest, e.op_id, e.body_hash)
                found[e.revision] = digest
        found[row.last] = digest
    return found


def _reads(
    evidence: Evidence, ledger: Ledger, operations: Sequence[ClientOperation]
) -> list[Finding]:
    findings: list[Finding] = []
    newest: dict[str, int] = {}
    for revision, keys in ledger.changes.items():
        for key in keys:
            newest[key] = revision
    by_key: dict[str, list[FinalRead]] = {}
    for read in evidence.reads:
        by_key.setdefault(read.key, []).append(read)
    written: dict[int, ClientOperation] = {
        o.revision: o
        for o in operations
        if o.op in {"put", "cas", "delete"}
        and o.outcome == "ok"
        and o.result is not False
        and o.revision is not None
    }
    for key, reads in by_key.items():
        findings += _agree(key, reads, newest.get(key), ledger, written)
        for node in evidence.nodes:
            for level in evidence.levels:
                if not any(r.node == node and r.level == level for r in reads):
                    why = f"{key!r} was not read through {node} at level {level}"
                    findings.append(Finding("not_read", why, Verdict.UNKNOWN, key))
    for o in written.values():
        if o.key is not None and o.key not in by_key:
            why = f"{o.key!r} was written and not read at the end"
            findings.append(Finding("not_read", why, Verdict.UNKNOWN, o.key, (o,)))
            break
    return findings


def _agree(
    key: str,
    reads: Sequence[FinalRead],
    newest: int | None,
    ledger: Ledger,
    written: dict[int, ClientOperation],
) -> Iterable[Finding]:
    first = reads[0]
    for r in reads[1:]:
        if (r.version, _text(r.value)) != (first.version, _text(first.value)):
            one, other = (f"{x.node}/{x.level}: {x.value!r} of {x.version}" for x in (first, r))
            yield Finding("reads_differ", f"{key!r} is {one}, {other}", key=key)
            return
    if newest is None:
        if ledger.whole and first.value is not None:
            yield Finding(
                "not_in_ledger", f"{key!r} is {first.value!r}, the ledger never changed it", key=key
            )
        return
    o = written.get(newest)
    if first.value is not None and first.version != newest:
        why = f"{key!r} has version {first.version}, the ledger changed it last at {newest}"
        yield Finding("differs_from_ledger", why, key=key, operations=(o,) if o else ())
    elif (
        o is not None
        and o.key == key
        and _text(None if o.op == "delete" else o.value) != _text(first.value)
    ):
        why = (
            f"{key!r} is {first.value!r}, revision {newest} made it "
            f"{None if o.op == 'delete' else o.value!r}"
        )
        yield Finding("wrong_content", why, key=key, operations=(o,))


def _broker(ledger: Ledger, broker: Sequence[Watched], *, wiped: bool) -> Iterable[Finding]:
    events = [w for w in broker if w.kind == "event"]
    notified = list(dict.fromkeys((w.revision or 0, w.key or "") for w in events))
    begun = min((r for r, _ in notified), default=0)
    due = [(r, k) for r, keys in ledger.changes.items() for k in keys if r >= begun]
    missing, strange = set(due) - set(notified), set(notified) - set(due)
    for revision, key in () if wiped else sorted(missing)[:5]:
        yield Finding(
            "not_broadcast",
            f"{key!r} of revision {revision} is in the ledger, the subscriber lacks it",
        )
    for revision, key in sorted(strange)[:5]:
        if revision >= ledger.first:
            yield Finding(
                "uncommitted", f"{key!r} of revision {revision} was broadcast, the ledger lacks it"
            )
    revisions = [r for r, _ in notified]
    if revisions != sorted(revisions):
        yield Finding(
            "not_ordered",
            "the subscriber was first notified of an older revision after a newer one",
        )
    if not notified and ledger.changes:
        yield Finding(
            "nothing_broadcast", "the subscriber was notified of nothing", Verdict.UNKNOWN
        )


def _text(value: Any) -> bytes:
    return msgspec.json.encode(value, order="deterministic")
