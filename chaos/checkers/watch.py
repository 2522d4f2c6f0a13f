"""Check the events that watchers and subscribers received against the ledger's order (INV-6).

The names of the properties are those of etcd's robustness tests: ordered, unique, atomic, reliable,
resumable, bookmarkable. Two more are checked: filtered, and nothing uncommitted. The broker
delivers at least once, so its repeated events are dropped before the other checks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from chaos.checkers.verdict import Finding, Judgement, Verdict
from chaos.records.history import ClientOperation, Watched
from chaos.records.ledger import Ledger

FINDINGS_MAX: Final = 5
"""Most findings of one kind that are listed for one watcher."""


@dataclass
class _Stream:
    """One connection of a watcher: where it was to begin and what it received."""

    watcher: str
    prefix: str
    after: int | None
    """Revision after which it resumed; None: it began at whatever was current."""
    resumed: bool
    events: list[Watched] = field(default_factory=list)
    """Events and bookmarks in the order of arrival."""
    cut: bool = False


@dataclass
class _Truth:
    """The committed order, taken from the ledger and the clients' operations."""

    ledger: Ledger
    revisions: list[int]
    """Revisions with at least one change, in ascending order."""
    contents: dict[tuple[int, str], tuple[Any, ClientOperation]]
    """Value that each revision gave each key (None: deleted), and the operation that wrote it."""

    def between(self, low: int, high: int, prefix: str) -> list[tuple[int, str]]:
        """Return (revision, key) of every change under the prefix in (low, high]."""
        chosen = self.revisions[
            bisect_right(self.revisions, low) : bisect_right(self.revisions, high)
        ]
        return [(r, k) for r in chosen for k in self.ledger.changes[r] if k.startswith(prefix)]


def check(
    watched: Iterable[Watched], ledger: Ledger, operations: Iterable[ClientOperation] = ()
) -> Judgement:
    """Check every watcher. The acknowledged `operations` give the value of each revision."""
    if not ledger.read:
        why = (
            "the ledger could not be read: nobody knows what watchers should have been notified of"
        )
        return Judgement("watch", (Finding("no_ledger", why, Verdict.UNKNOWN),))
    contents: dict[tuple[int, str], tuple[Any, ClientOperation]] = {}
    for o in operations:
        if o.outcome == "ok" and o.result is not False and o.revision is not None:
            for key, value in _written(o):
                contents[o.revision, key] = (value, o)
    truth = _Truth(ledger, sorted(ledger.changes), contents)
    by_watcher: dict[str, list[Watched]] = {}
    for w in watched:
        by_watcher.setdefault(w.watcher, []).append(w)
    findings: list[Finding] = []
    events = 0
    for watcher, mine in by_watcher.items():
        found_here = _watcher(watcher, mine, truth)
        events += sum(w.kind == "event" for w in mine)
        kinds: dict[str, int] = {}
        for found in found_here:
            kinds[found.anomaly] = kinds.get(found.anomaly, 0) + 1
            if kinds[found.anomaly] <= FINDINGS_MAX:
                findings.append(found)
    if not events:
        findings.append(Finding("nothing_watched", "no watcher was told anything", Verdict.UNKNOWN))
    return Judgement(
        "watch", tuple(findings), events, {"watchers": len(by_watcher), "events": events}
    )


def _watcher(watcher: str, mine: Sequence[Watched], truth: _Truth) -> list[Finding]:
    streams, target, findings = _streams(watcher, mine)
    reached = 0
    for stream in streams:
        if mine[0].channel == "broker":
            stream.events = _without_repeats(stream.events)
        findings += _one(stream, truth)
        reached = max([reached, stream.after or 0, *(w.revision or 0 for w in stream.events)])
    if target is not None and not streams:
        findings.append(
            _found(
                "behind",
                watcher,
                f"was never connected, and was due up to {target}",
                Verdict.UNKNOWN,
            )
        )
    if target is not None and streams:
        missing = truth.between(reached, target, streams[-1].prefix)
        if missing:
            # No later event arrived either, so the watcher may only be slow. The verdict is
            # UNKNOWN, which fails the run too.
            why = (
                f"ended at {reached}; {len(missing)} changes up to {target} never came, "
                f"first {missing[0]}"
            )
            findings.append(_found("behind", watcher, why, Verdict.UNKNOWN))
    return findings


def _streams(
    watcher: str, mine: Sequence[Watched]
) -> tuple[list[_Stream], int | None, list[Finding]]:
    streams: list[_Stream] = []
    findings: list[Finding] = []
    target: int | None = None
    position: int | None = None
    for w in mine:
        if w.kind == "open":
            if (
                streams
                and position is not None
                and w.revision is not None
                and w.revision > position
            ):
                why = f"resumed after {w.revision}, but had been told only up to {position}"
                findings.append(_found("not_resumable", watcher, why))
            streams.append(_Stream(watcher, w.prefix or "", w.revision, bool(streams)))
        elif w.kind in {"event", "bookmark"}:
            if not streams:
                streams.append(_Stream(watcher, w.prefix or "", None, False))
            streams[-1].events.append(w)
            position = max(position or 0, w.revision or 0)
        elif w.kind in {"closed", "gone"}:
            if streams:
                streams[-1].cut = True
            if w.kind == "gone":
                # A clear 410: the watcher knows that it missed something, and begins anew.
                position = None
        else:
            target = w.revision
    return streams, target, findings


def _without_repeats(events: Sequence[Watched]) -> list[Watched]:
    seen: set[tuple[int | None, str | None]] = set()
    kept = []
    for w in events:
        if w.kind == "bookmark" or (w.revision, w.key) not in seen:
            kept.append(w)
        seen.add((w.revision, w.key))
    return kept


def _one(stream: _Stream, truth: _Truth) -> list[Finding]:
    findings: list[Finding] = []
    say = findings.append
    seen: set[tuple[int, str]] = set()
    highest = stream.after or 0
    begun: set[int] = set()
    marked = stream.after or 0
    for w in stream.events:
        revision, key = w.revision or 0, w.key or ""
        if w.kind == "bookmark":
            if revision < highest:
                say(_found("bookmark_fell", stream.watcher, f"bookmark {revision} after {highest}"))
            marked = highest = max(highest, revision)
            continue
        if (revision, key) in seen:
            say(_found("not_unique", stream.watcher, f"{key!r} of revision {revision} came twice"))
            continue
        seen.add((revision, key))
        if not key.startswith(stream.prefix):
            say(
                _found("not_filtered", stream.watcher, f"{key!r} came, asked for {stream.prefix!r}")
            )
        if revision <= marked:
            name = "not_bookmarkable" if marked != stream.after else "not_resumable"
            say(
                _found(
                    name,
                    stream.watcher,
                    f"{key!r} of revision {revision} came after position {marked}",
                )
            )
        elif revision < highest and revision in begun:
            say(
                _found(
                    "not_atomic",
                    stream.watcher,
                    f"revision {revision} came in two parts, {highest} between them",
                )
            )
        elif revision < highest:
            say(_found("not_ordered", stream.watcher, f"revision {revision} came after {highest}"))
        begun.add(revision)
        highest = max(highest, revision)
        findings += _committed(stream, w, truth)
    findings += _gaps(stream, seen, truth)
    return findings


def _committed(stream: _Stream, w: Watched, truth: _Truth) -> Iterable[Finding]:
    revision, key = w.revision or 0, w.key or ""
    ledger = truth.ledger
    if revision >= ledger.first and key not in ledger.changes.get(revision, ()):
        why = f"{key!r} of revision {revision} came, the ledger has no such change"
        yield _found("uncommitted", stream.watcher, why)
        return
    if (revision, key) not in truth.contents:
        return
    value, o = truth.contents[revision, key]
    if w.deleted != (value is None) or not _same(w.value, value):
        came = "a delete" if w.deleted else repr(w.value)
        made = "a delete" if value is None else repr(value)
        why = f"{key!r} of revision {revision} came as {came}, it was {made}"
        yield Finding("wrong_content", f"watcher {stream.watcher}: {why}", key=key, operations=(o,))


def _gaps(stream: _Stream, seen: set[tuple[int, str]], truth: _Truth) -> Iterable[Finding]:
    """Find changes that never arrived, between the start of the stream and its last event or
    bookmark.
    """
    revisions = [w.revision or 0 for w in stream.events]
    if not revisions:
        return
    events = [w.revision or 0 for w in stream.events if w.kind == "event"]
    # A stream that was opened without a position begins at its first record: at the event itself,
    # or after the bookmark.
    begun = (
        stream.after
        if stream.after is not None
        else revisions[0] - (stream.events[0].kind == "event")
    )
    last = max(revisions)
    bookmarked = max((w.revision or 0 for w in stream.events if w.kind == "bookmark"), default=0)
    # If the connection was cut, the last revision may be incomplete: the position to resume from
    # covers only whole revisions, so the rest comes after reconnecting.
    whole = last if bookmarked >= last or not stream.cut else last - 1
    first = min(events, default=last)
    partial = {r for r, _ in seen}
    for revision, key in truth.between(begun, whole, stream.prefix):
        if (revision, key) in seen:
            continue
        if revision in partial:
            yield _found("not_atomic", stream.watcher, f"revision {revision} came without {key!r}")
        elif stream.resumed and revision < first:
            why = f"resumed after {stream.after}, and {key!r} of revision {revision} never came"
            yield _found("not_resumable", stream.watcher, why)
        elif revision <= bookmarked and revision > max(
            (e for e in events if e <= bookmarked), default=0
        ):
            why = f"bookmark {bookmarked} came, {key!r} of revision {revision} did not"
            yield _found("not_bookmarkable", stream.watcher, why)
        else:
            why = f"{key!r} of revision {revision} never came, {last} did"
            yield _found("not_reliable", stream.watcher, why)


def _written(o: ClientOperation) -> Iterable[tuple[str, Any]]:
    if o.op in {"put", "cas", "delete"} and o.key is not None:
        yield o.key, None if o.op == "delete" else o.value
    elif o.op == "txn":
        for kind, key, value in o.value:
            if kind == "w":
                yield key, value


def _found(anomaly: str, watcher: str, why: str, verdict: Verdict = Verdict.ILLEGAL) -> Finding:
    return Finding(anomaly, f"watcher {watcher}: {why}", verdict)


def _same(one: Any, other: Any) -> bool:
    return msgspec.json.encode(one, order="deterministic") == msgspec.json.encode(
        other, order="deterministic"
    )
