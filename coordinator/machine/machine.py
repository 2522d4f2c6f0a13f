"""Turn the log's commands, one after another, into what every member knows: order, settled
revision, outcomes.

Pure and deterministic: the same commands with the same stamps give the same state on every member.
`apply` never raises; a command that does not fit leaves the state untouched (but for log time) and
says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias, assert_never

import msgspec

from coordinator.machine.commands import Adopt, Amend, Command, Found, Rebase, Settle, Submit
from coordinator.machine.evaluate import made
from coordinator.machine.ledger import Step, continuation, given_up
from coordinator.machine.limits import DEFAULTS, Limits
from coordinator.machine.pending import Mark, Pending, size_of
from coordinator.machine.recent import Recent
from coordinator.machine.snapshot import State, flat
from coordinator.machine.window import Window
from coordinator.rules import PROTOCOL, Rules
from kv.model import (
    GENESIS_DIGEST,
    NODE_OP_ID_PREFIX,
    Answer,
    Applied,
    Cancel,
    Head,
    Intent,
    Recorded,
    Version,
    roll,
)
from kv.ports import Settled, Undone

Verdict: TypeAlias = Literal[
    "ordered",
    "settled",
    "rebased",
    "adopted",
    "founded",
    "amended",
    "stale",
    "foreign",
    "gap",
    "illegal",
]
"""What a command did. The last four: nothing. stale: brings nothing new. foreign: not this
machine's order. gap: does not continue the settled revision. illegal: contradicts itself.
"""


class Told(msgspec.Struct, frozen=True, gc=False):
    """An attempt that was answered without taking a revision: its op_id was in the window."""

    op_id: str
    body_hash: bytes
    answer: Answer


class Effects(msgspec.Struct, frozen=True, gc=False):
    """What the node has to do after a command."""

    verdict: Verdict
    told: tuple[Told, ...] = ()
    settled: tuple[Settled, ...] = ()


_ORDERED: Final = Effects("ordered")
_FOUNDED: Final = Effects("founded")
_AMENDED: Final = Effects("amended")
_STALE: Final = Effects("stale")
_FOREIGN: Final = Effects("foreign")
_GAP: Final = Effects("gap")
_ILLEGAL: Final = Effects("illegal")


class Machine:
    """The replicated state machine. Its attributes are read freely and changed by `apply`,
    `restore`, `reset` only.
    """

    def __init__(self, limits: Limits = DEFAULTS, rules: Rules = PROTOCOL) -> None:
        self.rules = rules
        self._configured = limits
        self.recent = Recent(limits.recent_max, raises=rules.forget_floor)
        self.window = Window(limits.window_max, limits.window_ms)
        self._begin()

    def _begin(self) -> None:
        self.revision = 0
        """Newest revision given."""
        self.digest = GENESIS_DIGEST
        """Rolled over all intents ordered."""
        self.settled = Mark()
        self.pending: dict[int, Pending] = {}
        """By revision: settled + 1 … revision, without a gap."""
        self.pending_bytes = 0
        self._open: dict[str, tuple[Pending, ...]] = {}
        """Pending by op_id; more than one where bodies differ: the ledger says which was first."""
        self.log_time_ms = 0
        self.namespace = 0
        """Of the caches; 0 until the history is founded."""
        self.founded: Found | None = None
        self.undone = Undone()
        self._go_by(self._configured)

    def _go_by(self, limits: Limits) -> None:
        self.limits = limits
        """Those in force: the log's, or this member's own until the history is founded."""
        self.recent.bound(limits.recent_max)
        self.window.bound(limits.window_max, limits.window_ms)

    def apply(self, command: Command, stamp_ms: int) -> Effects:
        """Apply one command of the log, stamped by the leader that appended it.

        `stamp_ms` 0: that leader did not know the time yet. What nobody can date is late, however
        late its deadline.
        """
        self._pass_to(stamp_ms)
        match command:
            case Submit():
                return self._submit(command.intents, dated=stamp_ms > 0)
            case Settle():
                return self._settle(command)
            case Rebase():
                return self._rebase(command)
            case Adopt():
                return self._adopt(command)
            case Found():
                return self._found(command)
            case Amend():
                return self._amend(command)
            case _:
                assert_never(command)

    # -------------------------------------------------------------------------------------- reading

    def pending_from(self, revision: int) -> Pending | None:
        return self.pending.get(revision)

    def attempts(self, op_id: str) -> tuple[Pending, ...]:
        """Return the pending intents with this op_id, oldest first."""
        return self._open.get(op_id, ())

    def holds(self, mark: Mark) -> bool:
        """Say whether the log orders up to `mark` with exactly its digest."""
        if mark.revision == self.settled.revision:
            return mark == self.settled
        pending = self.pending.get(mark.revision)
        return pending is not None and (
            pending.digest == mark.digest or not self.rules.digest_check
        )

    def touched(self, key: bytes) -> int:
        """Return the revision that an entry's `as_of` must reach to hold at `self.revision`
        (INV-5).
        """
        if self.rules.judge_floor:
            return self.recent.touched(key)
        last = self.recent.last(key)
        return self.recent.floor if last is None else last

    # ------------------------------------------------------------------------------------- commands

    def _pass_to(self, time_ms: int) -> None:
        self.log_time_ms = max(self.log_time_ms, time_ms)

    def _submit(self, intents: Sequence[Intent | Cancel], *, dated: bool) -> Effects:
        told: list[Told] | None = None
        revision, digest, now = self.revision, self.digest, self.log_time_ms
        window, open_, pending = self.window, self._open, self.pending
        dedupe, touch = self.rules.dedupe, self.rules.touch == "submit"
        touched = self.recent.touch
        for intent in intents:
            op_id, body_hash = intent.op_id, intent.body_hash
            others = open_.get(op_id)
            if dedupe:
                known = window.get(op_id, now)
                if known is not None:
                    told = told or []
                    told.append(Told(op_id, body_hash, window.meet(known, body_hash)))
                    continue
                if others is not None and any(other.body_hash == body_hash for other in others):
                    continue  # the same attempt is pending: it answers this one too
            revision += 1
            digest = roll(digest, op_id, body_hash)
            late = type(intent) is Intent and (now > intent.deadline_ms or not dated)
            size = size_of(intent)
            entry = Pending(revision, intent, body_hash, digest, now, late, size)
            pending[revision] = entry
            self.pending_bytes += size
            open_[op_id] = (entry,) if others is None else (*others, entry)
            if touch and type(intent) is Intent:
                # Touched when ordered, not when settled: from here on its commit may be anywhere
                # (INV-5).
                for write in intent.writes:
                    touched(write.key, revision)
                if intent.otherwise:
                    for write in intent.otherwise:
                        touched(write.key, revision)
        self.revision, self.digest = revision, digest
        return _ORDERED if told is None else Effects("ordered", told=tuple(told))

    def _settle(self, command: Settle) -> Effects:
        if command.last - command.first + 1 != len(command.records) or not command.records:
            return _ILLEGAL
        if command.last <= self.settled.revision and self.rules.rebase_stale:
            return _STALE
        if not self.holds(Mark(command.last, command.digest)):
            return _FOREIGN  # not our order: its sender has to take over again
        first = self.settled.revision + 1
        if not command.first <= first <= command.last:
            return _GAP  # built for another settled revision
        records = command.records[first - command.first :]
        if self.rules.digest_check and not self._ours(first, records):
            return _ILLEGAL
        made_here = not command.resolved
        settled = self._settle_records(
            first, command.digest, records, command.log_time_ms, made_here=made_here
        )
        return Effects("settled", settled=(settled,))

    def _ours(self, first: int, records: Sequence[Recorded]) -> bool:
        """Say whether the records are of exactly the pending intents from `first` on."""
        pending = self.pending
        for revision, record in enumerate(records, first):
            entry = pending[revision]
            if entry.body_hash != record.body_hash or entry.intent.op_id != record.op_id:
                return False
        return True

    def _settle_records(
        self,
        first: int,
        digest: bytes,
        records: tuple[Recorded, ...],
        log_time_ms: int,
        *,
        made_here: bool,
    ) -> Settled:
        """Let the pending intents from `first` on leave, with these outcomes, and say so."""
        previous = self.settled.revision
        versions: list[Version] = []
        revision = first - 1
        for record in records:
            revision += 1
            pending = self.pending.get(revision)
            if pending is None:
                continue  # only when `digest_check` is off
            self._leave(pending)
            self.window.record(record, revision, log_time_ms)
            intent, outcome = pending.intent, record.outcome
            if type(intent) is Intent:
                if type(outcome) is Applied:
                    writes = intent.writes if outcome.branch == "then" else intent.otherwise or ()
                    made(writes, record.keys, revision, log_time_ms, versions)
                if self.rules.touch == "settle":
                    for key in intent.touched:
                        self.recent.touch(key, revision)
        self.settled = Mark(revision, digest)
        self._pass_to(log_time_ms)
        if self.revision < revision:  # only when `digest_check` is off
            self.revision, self.digest = revision, digest
        return Settled(
            previous, revision, digest, records, tuple(versions) if made_here else None, log_time_ms
        )

    def _rebase(self, command: Rebase) -> Effects:
        rows = command.rows
        if not rows or any(
            row.last - row.first + 1 != len(row.body) or not row.body for row in rows
        ):
            return _ILLEGAL
        end = Mark(rows[-1].last, rows[-1].digest)
        if end.revision <= self.settled.revision and self.rules.rebase_stale:
            return _STALE
        steps = continuation(command.settled, rows, self.settled)
        if steps is None and not self.rules.rebase_base:
            steps = tuple(
                Step(row.first, row, row.body) for row in rows if row.first > self.settled.revision
            )
        if end.revision <= self.settled.revision:  # only when `rebase_stale` is off
            return Effects("rebased", settled=self._step_over((), end))
        if not steps:
            return _GAP  # read against a settled revision that is not this machine's
        if self.holds(end):  # by now the log does hold that order
            return Effects("rebased", settled=tuple(self._settle_step(step) for step in steps))
        return Effects("rebased", settled=self._step_over(steps, end))

    def _settle_step(self, step: Step) -> Settled:
        row = step.row
        return self._settle_records(
            step.first, row.digest, step.records, row.log_time_ms, made_here=False
        )

    def _step_over(self, steps: Sequence[Step], end: Mark) -> tuple[Settled, ...]:
        """Adopt the ledger's rows and outcomes, and order what they leave pending again behind
        them.
        """
        told: list[Settled] = []
        recorded: set[tuple[str, bytes]] = set()  # asked, never iterated
        previous = self.settled.revision
        ours = {(p.intent.op_id, p.body_hash) for p in self.pending.values()}
        for step in steps:
            revision = step.first
            for record in step.records:
                recorded.add((record.op_id, record.body_hash))
                if self.rules.rebase_rows or (record.op_id, record.body_hash) in ours:
                    self.window.record(record, revision, step.row.log_time_ms)
                revision += 1
            records = step.records
            if not self.rules.rebase_feeds:
                records = tuple(r for r in records if (r.op_id, r.body_hash) in ours)
            if records or self.rules.rebase_feeds:
                told.append(
                    Settled(
                        previous,
                        step.row.last,
                        step.row.digest,
                        records,
                        None,
                        step.row.log_time_ms,
                    )
                )
            previous = step.row.last
            self._pass_to(step.row.log_time_ms)
        if self.rules.rebase_floor:
            self.recent.raise_floor(end.revision)
        rest = [p for p in self.pending.values() if (p.intent.op_id, p.body_hash) not in recorded]
        self._order_again(end, rest)
        return tuple(told)

    def _order_again(self, end: Mark, rest: Sequence[Pending]) -> None:
        """Settle at `end` and give what is left pending new revisions behind it, in the old
        order.
        """
        self.settled = end
        self.pending, self._open, self.pending_bytes = {}, {}, 0
        revision, digest = end.revision, end.digest
        for old in rest:
            revision += 1
            digest = roll(digest, old.intent.op_id, old.body_hash)
            entry = Pending(
                revision, old.intent, old.body_hash, digest, old.ordered_ms, old.late, old.size
            )
            self._enter(entry)
            if self.rules.rebase_touch and type(old.intent) is Intent:
                for key in old.intent.touched:
                    self.recent.touch(key, revision)
        self.revision, self.digest = revision, digest

    def _found(self, command: Found) -> Effects:
        if self.founded is not None:
            return _STALE
        self.founded = command
        self.namespace = command.namespace
        if self.rules.limits_ordered:
            self._go_by(command.limits)
        return _FOUNDED

    def _amend(self, command: Amend) -> Effects:
        if self.founded is None or not self.rules.limits_ordered:
            return _STALE
        self._go_by(command.limits)
        return _AMENDED

    def _adopt(self, command: Adopt) -> Effects:
        row = command.row
        if row.body or row.last < row.first - 1:
            return _ILLEGAL
        end = Mark(row.last, row.digest)
        if row.last < self.settled.revision or end == self.settled:
            return _STALE
        if row.last <= self.revision and self.rules.adopt_above and command.namespace:
            # ordered late: a revision up to its end was given meanwhile, and would be given again
            return _STALE
        previous = self.settled.revision
        found = Head(row.seq - 1, row.term, row.committer, row.first - 1, row.digest)
        self.undone = Undone(given_up(self.settled, found).after, row.last)
        # Rows that were never read may hold any of these. The store knows op_ids that clients gave,
        # not those that nodes made, and a second outcome of one could contradict the first: they
        # are dropped, and stay unknown.
        rest = [
            p for p in self.pending.values() if not p.intent.op_id.startswith(NODE_OP_ID_PREFIX)
        ]
        self.window.clear()
        self.recent.raise_floor(row.last)
        self._pass_to(row.log_time_ms)
        self.namespace = command.namespace or self.namespace + 1
        self._order_again(end, rest)
        told = Settled(previous, row.last, row.digest, (), None, row.log_time_ms, self.undone.after)
        return Effects("adopted", settled=(told,))

    def _enter(self, entry: Pending) -> None:
        self.pending[entry.revision] = entry
        self.pending_bytes += entry.size
        op_id = entry.intent.op_id
        self._open[op_id] = (*self._open.get(op_id, ()), entry)

    def _leave(self, pending: Pending) -> None:
        del self.pending[pending.revision]
        self.pending_bytes -= pending.size
        op_id = pending.intent.op_id
        others = self._open.pop(op_id)
        if len(others) > 1:
            self._open[op_id] = tuple(other for other in others if other is not pending)

    # ------------------------------------------------------------------------------------ snapshots

    def reset(self) -> None:
        """Forget everything: the log that was applied is not the log any more."""
        self.recent.clear()
        self.window.clear()
        self._begin()

    def capture(self, *, last: bool = True) -> State:
        """Return all state, shallowly copied: what it holds never changes. `last=False` leaves
        `last` out.
        """
        old, young = self.window.capture()
        return State(
            revision=self.revision,
            digest=self.digest,
            settled=self.settled,
            log_time_ms=self.log_time_ms,
            namespace=self.namespace,
            floor=self.recent.floor,
            pending=list(self.pending.values()),
            window_old=old,
            window_young=young,
            last=self.recent.entries() if last else None,
            founded=self.founded,
            limits=self.limits,
            undone=self.undone,
        )

    def restore(self, state: State) -> None:
        """Take over all of a captured state."""
        self._begin()
        self.revision, self.digest, self.settled = state.revision, state.digest, state.settled
        self.log_time_ms, self.namespace = state.log_time_ms, state.namespace
        self.founded, self.undone = state.founded, state.undone
        if state.limits is not None:
            self._go_by(state.limits)
        for entry in state.pending:
            self._enter(entry)
        self.window.restore(flat(state.window_old), flat(state.window_young))
        floor = state.floor
        if state.last is None and self.rules.snapshot_floor:
            floor = max(floor, state.revision)
        self.recent.restore((state.last or {}).items(), floor)
