"""The machine again, as plainly as it can be said: lists, no index, nothing incremental. Slow, and
right by reading.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator.machine.commands import Adopt, Amend, Command, Found, Rebase, Settle, Submit
from coordinator.machine.limits import Limits
from kv.model import (
    GENESIS_DIGEST,
    Again,
    Answer,
    Applied,
    Cancel,
    Expired,
    Intent,
    LedgerRow,
    Mismatch,
    Outcome,
    Put,
    Recorded,
    Refused,
    Version,
    roll,
)

Told = list[tuple[str, bytes, Answer]]
Fed = list[tuple[int, int, bytes, tuple[Recorded, ...], list[Version] | None, int]]
KnownRow = tuple[str, bytes, int, Outcome, int]


@dataclass
class Ordered:
    intent: Intent | Cancel
    ordered_ms: int
    late: bool

    @property
    def attempt(self) -> tuple[str, bytes]:
        return self.intent.op_id, self.intent.body_hash


@dataclass
class Twin:
    limits: Limits
    settled: int = 0
    settled_digest: bytes = GENESIS_DIGEST
    pending: list[Ordered] = field(default_factory=list)
    """The n-th has revision settled + 1 + n."""
    young: list[KnownRow] = field(default_factory=list)
    old: list[KnownRow] = field(default_factory=list)
    last: list[tuple[bytes, int]] = field(default_factory=list)
    floor: int = 0
    now: int = 0
    namespace: int = 0
    founded: Found | None = None
    undone: tuple[int, int] = (0, 0)

    # -- what follows from it
    # ---------------------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        return self.settled + len(self.pending)

    def digest_at(self, revision: int) -> bytes | None:
        """Return the digest that this order has at a revision; None outside settled … revision."""
        if not self.settled <= revision <= self.revision:
            return None
        digest = self.settled_digest
        for ordered in self.pending[: revision - self.settled]:
            digest = roll(digest, *ordered.attempt)
        return digest

    def known(self, op_id: str, now: int) -> KnownRow | None:
        for row in [*reversed(self.young), *reversed(self.old)]:
            if row[0] == op_id:
                return row if now - row[4] <= self.limits.window_ms else None
        return None

    # -- commands
    # ------------------------------------------------------------------------------------------

    def apply(self, command: Command, stamp: int) -> tuple[str, Told, Fed]:
        self.now = max(self.now, stamp)
        if isinstance(command, Submit):
            return "ordered", self.submit(command, dated=stamp > 0), []
        if isinstance(command, Settle):
            verdict, fed = self.settle(command)
        elif isinstance(command, Rebase):
            verdict, fed = self.rebase(command)
        elif isinstance(command, Found):
            verdict, fed = self.found(command), []
        elif isinstance(command, Amend):
            verdict, fed = self.amend(command), []
        else:
            assert isinstance(command, Adopt)
            verdict, fed = self.adopt(command.row, command.namespace)
        return verdict, [], fed

    def submit(self, command: Submit, *, dated: bool) -> Told:
        told: Told = []
        for intent in command.intents:
            row = self.known(intent.op_id, self.now)
            if row is not None:
                same = row[1] == intent.body_hash or b"" in (row[1], intent.body_hash)
                outcome = Again(row[2], row[3]) if same else Mismatch()  # type: ignore[arg-type]
                told.append((intent.op_id, intent.body_hash, Answer(row[2], outcome)))
            elif (intent.op_id, intent.body_hash) not in [p.attempt for p in self.pending]:
                late = isinstance(intent, Intent) and (self.now > intent.deadline_ms or not dated)
                self.pending.append(Ordered(intent, self.now, late))
                self.touch(intent, self.revision)
        return told

    def touch(self, intent: Intent | Cancel, revision: int) -> None:
        for key in intent.touched:
            self.last = [entry for entry in self.last if entry[0] != key] + [(key, revision)]
            self.forget_touches()

    def forget_touches(self) -> None:
        if len(self.last) > self.limits.recent_max:
            drop = len(self.last) - self.limits.recent_max + self.limits.recent_max // 16
            self.floor = max([self.floor, *(entry[1] for entry in self.last[:drop])])
            self.last = self.last[drop:]

    def settle(self, command: Settle) -> tuple[str, Fed]:
        if not command.records or command.first + len(command.records) - 1 != command.last:
            return "illegal", []
        if command.last <= self.settled:
            return "stale", []
        if self.digest_at(command.last) != command.digest:
            return "foreign", []
        if command.first > self.settled + 1:
            return "gap", []
        records = command.records[self.settled + 1 - command.first :]
        if [(r.op_id, r.body_hash) for r in records] != [
            p.attempt for p in self.pending[: len(records)]
        ]:
            return "illegal", []
        return "settled", [
            self.leave(records, command.digest, command.log_time_ms, here=not command.resolved)
        ]

    def leave(
        self, records: tuple[Recorded, ...], digest: bytes, log_time: int, *, here: bool
    ) -> tuple[int, int, bytes, tuple[Recorded, ...], list[Version] | None, int]:
        previous, versions = self.settled, list[Version]()
        for record in records:
            ordered = self.pending.pop(0)
            self.settled += 1
            self.record(record, self.settled, log_time)
            if isinstance(ordered.intent, Intent) and isinstance(record.outcome, Applied):
                then = record.outcome.branch == "then"
                writes = (ordered.intent.writes if then else ordered.intent.otherwise) or ()
                puts = {write.key: write for write in writes if isinstance(write, Put)}
                numbers = record.numbers or ((0, 0, 0),) * len(record.keys)
                for key, said in zip(record.keys, numbers, strict=True):
                    if key not in puts:
                        versions.append(Version(key, self.settled, None))
                        continue
                    put = puts[key]
                    expires = None if put.ttl_ms is None else log_time + put.ttl_ms
                    versions.append(Version(key, self.settled, put.value, expires, *said))
        self.settled_digest = digest
        self.now = max(self.now, log_time)
        return previous, self.settled, digest, records, versions if here else None, log_time

    def record(self, record: Recorded, revision: int, log_time: int) -> None:
        if not isinstance(record.outcome, Applied | Refused | Expired) or self.known(
            record.op_id, log_time
        ):
            return
        place = [i for i, row in enumerate(self.young) if row[0] == record.op_id]
        row = (record.op_id, record.body_hash, revision, record.outcome, log_time)
        if place:
            self.young[place[0]] = row
        else:
            self.young.append(row)
        if len(self.young) >= max(1, self.limits.window_max // 2):
            self.old, self.young = self.young, []

    def rebase(self, command: Rebase) -> tuple[str, Fed]:
        rows = command.rows
        if not rows or any(
            not row.body or row.first + len(row.body) - 1 != row.last for row in rows
        ):
            return "illegal", []
        if rows[-1].last <= self.settled:
            return "stale", []
        if not self.continues(command):
            return "gap", []
        ours = self.digest_at(rows[-1].last) == rows[-1].digest
        fed: Fed = []
        previous = self.settled
        for row in rows:
            records = row.body[max(0, previous + 1 - row.first) :]
            if not records:
                continue
            if ours:
                fed.append(self.leave(records, row.digest, row.log_time_ms, here=False))
            else:
                for revision, record in enumerate(records, row.last - len(records) + 1):
                    self.record(record, revision, row.log_time_ms)
                fed.append((previous, row.last, row.digest, records, None, row.log_time_ms))
                self.now = max(self.now, row.log_time_ms)
            previous = row.last
        if not ours:
            recorded = [
                (r.op_id, r.body_hash) for row in rows for r in row.body if row.last > self.settled
            ]
            steps = [(r.op_id, r.body_hash) for f in fed for r in f[3]]
            assert set(steps) <= set(recorded)
            self.floor = max(self.floor, rows[-1].last)
            self.again(rows[-1], [p for p in self.pending if p.attempt not in steps])
        return "rebased", fed

    def continues(self, command: Rebase) -> bool:
        """Say whether the rows, one record after another from their base, pass through what is
        settled here.
        """
        at, digest = command.settled.revision, command.settled.digest
        passed = (at, digest) == (self.settled, self.settled_digest)
        for row in command.rows:
            if row.first != at + 1:
                return False
            for record in row.body:
                at, digest = at + 1, roll(digest, record.op_id, record.body_hash)
                passed = passed or (at, digest) == (self.settled, self.settled_digest)
            if digest != row.digest:
                return False
        return passed

    def again(self, row: LedgerRow, rest: list[Ordered]) -> None:
        self.settled, self.settled_digest = row.last, row.digest
        self.pending = []
        for ordered in rest:
            self.pending.append(ordered)
            self.touch(ordered.intent, self.revision)

    def found(self, command: Found) -> str:
        if self.founded is not None:
            return "stale"
        self.founded, self.namespace = command, command.namespace
        self.go_by(command.limits)
        return "founded"

    def amend(self, command: Amend) -> str:
        if self.founded is None:
            return "stale"
        self.go_by(command.limits)
        return "amended"

    def go_by(self, limits: Limits) -> None:
        self.limits = limits
        self.forget_touches()
        half = max(1, self.limits.window_max // 2)
        if len(self.old) + len(self.young) > self.limits.window_max:
            newest = {row[0]: row for row in [*self.old, *self.young]}
            self.old, self.young = list(newest.values())[-half:], []
        elif len(self.young) >= half:
            self.old, self.young = self.young, []

    def adopt(self, row: LedgerRow, namespace: int) -> tuple[str, Fed]:
        if row.body or row.last < row.first - 1:
            return "illegal", []
        if row.last <= self.revision:
            return "stale", []
        self.undone = (row.first - 1 if row.first - 1 < self.settled else 0, row.last)
        previous = self.settled
        self.young, self.old = [], []
        self.floor = max(self.floor, row.last)
        self.now = max(self.now, row.log_time_ms)
        self.namespace = namespace
        self.again(row, [ordered for ordered in self.pending if ordered.intent.op_id[:1] != "~"])
        return "adopted", [(previous, row.last, row.digest, (), None, row.log_time_ms)]
