"""Check that all members answer with the same ledger and the same contents, row by row.

It compares what each member answered by itself when nobody wrote. It never trusts a digest that a
member computed: rows and keys are compared whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from chaos.checkers.verdict import Finding, Judgement, Verdict
from chaos.records.final_state import CopiedKey, CopiedRow, Evidence, MemberCopy
from chaos.records.ledger import Ledger

SHOWN_MAX: Final = 5
"""Most differences of one kind that are told of one member."""
CHARS_MAX: Final = 60


def check(evidence: Evidence, ledger: Ledger) -> Judgement:
    """Compare every member's copy with the first one's, and its keys with the ledger.

    Members prune their rows when they like, so ledgers are compared from where both begin.
    """
    copies = evidence.copies
    findings = []
    for node in evidence.nodes:
        if not any(copy.node == node for copy in copies):
            why = f"{node}: its ledger and contents could not be read whole"
            findings.append(Finding("no_copy", why, Verdict.UNKNOWN))
    for copy in copies:
        findings += _gaps(copy)
        findings += _newest_versions(copy, ledger)
    for copy in copies[1:]:
        findings += _rows(copies[0], copy)
        findings += _contents(copies[0], copy)
    figures = {
        "members": len(copies),
        "rows": sum(len(copy.rows) for copy in copies),
        "keys": sum(len(copy.keys) for copy in copies),
    }
    return Judgement("copies", tuple(findings), figures["rows"] + figures["keys"], figures)


def _gaps(copy: MemberCopy) -> Iterator[Finding]:
    for before, row in zip(copy.rows, copy.rows[1:], strict=False):
        if row.seq != before.seq + 1 or row.first != before.last + 1:
            why = (
                f"{copy.node}: row {row.seq} from revision {row.first} follows row {before.seq} to "
                f"revision {before.last}"
            )
            yield Finding("ledger_gap", why)
            return


def _newest_versions(copy: MemberCopy, ledger: Ledger) -> list[Finding]:
    """Return the keys of a member that are not as the ledger changed them last."""
    newest: dict[str, int] = {}
    for revision, keys in ledger.changes.items():
        if revision <= copy.revision:
            newest |= dict.fromkeys(keys, revision)
    findings = []
    for each in copy.keys:
        if each.revision > ledger.last:
            continue  # the ledger was read before this change
        right = newest.get(each.key, 0)
        if right != each.revision and (right or ledger.whole):
            last = f"the ledger changed it last at {right}" if right else "the ledger never did"
            why = f"{copy.node}: {each.key!r} has version {each.revision}, {last}"
            findings.append(Finding("differs_from_ledger", why, key=each.key))
    return findings[:SHOWN_MAX]


def _rows(one: MemberCopy, other: MemberCopy) -> Iterator[Finding]:
    if not one.rows or not other.rows:
        if one.rows or other.rows:
            empty = other if one.rows else one
            yield Finding("ledgers_differ", f"{empty.node} has no ledger row, another member has")
        return
    begin = max(one.rows[0].seq, other.rows[0].seq)
    end = min(one.rows[-1].seq, other.rows[-1].seq)
    if one.rows[-1].seq != other.rows[-1].seq:
        ends = f"{one.node} ends at row {one.rows[-1].seq}, {other.node} at {other.rows[-1].seq}"
        yield Finding("ledgers_differ", f"the ledger of {ends}")
    found = {row.seq: row for row in other.rows}
    differing = [
        (row, found.get(row.seq))
        for row in one.rows
        if begin <= row.seq <= end and row != found.get(row.seq)
    ]
    for row, another in differing[:SHOWN_MAX]:
        what = "which lacks it" if another is None else _fields(row, another)
        why = f"row {row.seq} of {one.node} differs from that of {other.node}: {what}"
        yield Finding("ledgers_differ", f"{why} ({len(differing)} rows differ)")


def _contents(one: MemberCopy, other: MemberCopy) -> Iterator[Finding]:
    if one.revision != other.revision:
        at = f"{one.node} at revision {one.revision}, {other.node} at {other.revision}"
        why = f"the contents were read of {at}"
        yield Finding("contents_not_comparable", why, Verdict.UNKNOWN)
        return
    mine = {each.key: each for each in one.keys}
    others = {each.key: each for each in other.keys}
    differing = [k for k in sorted({*mine, *others}) if mine.get(k) != others.get(k)]
    for key in differing[:SHOWN_MAX]:
        a, b = mine.get(key), others.get(key)
        if a is None or b is None:
            what = f"{(one if b is None else other).node} alone has it"
        else:
            what = _fields(a, b)
        why = f"{key!r} of {one.node} differs from that of {other.node}: {what}"
        more = f" ({len(differing)} keys differ)"
        yield Finding("contents_differ", why + more, key=key)


def _fields(one: CopiedRow | CopiedKey, other: CopiedRow | CopiedKey) -> str:
    """Return the fields in which two records differ, with both values."""
    a, b = msgspec.structs.asdict(one), msgspec.structs.asdict(other)
    return ", ".join(
        f"{name} {_short(a[name])} and {_short(b[name])}" for name in a if a[name] != b.get(name)
    )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= CHARS_MAX else text[:CHARS_MAX] + "…"
