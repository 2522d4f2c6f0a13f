"""Turn the log's commands, one after another, into what every member knows: the order of intents,
the settled revision, how each intent ended.

Pure and deterministic: the same commands with the same stamps give the same state on every member.
`apply` never raises. A command that does not fit leaves the state untouched (but for log time), and
its verdict says why.

It is long because each command changes order, window and `last` together: what keeps them alike is
to be read in one place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, assert_never

from coordinator.machine.chain import RowStep, continuation
from coordinator.machine.commands import Adopt, Amend, Command, Found, Rebase, Settle, Submit
from coordinator.machine.effects import Answered, Effects
from coordinator.machine.evaluate import add_versions
from coordinator.machine.limits import DEFAULTS, Limits
from coordinator.machine.pending import Mark, Pending, size_of
from coordinator.machine.recent import Recent
from coordinator.machine.snapshot import MachineState, flat
from coordinator.machine.standing import given_up
from coordinator.machine.window import Window
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
from kv.ports import Settled, UndoneRange

_ORDERED: Final = Effects("ordered")
_FOUNDED: Final = Effects("founded")
_AMENDED: Final = Effects("amended")
_STALE: Final = Effects("stale")
_FOREIGN: Final = Effects("foreign")
_GAP: Final = Effects("gap")
_ILLEGAL: Final = Effects("illegal")


class Machine:
    """The replicated state machine of one member.

    Its attributes are read freely, and changed by `apply`, `restore` and `reset` only.
    """

    def __init__(self, limits: Limits = DEFAULTS) -> None:
        self._configured = limits
        self.recent = Recent(limits.recent_max)
        self.window = Window(limits.window_max, limits.window_ms)
        self._begin()

    def _begin(self) -> None:
        self.revision = 0
        """The newest revision that was given."""
        self.digest = GENESIS_DIGEST
        """Rolled over all intents that were ordered."""
        self.settled = Mark()
        self.pending: dict[int, Pending] = {}
        """By revision: settled + 1 … revision, without a gap."""
        self.pending_bytes = 0
        self._open: dict[str, tuple[Pending, ...]] = {}
        """Pending intents by op_id. There are several where bodies differ: the ledger decides which
        of them was first.
        """
        self.log_time_ms = 0
        self.namespace = 0
        """Of the caches; 0 until the history is founded."""
        self.founded: Found | None = None
        self.undone = UndoneRange()
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

    def attempts(self, op_id: str) -> tuple[Pending, ...]:
        """Return the pending intents with this op_id, oldest first."""
        return self._open.get(op_id, ())

    def holds(self, mark: Mark) -> bool:
        """Say whether the log orders up to `mark` with exactly its digest."""
        if mark.revision == self.settled.revision:
            return self.settled.agrees(mark)
        pending = self.pending.get(mark.revision)
        return pending is not None and pending.mark.agrees(mark)

    def touched(self, key: bytes) -> int:
        """Return the revision that an entry's `as_of` must reach to hold at `self.revision`
        (INV-5).
        """
        return self.recent.touched(key)

    # --------------------------------------------------------------------------------------- Submit

    def _pass_to(self, time_ms: int) -> None:
        self.log_time_ms = max(self.log_time_ms, time_ms)

    def _submit(self, intents: Sequence[Intent | Cancel], *, dated: bool) -> Effects:
        answered: list[Answered] = []
        for intent in intents:
            op_id, body_hash = intent.op_id, intent.body_hash
            answer = self._recorded_answer(op_id, body_hash)
            if answer is not None:
                answered.append(Answered(op_id, body_hash, answer))
            elif not self._is_pending(op_id, body_hash):
                self._order(intent, body_hash, dated=dated)
        return Effects("ordered", tuple(answered)) if answered else _ORDERED

    def _recorded_answer(self, op_id: str, body_hash: bytes) -> Answer | None:
        """Return what an attempt is answered whose op_id has ended already (INV-3)."""
        known = self.window.get(op_id, self.log_time_ms)
        return None if known is None else self.window.meet(known, body_hash)

    def _is_pending(self, op_id: str, body_hash: bytes) -> bool:
        """Say whether the same attempt is pending: its outcome answers this one too (INV-3)."""
        others = self._open.get(op_id)
        return others is not None and any(other.body_hash == body_hash for other in others)

    def _order(self, intent: Intent | Cancel, body_hash: bytes, *, dated: bool) -> None:
        """Give an intent the next revision."""
        now_ms, size = self.log_time_ms, size_of(intent)
        late = type(intent) is Intent and (now_ms > intent.deadline_ms or not dated)
        self.revision = revision = self.revision + 1
        self.digest = roll(self.digest, intent.op_id, body_hash)
        self._enter(Pending(revision, intent, body_hash, self.digest, now_ms, late, size))
        self._touch(intent, revision)

    def _touch(self, intent: Intent | Cancel, revision: int) -> None:
        """Raise `last[key]` of all that an intent may write.

        This happens when it is ordered, not when it settles: from here on its commit may be in the
        store, where a reader sees it, and what a cache has of these keys may be old (INV-5).
        """
        if type(intent) is not Intent:
            return
        touch = self.recent.touch
        for write in intent.writes:
            touch(write.key, revision)
        for write in intent.otherwise or ():
            touch(write.key, revision)

    # --------------------------------------------------------------------------------------- Settle

    def _settle(self, command: Settle) -> Effects:
        if command.last - command.first + 1 != len(command.records) or not command.records:
            return _ILLEGAL
        if self._is_stale(command.last):
            return _STALE
        if not self.holds(Mark(command.last, command.digest)):
            return _FOREIGN  # not our order: its sender has to take over again
        first = self.settled.revision + 1
        if not command.first <= first <= command.last:
            return _GAP  # built for another settled revision
        records = command.records[first - command.first :]
        if not self._are_ours(first, records):
            return _ILLEGAL
        settled = self._settle_records(
            first,
            command.digest,
            records,
            command.log_time_ms,
            made_here=not command.resolved,
        )
        return Effects("settled", settled=(settled,))

    def _is_stale(self, last: int) -> bool:
        """Say whether a command that ends at `last` settles nothing that is not settled already.

        A leader that was deposed may have sent it long ago. If it were obeyed, revisions that were
        settled since would be given a second time.
        """
        return last <= self.settled.revision

    def _are_ours(self, first: int, records: Sequence[Recorded]) -> bool:
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
        """Let the pending intents from `first` on leave, with these outcomes, and return what
        listeners are fed.
        """
        previous = self.settled.revision
        versions: list[Version] = []
        for revision, record in enumerate(records, first):
            pending = self.pending[revision]
            self._leave(pending)
            self.window.record(record, revision, log_time_ms)
            intent, outcome = pending.intent, record.outcome
            if type(outcome) is Applied and type(intent) is Intent:
                writes = intent.writes if outcome.branch == "then" else intent.otherwise or ()
                add_versions(writes, record.keys, revision, log_time_ms, versions)
        last = first + len(records) - 1
        self.settled = Mark(last, digest)
        self._pass_to(log_time_ms)
        return Settled(
            previous, last, digest, records, tuple(versions) if made_here else None, log_time_ms
        )

    # --------------------------------------------------------------------------------------- Rebase

    def _rebase(self, command: Rebase) -> Effects:
        rows = command.rows
        if not rows or any(
            row.last - row.first + 1 != len(row.body) or not row.body for row in rows
        ):
            return _ILLEGAL
        end = Mark(rows[-1].last, rows[-1].digest)
        if self._is_stale(end.revision):
            return _STALE
        steps = self._steps(command)
        if not steps:
            return _GAP  # read against a settled revision that is not this machine's
        if self.holds(end):  # by now the log does hold that order
            return Effects("rebased", settled=tuple(self._settle_step(step) for step in steps))
        return Effects("rebased", settled=self._step_over(steps, end))

    def _steps(self, command: Rebase) -> tuple[RowStep, ...] | None:
        """Return what the rows add to what is settled; None unless they continue exactly that."""
        return continuation(command.settled, command.rows, self.settled)

    def _settle_step(self, step: RowStep) -> Settled:
        row = step.row
        return self._settle_records(
            step.first, row.digest, step.records, row.log_time_ms, made_here=False
        )

    def _step_over(self, steps: Sequence[RowStep], end: Mark) -> tuple[Settled, ...]:
        """Adopt the ledger's rows and outcomes, which this log does not hold in that order, and
        order again behind them what they leave pending. Return what listeners are fed.
        """
        fed: list[Settled] = []
        recorded: set[tuple[str, bytes]] = set()  # asked for membership, never iterated
        previous = self.settled.revision
        for step in steps:
            row = step.row
            for revision, record in enumerate(step.records, step.first):
                recorded.add((record.op_id, record.body_hash))
                self._learn(record, revision, row.log_time_ms)
            fed.append(Settled(previous, row.last, row.digest, step.records, None, row.log_time_ms))
            previous = row.last
            self._pass_to(row.log_time_ms)
        self._raise_floor(end.revision)
        rest = [p for p in self.pending.values() if (p.intent.op_id, p.body_hash) not in recorded]
        self._order_again(end, rest)
        return tuple(fed)

    def _learn(self, record: Recorded, revision: int, log_time_ms: int) -> None:
        """Remember how an op_id of an adopted row ended, also one that this log never held: its
        client may try again (INV-3).
        """
        self.window.record(record, revision, log_time_ms)

    def _raise_floor(self, to: int) -> None:
        """Let no entry from before `to` hold: which keys the adopted rows wrote, `last` never heard
        (INV-5).
        """
        self.recent.raise_floor(to)

    def _order_again(self, end: Mark, rest: Sequence[Pending]) -> None:
        """Settle at `end`, and give what is left pending new revisions behind it in the old
        order.
        """
        self.settled = end
        self.pending, self._open, self.pending_bytes = {}, {}, 0
        revision, digest = end.revision, end.digest
        for old in rest:
            revision += 1
            digest = roll(digest, old.intent.op_id, old.body_hash)
            self._enter(
                Pending(
                    revision, old.intent, old.body_hash, digest, old.ordered_ms, old.late, old.size
                )
            )
            self._touch_again(old.intent, revision)
        self.revision, self.digest = revision, digest

    def _touch_again(self, intent: Intent | Cancel, revision: int) -> None:
        """Enter an intent in `last[key]` with the revision that it was given anew: below that an
        entry of its keys may be older than its commit (INV-5).
        """
        self._touch(intent, revision)

    # --------------------------------------------------------------------------------- Found, Amend

    def _found(self, command: Found) -> Effects:
        if self.founded is not None:
            return _STALE
        self.founded = command
        self.namespace = command.namespace
        self._go_by(command.limits)
        return _FOUNDED

    def _amend(self, command: Amend) -> Effects:
        if self.founded is None:
            return _STALE
        self._go_by(command.limits)
        return _AMENDED

    # ---------------------------------------------------------------------------------------- Adopt

    def _adopt(self, command: Adopt) -> Effects:
        row = command.row
        if row.body or row.last < row.first - 1:
            return _ILLEGAL
        end = Mark(row.last, row.digest)
        if row.last < self.settled.revision or end == self.settled or self._is_late(command):
            return _STALE
        previous = self.settled.revision
        found = Head(row.seq - 1, row.term, row.committer, row.first - 1, row.digest)
        self.undone = UndoneRange(given_up(self.settled, found).after, row.last)
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
        fed = Settled(previous, row.last, row.digest, (), None, row.log_time_ms, self.undone.after)
        return Effects("adopted", settled=(fed,))

    def _is_late(self, command: Adopt) -> bool:
        """Say whether an adoption does not end above every revision ever given.

        An intent that was ordered between the leader's look and the adoption has a revision up to
        its end, which would be given a second time. The leader asks the store again. (Adoptions
        from before namespaces were drawn did not promise it.)
        """
        return command.row.last <= self.revision and command.namespace > 0

    # ------------------------------------------------------------------------------ pending intents

    def _enter(self, entry: Pending) -> None:
        self.pending[entry.revision] = entry
        self.pending_bytes += entry.size
        op_id = entry.intent.op_id
        others = self._open.get(op_id)
        self._open[op_id] = (entry,) if others is None else (*others, entry)

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

    def capture(self, *, last: bool = True) -> MachineState:
        """Return all state, shallowly copied: what it holds never changes. `last=False` leaves
        `last` out.
        """
        old, young = self.window.capture()
        return MachineState(
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

    def restore(self, state: MachineState) -> None:
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
        self.recent.restore((state.last or {}).items(), self._floor_of(state))

    @staticmethod
    def _floor_of(state: MachineState) -> int:
        """Return the floor to go by: where `last` was left out, no entry holds that is older than
        what was ordered (INV-5).
        """
        return max(state.floor, state.revision) if state.last is None else state.floor
