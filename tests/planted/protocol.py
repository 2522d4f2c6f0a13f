"""Take the protocol's rules away, one by one (docs/DESIGN.md sections 3 and 4).

The names are those of the protocol's model (docs/model/). What each rule is for is told by its
story in tests/unit/coordinator/test_rules.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from coordinator.applier import Applier
from coordinator.background.publisher import Publisher
from coordinator.commit import groups
from coordinator.commit.committer import Committer
from coordinator.commit.fence import Fence
from coordinator.commit.groups import GroupCommitter
from coordinator.commit.takeover import TakeOver
from coordinator.consensus import HEARTBEAT_S, Coordinator
from coordinator.log import Position
from coordinator.machine.chain import RowStep
from coordinator.machine.commands import Adopt, Amend, Found, Rebase, Settle
from coordinator.machine.effects import Effects
from coordinator.machine.evaluate import _Group
from coordinator.machine.machine import Machine
from coordinator.machine.pending import Mark, Pending
from coordinator.machine.recent import Recent
from coordinator.machine.snapshot import MachineState
from kv.model import DeleteRange, Group, Head, Intent, Recorded, RecordedOperation
from kv.ports import Appended, Facts, Settled, TakenOver
from tests.planted import store
from tests.planted.registry import Patches, fault

# ------------------------------------------------------------------------------------------- fence


@fault("INV-6")
def fence() -> Patches:
    """A group lands wherever the ledger ends, and is evaluated on facts of any head."""

    def are_of(self: GroupCommitter, head: Head, facts: Facts) -> bool:
        return True

    yield GroupCommitter, "_are_of", are_of
    yield from store.unchecked("PLACE")


@fault("INV-6")
def fence_digest() -> Patches:
    """A group lands on a ledger that ends with another digest than it was built on."""
    yield from store.unchecked("DIGEST")


@fault("INV-1")
def fence_row() -> Patches:
    """A group lands behind another row than it was built on; taking over appends none."""
    right = Fence.take_place

    async def take_place(self: Fence, term: int, adopt_last: int | None = None) -> TakenOver | None:
        if adopt_last is not None:
            return await right(self, term, adopt_last)
        asked = self._context.store
        head = await asked.asked(asked.port.head(timeout_s=asked.timeout_s))
        return None if head is None else TakenOver(head, head)

    yield Fence, "take_place", take_place
    yield from store.unchecked("ROW")


@fault("INV-1")
def fence_ordered() -> Patches:
    """A group lands behind a row of a higher term than its own."""
    yield from store.unchecked("TERM")


# -------------------------------------------------------------------------------------- taking over


@fault("INV-6")
def digest_check() -> Patches:
    """Head, Settle and machine are compared by revision alone."""

    def agrees(self: Mark, other: Mark) -> bool:
        return self.revision == other.revision

    def are_ours(self: Machine, first: int, records: Sequence[Recorded]) -> bool:
        return True

    def follows(head: Head, first: Pending) -> bool:
        return True

    yield Mark, "agrees", agrees
    yield Machine, "_are_ours", are_ours
    yield groups, "follows", follows


@fault("INV-1")
def reads_head() -> Patches:
    """Taking over goes on from what is settled, whatever the head is."""

    async def bring_level(self: TakeOver, term: int, own: Head) -> Head | None:
        settled = self._context.machine.settled
        return Head(own.seq, own.term, own.committer, settled.revision, settled.digest)

    yield TakeOver, "_bring_level", bring_level


@fault("INV-1")
def store_identity() -> Patches:
    """Any store is taken for this history's."""

    async def owns_store(self: TakeOver, term: int) -> bool:
        return self._context.leadership.leads(term)

    yield TakeOver, "_owns_store", owns_store


@fault("INV-1")
def readindex_taken() -> Patches:
    """A leader answers ReadIndex before it has taken over."""
    right = Committer.led

    def led(self: Committer, term: int) -> None:
        right(self, term)
        self._context.log.open_reads(term)

    yield Committer, "led", led


# ------------------------------------------------------------------------------------------ Rebase


def _ours(machine: Machine) -> set[tuple[str, bytes]]:
    return {(p.intent.op_id, p.body_hash) for p in machine.pending.values()}


@fault("INV-3")
def rebase_rows() -> Patches:
    """A Rebase tells the window only of op_ids that are pending here."""
    right = Machine._learn

    def learn(self: Machine, record: Recorded, revision: int, log_time_ms: int) -> None:
        if (record.op_id, record.body_hash) in _ours(self):
            right(self, record, revision, log_time_ms)

    yield Machine, "_learn", learn


@fault("INV-1")
def rebase_floor() -> Patches:
    """A Rebase leaves the floor where it is."""

    def raise_floor(self: Machine, to: int) -> None:
        return

    yield Machine, "_raise_floor", raise_floor


@fault("INV-1")
def rebase_touch() -> Patches:
    """What a Rebase orders again is touched at its old revision alone."""

    def touch_again(self: Machine, intent: Any, revision: int) -> None:
        return

    yield Machine, "_touch_again", touch_again


@fault("INV-6")
def rebase_stale() -> Patches:
    """A Rebase at or below what is settled takes the machine back there."""
    right = Machine._rebase

    def rebase(self: Machine, command: Rebase) -> Effects:
        end = Mark(command.rows[-1].last, command.rows[-1].digest)
        if end.revision <= self.settled.revision:
            return Effects("rebased", settled=self._step_over((), end))
        return right(self, command)

    yield Machine, "_rebase", rebase


@fault("INV-6")
def rebase_base() -> Patches:
    """The rows of a Rebase are taken from any settled revision on."""
    right = Machine._steps

    def steps(self: Machine, command: Rebase) -> tuple[RowStep, ...] | None:
        found = right(self, command)
        if found is not None:
            return found
        rows = [row for row in command.rows if row.first > self.settled.revision]
        return tuple(RowStep(row.first, row, row.body) for row in rows)

    yield Machine, "_steps", steps


@fault("INV-6")
def rebase_feeds() -> Patches:
    """Watchers hear of what a Rebase steps over only where it is pending here."""
    right = Machine._step_over

    def step_over(self: Machine, steps: Sequence[RowStep], end: Mark) -> tuple[Settled, ...]:
        ours, heard = _ours(self), []
        for settled in right(self, steps, end):
            records = tuple(r for r in settled.records if (r.op_id, r.body_hash) in ours)
            if records:
                heard.append(msgspec.structs.replace(settled, records=records))
        return tuple(heard)

    yield Machine, "_step_over", step_over


# -------------------------------------------------------------------------------------- the machine


@fault("INV-5")
def judge_floor() -> Patches:
    """The floor is ignored for a key that is remembered."""

    def touched(self: Machine, key: bytes) -> int:
        last = self.recent.last(key)
        return self.recent.floor if last is None else last

    yield Machine, "touched", touched


@fault("INV-5")
def forget_floor() -> Patches:
    """A key is forgotten, and the floor stays."""

    def forgot(self: Recent, revision: int) -> None:
        return

    yield Recent, "_forgot", forgot


@fault("INV-5")
def snapshot_floor() -> Patches:
    """A snapshot without `last` is restored, and the floor stays."""

    def floor_of(state: MachineState) -> int:
        return state.floor

    yield Machine, "_floor_of", staticmethod(floor_of)


@fault("INV-1")
def touch() -> Patches:
    """A key is touched when its write settles, not when it is ordered."""
    right = Machine._settle_records

    def not_yet(self: Machine, intent: Any, revision: int) -> None:
        return

    def settle_records(
        self: Machine,
        first: int,
        digest: bytes,
        records: tuple[Recorded, ...],
        *more: Any,
        **made: Any,
    ) -> Settled:
        leaving = [self.pending[revision] for revision in range(first, first + len(records))]
        settled = right(self, first, digest, records, *more, **made)
        for pending in leaving:
            for key in pending.intent.touched:
                self.recent.touch(key, pending.revision)
        return settled

    yield Machine, "_touch", not_yet
    yield Machine, "_settle_records", settle_records


def _untouched(self: Machine, write: DeleteRange, revision: int) -> None:
    return


@fault("INV-1")
def range_touch() -> Patches:
    """A range is touched when its delete settles, key by key, not when it is ordered."""
    right = Machine._settle_records

    def settle_records(
        self: Machine, first: int, digest: bytes, records: tuple[Recorded, ...], *more: Any,
        **made: Any,
    ) -> Settled:  # fmt: skip
        settled = right(self, first, digest, records, *more, **made)
        for revision, record in enumerate(records, first):
            for key in record.keys:
                self.recent.touch(key, max(revision, self.recent.last(key) or 0))
        return settled

    yield Machine, "_touch_range", _untouched
    yield Machine, "_settle_records", settle_records


@fault("INV-1")
def range_untouched() -> Patches:
    """A delete of a range touches nothing."""
    yield Machine, "_touch_range", _untouched


@fault("INV-3")
def dedupe() -> Patches:
    """The machine orders an op_id again that it knows, or that is pending."""

    def recorded_answer(self: Machine, op_id: str, body_hash: bytes) -> None:
        return

    def is_pending(self: Machine, op_id: str, body_hash: bytes) -> bool:
        return False

    yield Machine, "_recorded_answer", recorded_answer
    yield Machine, "_is_pending", is_pending


@fault("INV-3")
def store_dedupe() -> Patches:
    """An op_id that the store knows has its effect once more."""
    right = _Group._keep

    def known(self: _Group, op_id: str) -> None:
        return

    def keep(self: _Group, operation: RecordedOperation) -> None:
        if operation.op_id not in self._facts.operations:
            right(self, operation)

    yield _Group, "_known", known
    yield _Group, "_keep", keep
    yield from store.unchecked()


@fault("INV-4")
def late_expires() -> Patches:
    """Deadlines are not judged."""

    def is_late(self: _Group, pending: Pending, intent: Intent) -> bool:
        return False

    yield _Group, "_is_late", is_late


@fault("INV-1")
def limits_ordered() -> Patches:
    """Each machine goes by its member's own limits."""
    founding, amending = Machine._found, Machine._amend

    def found(self: Machine, command: Found) -> Effects:
        effects = founding(self, command)
        self._go_by(self._configured)
        return effects

    def amend(self: Machine, command: Amend) -> Effects:
        effects = amending(self, command)
        self._go_by(self._configured)
        return effects

    yield Machine, "_found", found
    yield Machine, "_amend", amend


@fault("INV-6")
def adopt_above() -> Patches:
    """An adoption counts although revisions up to its end were given meanwhile."""

    def is_late(self: Machine, command: Adopt) -> bool:
        return False

    yield Machine, "_is_late", is_late


# --------------------------------------------------------------------------------------- the member


@fault("INV-1")
def readindex_entry() -> Patches:
    """A reader waits for the index of its read, whatever entry is there."""

    async def wait_for_entry(self: Coordinator, position: Position, ends_s: float) -> None:
        while self._log.applied.index < position.index:
            await asyncio.sleep(HEARTBEAT_S / 10)

    yield Coordinator, "_wait_for_entry", wait_for_entry


@fault("INV-1")
def machines_alike() -> Patches:
    """A machine that went another way than the leader's is read all the same."""

    def check_alike(self: Coordinator) -> None:
        return

    yield Coordinator, "_check_alike", check_alike


@fault("INV-1")
def reset() -> Patches:
    """A member whose applied log was overwritten keeps its machine."""

    def keep(self: Coordinator) -> None:
        self.committer.wake()

    yield Coordinator, "reset", keep


@fault("INV-1")
def refuse_behind() -> Patches:
    """Nothing is refused, whatever the head is."""
    yield Coordinator, "refusal", property(lambda self: None)


# -------------------------------------------------------------------------------- commit, broadcast


@fault("INV-2")
def answer_committed() -> Patches:
    """Clients hear of an outcome before the COMMIT that makes it true."""
    right = GroupCommitter._write

    async def write(self: GroupCommitter, group: Group) -> Any:
        self._context.member.committed(group.row.first, group.row.body)
        return await right(self, group)

    yield GroupCommitter, "_write", write


@fault("INV-2")
def settle_committed() -> Patches:
    """A Settle is proposed before the COMMIT that makes it true."""
    right = GroupCommitter._write

    async def write(self: GroupCommitter, group: Group) -> Any:
        self._settle(group, Appended())
        return await right(self, group)

    def committed(self: GroupCommitter, group: Group, appended: Appended) -> None:
        self._answer(group)

    yield GroupCommitter, "_write", write
    yield GroupCommitter, "_committed", committed


@fault("INV-3")
def foresee_ours() -> Patches:
    """A follower answers its clients by a Settle that it cannot relate to what was ordered here."""

    def is_ours(self: Applier, settle: Settle) -> bool:
        return True

    yield Applier, "_is_ours", is_ours


@fault("INV-6")
def publish() -> Patches:
    """A leader publishes what it has committed itself, not from the cursor on."""
    right = Publisher._begin

    async def begin(self: Publisher) -> int:
        return max(await right(self), self._member.machine.settled.revision)

    yield Publisher, "_begin", begin


@fault("INV-6")
def publish_whole() -> Patches:
    """The publisher takes a store at its word that lacks what was settled."""

    def kept(self: Publisher, position: int) -> None:
        return

    async def check_whole(self: Publisher, *more: Any, **gaps: Any) -> None:
        return

    yield Publisher, "_kept", kept
    yield Publisher, "_check_whole", check_whole
