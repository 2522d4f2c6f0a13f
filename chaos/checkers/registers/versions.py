"""Check strict serializability over any number of keys, with the cluster's revisions as the
witness.

It trusts the revisions, which is why it never replaces `register`; in return it finds anomalies
that span keys. A read may have happened anywhere between the newest version that it saw and the
next write to one of its keys. These spans, and the revisions of writes, must agree with real time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from chaos.checkers.verdict import Finding, Judgement
from chaos.records.history import ClientOperation
from chaos.records.ledger import Ledger

LINEARIZABLE: Final = frozenset({None, "linearizable"})
ALWAYS: Final = 1 << 62


@dataclass(frozen=True)
class _Write:
    """One write of one key, with its revision."""

    revision: int
    value: Any
    operation: ClientOperation | None


@dataclass
class _Timeline:
    """The known writes to one key, ordered by revision."""

    revisions: list[int] = field(default_factory=list)
    writes: list[_Write] = field(default_factory=list)

    def put(self, write: _Write) -> None:
        at = bisect_left(self.revisions, write.revision)
        self.revisions.insert(at, write.revision)
        self.writes.insert(at, write)

    def at(self, revision: int) -> _Write | None:
        """Return the last write at or below a revision; None if there is none."""
        n = bisect_right(self.revisions, revision)
        return self.writes[n - 1] if n else None

    def after(self, revision: int) -> int:
        """Return the revision of the next write above `revision`; ALWAYS if there is none."""
        n = bisect_right(self.revisions, revision)
        return self.revisions[n] if n < len(self.revisions) else ALWAYS


@dataclass(frozen=True)
class _Read:
    """One key and value as an answer returned it."""

    key: str
    value: Any
    version: int | None
    """Revision that the answer states for the value; None if it states none."""


@dataclass
class _Access:
    """One operation, reduced to what it wrote and what it observed."""

    operation: ClientOperation
    writes: dict[str, Any] = field(default_factory=dict)
    reads: list[_Read] = field(default_factory=list)
    differs: tuple[str, Any] | None = None
    """Set by a refused guard: the key did not have this value."""
    present: str | None = None
    """Set by a delete: this key existed."""


def check(
    operations: Iterable[ClientOperation], *, initial: Any = None, ledger: Ledger | None = None
) -> Judgement:
    """Check every linearizable operation that carries a revision.

    `ledger` adds the revisions of writes whose answer was lost (found by op_id) and of deletes by
    expiry.
    """
    accesses = [a for o in operations if o.level in LINEARIZABLE and (a := _access(o)) is not None]
    witness = _Witness(initial, ledger)
    witness.learn(accesses)
    judged = sum(witness.judge(a) for a in accesses)
    witness.follow_time()
    return Judgement(
        "versions", tuple(witness.findings), judged, {"revisions": len(witness.owners)}
    )


def _access(o: ClientOperation) -> _Access | None:
    a = _Access(o)
    known = o.outcome == "ok"
    key = o.key or ""
    match o.op:
        case "put":
            a.writes[key] = o.value
        case "get":
            if not known:
                return None
            a.reads.append(_Read(key, o.result, o.version))
        case "cas" if known and o.result is False:
            a.differs = (key, o.expected)
        case "cas":
            a.reads += [_Read(key, o.expected, None)] if known else []
            a.writes[key] = o.value
        case "delete" if known and o.result is False:
            a.reads.append(_Read(key, None, None))
        case "delete":
            a.present = key if known and o.result is True else None
            a.writes[key] = None
        case "txn":
            _transaction(a, o)
        case _:
            return None
    return a


def _transaction(a: _Access, o: ClientOperation) -> None:
    """Add a transaction: all reads come before all writes, and an append extends the list that was
    read.

    An empty list counts as an absent key.
    """
    answered = o.outcome == "ok" and isinstance(o.result, list)
    current: dict[str, Any] = {}
    for kind, key, value in o.result if answered else o.value:
        if kind == "r":
            if key not in a.writes and answered:
                a.reads.append(_Read(key, None if value == [] else value, None))
                current[key] = value
        elif kind == "w":
            a.writes[key] = value
        elif (before := a.writes.get(key, current.get(key, msgspec.UNSET))) is not msgspec.UNSET:
            a.writes[key] = [*(before or ()), value]
        else:
            a.writes[key] = msgspec.UNSET  # unknown: the list it appended to was not read


class _Witness:
    """The cluster's revisions, compared with what each operation saw at its own revision."""

    def __init__(self, initial: Any, ledger: Ledger | None) -> None:
        self.initial, self.ledger = initial, ledger
        self.findings: list[Finding] = []
        self.owners: dict[int, ClientOperation] = {}
        self.timelines: dict[str, _Timeline] = {}
        self._unknown: dict[tuple[str, str], list[ClientOperation]] = {}
        """Unknown writes by key and value. One of them may own a revision that a read reveals."""
        self._failed: dict[tuple[str, str], ClientOperation] = {}
        self._spans: list[tuple[ClientOperation, int, int, bool]] = []
        """(operation, lowest and highest revision at which it may have happened, whether it
        writes).
        """
        self._open_keys: set[str] = set()

    # Pass 1: find which operation owns which revision.

    def learn(self, accesses: list[_Access]) -> None:
        for a in accesses:
            o = a.operation
            revision = self._revision(o)
            if not a.writes or o.outcome == "fail":
                for key, value in a.writes.items():
                    self._failed[key, _text(value)] = o
                continue
            if revision is None:
                for key, value in a.writes.items():
                    self._unknown.setdefault((key, _text(value)), []).append(o)
            else:
                self._own(revision, o, a.writes)
        if self.ledger is not None:
            self._expiries(self.ledger)
        for a in accesses:
            for read in a.reads:
                if read.version and read.version not in self.owners:
                    self._reveal(read, a.operation)
        self._open_keys = {key for (key, _), ops in self._unknown.items() if ops}

    def _revision(self, o: ClientOperation) -> int | None:
        if o.outcome == "info" and self.ledger is not None and o.op_id is not None:
            return self.ledger.applied.get(o.op_id)
        return o.revision if o.outcome == "ok" else None

    def _own(self, revision: int, o: ClientOperation, writes: dict[str, Any]) -> None:
        other = self.owners.get(revision)
        if other is not None and other is not o:
            self._say(
                "revision_reused",
                f"revision {revision} was given to two writes",
                other.key,
                other,
                o,
            )
            return
        self.owners[revision] = o
        for key, value in writes.items():
            self.timelines.setdefault(key, _Timeline()).put(_Write(revision, value, o))

    def _expiries(self, ledger: Ledger) -> None:
        """Add deletes by expiry, which no client requested, from the ledger."""
        for revision, keys in ledger.changes.items():
            if revision not in self.owners and ledger.intents[revision].op_id.startswith("~"):
                for key in keys:
                    self.timelines.setdefault(key, _Timeline()).put(_Write(revision, None, None))

    def _reveal(self, read: _Read, reader: ClientOperation) -> None:
        """Assign a revision seen by a read, but by no acknowledged write, to an unknown write of
        that value.

        Nothing else can own it.
        """
        candidates = self._unknown.get((read.key, _text(read.value)), [])
        if candidates:
            self._own(read.version or 0, candidates.pop(), {read.key: read.value})
        elif (failed := self._failed.get((read.key, _text(read.value)))) is not None:
            self._say(
                "failed_write_seen",
                f"read of a write that was refused for good: {read.value!r}",
                read.key,
                failed,
                reader,
            )
        else:
            why = f"read {read.value!r} of revision {read.version}, which nobody wrote"
            self._say("phantom_version", why, read.key, reader)

    # Pass 2: check that what each operation saw is right at its revision.

    def judge(self, a: _Access) -> bool:
        o = a.operation
        if o.outcome != "ok":
            return False
        revision = o.revision
        if revision is None:
            return False
        if a.writes:
            for read in a.reads:
                self._matches(o, read, revision - 1)
            self._holds(a, revision - 1)
            self._spans.append((o, revision, revision, True))
            return True
        if a.differs is not None:
            low, high = self._refusal(a, revision)
        else:
            low, high = self._read_span(a, revision)
        self._spans.append((o, low, high, False))
        return True

    def _matches(self, o: ClientOperation, read: _Read, position: int) -> _Write | None:
        """Compare a read value with the last write at or below `position`; return that write."""
        timeline = self.timelines.get(read.key, _Timeline())
        write = timeline.at(position)
        value = self.initial if write is None else write.value
        if value is msgspec.UNSET or _text(value) == _text(read.value):
            stated = read.version if read.value is not None else None
            if write is not None and stated is not None and stated != write.revision:
                why = (
                    f"read {read.value!r} as of revision {stated}, it was written by "
                    f"{write.revision}"
                )
                self._say("wrong_version", why, read.key, *_known(write), o)
            return write
        if (
            read.version
            and (own := timeline.at(read.version)) is not None
            and own.revision == read.version
        ):
            if _text(own.value) != _text(read.value):
                why = f"read {read.value!r} of revision {read.version}, which wrote {own.value!r}"
                self._say("wrong_content", why, read.key, *_known(own), o)
            elif own.revision <= position:
                after = timeline.after(own.revision)
                why = (
                    f"read {read.value!r} of revision {own.revision} at {position}, "
                    f"overwritten by {after}"
                )
                self._say("stale_version", why, read.key, *_known(own), *_known(write), o)
            else:
                why = (
                    f"read {read.value!r} of revision {own.revision} but claims to be at {position}"
                )
                self._say("wrong_position", why, read.key, *_known(own), o)
            return write
        if self._unknown.get((read.key, _text(read.value))):
            return write
        why = f"read {read.value!r} at revision {position}, where {value!r} was current"
        self._say("stale_version", why, read.key, *_known(write), o)
        return write

    def _holds(self, a: _Access, position: int) -> None:
        if a.present is None or self._open(a.present):
            return
        write = self.timelines.get(a.present, _Timeline()).at(position)
        if (self.initial if write is None else write.value) is None:
            why = f"deleted something at revision {position + 1}, where the key was absent"
            self._say("wrong_guard", why, a.present, *_known(write), a.operation)

    def _refusal(self, a: _Access, revision: int) -> tuple[int, int]:
        """Return the span of a refused guard.

        A guard that the cluster evaluated takes a revision of its own and changes nothing.
        """
        assert a.differs is not None
        key, expected = a.differs
        timeline = self.timelines.get(key, _Timeline())
        write = timeline.at(revision)
        value = self.initial if write is None else write.value
        if _text(value) == _text(expected) and not self._open(key):
            why = f"refused at revision {revision} because it was not {expected!r}, which it was"
            self._say("wrong_guard", why, key, *_known(write), a.operation)
        return (write.revision if write else 0), timeline.after(revision) - 1

    def _read_span(self, a: _Access, position: int) -> tuple[int, int]:
        low, high = 0, ALWAYS
        for read in a.reads:
            write = self._matches(a.operation, read, position)
            low = max(low, read.version or (write.revision if write is not None else 0))
            if not self._open(read.key) or read.version:
                after = self.timelines.get(read.key, _Timeline()).after(
                    max(low, read.version or position)
                )
                high = min(high, after - 1)
        # `_matches` has already reported each read that makes the span empty.
        return low, max(low, high)

    def _open(self, key: str) -> bool:
        """Return whether an unknown write to the key may own a revision that is not known."""
        return key in self._open_keys

    # Pass 3: check real time.

    def follow_time(self) -> None:
        """Check the spans in order of time.

        An operation that returned before another started must have a revision at or below the
        other's, and strictly below it if the other is a write.
        """
        starts = sorted(self._spans, key=lambda s: s[0].start_ns)
        ends = sorted(self._spans, key=lambda s: s[0].returned_ns)
        newest: tuple[int, ClientOperation | None] = (0, None)
        n = 0
        for o, _, high, writes in starts:
            while n < len(ends) and ends[n][0].returned_ns < o.start_ns:
                if ends[n][1] > newest[0]:
                    newest = (ends[n][1], ends[n][0])
                n += 1
            if newest[1] is not None and (newest[0] > high or (writes and newest[0] >= high)):
                what = "got" if writes else "saw nothing above"
                why = (
                    f"{o.op} {what} revision {high} although revision {newest[0]} had been "
                    f"seen before it started"
                )
                self._say("real_time_order", why, o.key, newest[1], o)

    def _say(
        self, anomaly: str, message: str, key: str | None, *operations: ClientOperation
    ) -> None:
        self.findings.append(
            Finding(anomaly, f"key {key!r}: {message}", key=key, operations=operations)
        )


def _known(write: _Write | None) -> Iterator[ClientOperation]:
    if write is not None and write.operation is not None:
        yield write.operation


def _text(value: Any) -> str:
    return (
        "" if value is msgspec.UNSET else msgspec.json.encode(value, order="deterministic").decode()
    )
