"""Apply the log's commands to the state that all members share: the order of intents, the settled
revision, and the outcome of each intent.

Pure and deterministic: the same commands with the same stamps give the same state on every member.
`apply` never raises. A command that does not fit leaves the state untouched (except for log time),
and its verdict says why.

The module is long because each command changes the order, the window and `last` together: what
keeps them consistent should be read in one place.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Final, assert_never

from coordinator.machine import founding
from coordinator.machine.book import Book, Terms
from coordinator.machine.chain import RowStep, continuation
from coordinator.machine.commands import (
    Adopt,
    Amend,
    Command,
    Cursor,
    Floor,
    Found,
    Level,
    Rebase,
    Settle,
    Submit,
)
from coordinator.machine.effects import Answered, Effects
from coordinator.machine.evaluate import add_versions
from coordinator.machine.limits import DEFAULTS, Limits
from coordinator.machine.pending import Mark, Pending, size_of
from coordinator.machine.recent import Recent
from coordinator.machine.snapshot import MachineState, flat
from coordinator.machine.standing import given_up
from coordinator.machine.window import Window
from kv.branches import every_write
from kv.model import (
    GENESIS_DIGEST,
    NODE_OP_ID_PREFIX,
    Answer,
    Applied,
    Cancel,
    DeleteRange,
    Head,
    Intent,
    Put,
    Recorded,
    Version,
    roll,
)
from kv.ports import Settled, UndoneRange

_ORDERED: Final = Effects("ordered")
_FOUNDED: Final = Effects("founded")
_AMENDED: Final = Effects("amended")
_NOTED: Final = Effects("noted")
_STALE: Final = Effects("stale")
_FOREIGN: Final = Effects("foreign")
_GAP: Final = Effects("gap")
_ILLEGAL: Final = Effects("illegal")


class Machine:
    """The replicated state machine of one member.

    Anyone may read its attributes; only `apply`, `restore` and `reset` change them.
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
        """The pending intents by revision: settled + 1 … revision, without a gap."""
        self.pending_bytes = 0
        self._open: dict[str, tuple[Pending, ...]] = {}
        """Pending intents by op_id. There are several when their bodies differ: the ledger decides
        which of them was first.
        """
        self.log_time_ms = 0
        self.namespace = 0
        """The namespace of the caches; 0 until the history is founded."""
        self.founded: Found | None = None
        self.undone = UndoneRange()
        self.book = Book()
        """Where the ledger of a replicated store ends; unused on a shared one."""
        self._go_by(self._configured)

    def _go_by(self, limits: Limits) -> None:
        self.limits = limits
        """The limits in force: those in the log, or this member's own until the history is
        founded.
        """
        self.recent.bound(limits.recent_max)
        self.window.bound(limits.window_max, limits.window_ms)

    def apply(self, command: Command, stamp_ms: int) -> Effects:
        """Apply one command of the log, stamped by the leader that appended it.

        `stamp_ms` 0 means that the leader did not know the log time yet. Intents of such a command
        count as late whatever their deadline is, because nobody can date them.
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
            case Floor():
                return self._floor(command)
            case Cursor():
                return _NOTED if self.book.advance(command.name, command.position) else _STALE
            case Level():
                return self._rise(command)
            case _:
                assert_never(command)

    # -------------------------------------------------------------------------------------- reading

    def attempts(self, op_id: str) -> tuple[Pending, ...]:
        """Return the pending intents with this op_id, oldest first."""
        return self._open.get(op_id, ())

    def holds(self, mark: Mark) -> bool:
        """Return whether the log's order up to `mark` has exactly its digest."""
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
        """Return the answer to an attempt whose op_id already has an outcome (INV-3), else None."""
        known = self.window.get(op_id, self.log_time_ms)
        return None if known is None else self.window.meet(known, body_hash)

    def _is_pending(self, op_id: str, body_hash: bytes) -> bool:
        """Return whether the same attempt is pending: then its outcome answers this one too
        (INV-3).
        """
        others = self._open.get(op_id)
        return others is not None and any(other.body_hash == body_hash for other in others)

    def _order(self, intent: Intent | Cancel, body_hash: bytes, *, dated: bool) -> None:
        """Give an intent the next revision."""
        now_ms, size = self.log_time_ms, size_of(intent)
        late = type(intent) is Intent and (now_ms > intent.deadline_ms or not dated)
        self.revision = revision = self.revision + 1
        self.digest = roll(self.digest, intent.op_id, body_hash)
        entry = Pending(revision, intent, body_hash, self.digest, now_ms, late, size)
        # as `_enter` does, without a call: this is done with every intent
        self.pending[revision] = entry
        self.pending_bytes += size
        others = self._open.get(intent.op_id)
        self._open[intent.op_id] = (entry,) if others is None else (*others, entry)
        self._touch(intent, revision)

    def _touch(self, intent: Intent | Cancel, revision: int) -> None:
        """Raise `last[key]` for every key that an intent may write.

        This happens when the intent is ordered, not when it settles: from now on its commit may be
        in the store, where a reader sees it, so a cached entry of these keys may be out of date
        (INV-5).
        """
        if type(intent) is not Intent:
            return
        if len(intent.writes) == 1 and type(write := intent.writes[0]) is Put:
            self.recent.touch(write.key, revision)
            if not intent.otherwise:
                return
        for each in every_write(intent):
            if type(each) is DeleteRange:
                self._touch_range(each, revision)
            else:
                self.recent.touch(each.key, revision)

    def _touch_range(self, write: DeleteRange, revision: int) -> None:
        """Raise `last` for a whole range: nobody knows yet which keys the delete will find there,
        and an entry of any of them may be out of date from now on (INV-5).
        """
        self.recent.touch_range(write.key, write.end, revision)

    # --------------------------------------------------------------------------------------- Settle

    def _settle(self, command: Settle) -> Effects:
        if command.last - command.first + 1 != len(command.records) or not command.records:
            return _ILLEGAL
        if self._is_stale(command.last):
            return _STALE
        if not self.holds(Mark(command.last, command.digest)):
            return _FOREIGN  # this machine ordered other intents: the sender has to take over again
        first = self.settled.revision + 1
        if not command.first <= first <= command.last:
            return _GAP  # the group was built for another settled revision
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
        """Return whether a command that ends at `last` settles only what is settled already.

        A deposed leader may have sent it long ago. If it were applied, revisions that were settled
        since would be given a second time.
        """
        return last <= self.settled.revision

    def _are_ours(self, first: int, records: Sequence[Recorded]) -> bool:
        """Return whether the records belong to exactly the pending intents from `first` on."""
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
        """Settle the pending intents from `first` on with these outcomes, and return what the
        listeners receive.
        """
        previous = self.settled.revision
        versions: list[Version] = []
        for revision, record in enumerate(records, first):
            pending = self.pending[revision]
            self._leave(pending)
            self.window.record(record, revision, log_time_ms)
            intent, outcome = pending.intent, record.outcome
            if made_here and type(outcome) is Applied and type(intent) is Intent:
                made_here = add_versions(intent, record, revision, log_time_ms, versions)
        last = first + len(records) - 1
        self.settled = Mark(last, digest)
        self._pass_to(log_time_ms)
        return Settled(
            previous,
            last,
            digest,
            records,
            tuple(versions) if made_here else None,
            log_time_ms,
            term=self.book.row_term,
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
            return _GAP  # the rows were read against a settled revision that is not this machine's
        if self.holds(end):  # the log holds that order by now
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
        """Adopt the ledger's rows and outcomes, which this log does not hold in that order. Order
        the intents that stay pending again behind them, and return what the listeners receive.
        """
        fed: list[Settled] = []
        # used for membership tests only: the iteration order of a set differs between members
        recorded: set[tuple[str, bytes]] = set()
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
        """Record how an op_id of an adopted row ended, even if this log never held it: its client
        may retry (INV-3).
        """
        self.window.record(record, revision, log_time_ms)

    def _raise_floor(self, to: int) -> None:
        """Invalidate all cached entries older than `to`: `last` does not know which keys the
        adopted rows wrote (INV-5).
        """
        self.recent.raise_floor(to)

    def _order_again(self, end: Mark, rest: Sequence[Pending]) -> None:
        """Settle at `end`, and give the remaining pending intents new revisions behind it, in their
        old order.
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
        """Enter an intent in `last[key]` with its new revision. With the old one, a cached entry
        from between the two revisions would seem to hold although it is older than the intent's
        commit (INV-5).
        """
        self._touch(intent, revision)

    # --------------------------------------------------------------------------------- Found, Amend

    def _found(self, command: Found) -> Effects:
        if self.founded is not None:
            return _STALE
        self.founded = command
        self.namespace = command.namespace
        self.book.level = command.limits.level
        self._go_by(command.limits)
        return _FOUNDED

    def _amend(self, command: Amend) -> Effects:
        if self.founded is None:
            return _STALE
        self.book.forget_before(self.log_time_ms - self.limits.window_ms)
        self._go_by(command.limits)
        return _AMENDED

    # ----------------------------------------------------------------- what a replicated store asks

    @property
    def cache_namespace(self) -> int:
        """The namespace of the caches now. With members' own stores it is another one in each term:
        only a new term's leader can have lost a suffix, and then gives its revisions again, which
        no entry from before may meet (R12).
        """
        if not self.book.founded:
            return self.namespace
        return founding.namespace_in(self.namespace, self.book.term)

    def term_of(self, revision: int) -> int:
        """Return the term of the ledger row that gave a settled revision; 0: not known here."""
        return self.book.term_of(revision) if revision <= self.settled.revision else 0

    def holds_to(self, revision: int, term: int) -> int:
        """Return the newest revision, up to `revision`, to which a position that a row of `term`
        gave is in force here (R12): `revision` itself, if nothing speaks against it.
        """
        return self.book.holds_to(revision, term, self.settled.revision)

    def shared_with(self, terms: Terms, upto: int) -> int:
        """Return the newest revision, at most `upto`, that this ledger shares with one whose terms
        are these (R12).
        """
        return self.book.shared_with(terms, upto, self.settled.revision)

    def known_since_ms(self) -> int:
        """Return the log time before which a recorded operation is not known now (R2)."""
        return max(self.book.known_since_ms, self.log_time_ms - self.limits.window_ms)

    def settle_here(
        self,
        records: tuple[Recorded, ...],
        log_time_ms: int,
        versions: tuple[Version, ...] | None = None,
    ) -> Settled:
        """Settle everything that is pending with these outcomes: the member's own evaluation, which
        made `versions` too, or (None) what its own store recorded of the same command: then the
        versions, with their numbers, are in that store.
        """
        previous = self.settled.revision
        if versions is None:
            return self._settle_records(
                previous + 1, self.digest, records, log_time_ms, made_here=False
            )
        record_outcome = self.window.record
        for revision, record in enumerate(records, previous + 1):
            record_outcome(record, revision, log_time_ms)
        self.pending, self._open, self.pending_bytes = {}, {}, 0
        self.settled = Mark(self.revision, self.digest)
        self._pass_to(log_time_ms)
        return Settled(
            previous,
            self.revision,
            self.digest,
            records,
            versions,
            log_time_ms,
            term=self.book.row_term,
        )

    def _floor(self, command: Floor) -> Effects:
        """Raise the floor below which every member may prune, up to what is settled (R8)."""
        if not self.book.floor < command.revision <= self.settled.revision:
            return _STALE
        self.book.floor = command.revision
        return _NOTED

    def _rise(self, command: Level) -> Effects:
        if command.level <= self.book.level:
            return _STALE
        self.book.level = command.level
        return _NOTED

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
        # The adopted store may hold rows that were never read, with any of these intents. It can
        # tell for op_ids that clients gave, but not for those that nodes made, and a second outcome
        # of one of these could contradict the first: they are dropped, and stay unknown.
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
        """Return whether an adoption fails to end above every revision ever given.

        An intent that was ordered between the leader's look at the store and the adoption has a
        revision up to its end, which would be given a second time. The leader then asks the store
        again. (Adoptions from before namespaces were drawn made no such promise.)
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
        """Discard everything: what was applied is no longer the log."""
        self.recent.clear()
        self.window.clear()
        self._begin()

    def capture(self, *, last: bool = True) -> MachineState:
        """Return all state as a shallow copy whose contents never change. `last=False` leaves
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
            ranges=self.recent.ranges if last else (),
            founded=self.founded,
            limits=self.limits,
            undone=self.undone,
            book=copy(self.book) if self.book.founded else None,
        )

    def restore(self, state: MachineState) -> None:
        """Replace all state by a captured one."""
        self._begin()
        self.revision, self.digest, self.settled = state.revision, state.digest, state.settled
        self.log_time_ms, self.namespace = state.log_time_ms, state.namespace
        self.founded, self.undone = state.founded, state.undone
        self.book = copy(state.book) if state.book is not None else Book()
        if state.limits is not None:
            self._go_by(state.limits)
        for entry in state.pending:
            self._enter(entry)
        self.window.restore(flat(state.window_old), flat(state.window_young))
        self.recent.restore(
            (state.last or {}).items(),
            self._floor_of(state),
            () if state.last is None else state.ranges,
        )

    @staticmethod
    def _floor_of(state: MachineState) -> int:
        """Return the floor for a restored state. When `last` was left out, no entry older than the
        newest ordered revision may hold (INV-5).
        """
        return max(state.floor, state.revision) if state.last is None else state.floor
