"""Commit group after group behind a known head, answer the clients, and settle.

It assumes nothing about a transaction whose answer it did not receive, and reports no outcome
before the COMMIT that made it true (INV-2).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

import structlog
from msgspec.structs import replace

from coordinator.backoff import Backoff
from coordinator.commit.context import HANG_FACTOR, CommitContext
from coordinator.machine.chain import group_on, mark_of, settle_of_group
from coordinator.machine.evaluate import evaluate
from coordinator.machine.needs import Needs, judged_together, needs, no_facts
from coordinator.machine.pending import Mark, Pending
from kv.errors import BackendUnavailable, InvariantViolated, OutcomeUnknown, StoreDamaged
from kv.model import Group, Head, Recorded, Reference, Version, roll
from kv.ports import Appended, Facts, Fenced, Span

KEYS_BYTES_MAX: Final = 8 * 1024 * 1024
"""Bytes of the keys that a group changes: its Settle names them all, and has to fit into a command
of the log. A single intent may have more.
"""
KEY_BYTES: Final = 32
"""What a key takes there besides its own bytes, at most: its numbers."""

_log = structlog.get_logger("acordo.committer")


class _SettleOnItsWay(NamedTuple):
    """A committed group whose Settle is not applied yet."""

    last: int
    through: asyncio.Future[Any]
    gives_up_s: float


class GroupCommitter:
    """The leader's loop from pending intents to settled groups, one transaction at a time."""

    def __init__(self, context: CommitContext, backoff: Backoff) -> None:
        self._context, self._backoff = context, backoff
        self._settles: deque[_SettleOnItsWay] = deque()
        self._batch_max = context.settings.group_intents_max
        """Halved by every failure of the store and doubled by every commit, so that a store that
        cannot take large groups still commits small ones.
        """
        self.answered = Mark()
        """The end of the newest group whose clients this member answered at COMMIT. The group is in
        the store, though perhaps not settled yet.
        """
        self.groups = self.intents = 0
        """Committed groups, and the intents in them."""
        self.unknown = self.fenced = 0
        """Groups whose commit outcome was lost, and groups that the ledger fenced off."""

    def forget_answered(self) -> None:
        """Reset `answered`: an adoption gave those revisions up."""
        self.answered = Mark()

    async def run(self, term: int, head: Head) -> None:
        """Commit group after group behind `head`. Return when this member leads `term` no more, or
        when it has to take over again to find out where the head is.
        """
        context, leadership = self._context, self._context.leadership
        self._settles.clear()
        while leadership.leads(term):
            if not self._settles_went_well() or not self._continues(head):
                return
            batch = self._next_batch(head)
            if not batch or len(self._settles) >= context.settings.settles_in_flight_max:
                await leadership.wait_news(
                    context.settings.propose_timeout_s if self._settles else None
                )
                continue
            if not follows(head, batch[0]):
                return
            group = await self._build(term, head, batch)
            if group is None:  # the facts were read at another head
                return
            if group == "later":
                await leadership.pause(self._backoff.next_s())
                continue
            if not leadership.leads(term) or not context.machine.holds(batch[-1].mark):
                # nothing was sent: the present leader commits these intents, in the order that they
                # have now
                return
            ended = await self._write(group)
            if ended == "later":
                await leadership.pause(self._backoff.next_s())
                continue
            if ended == "unknown":
                return
            head = group.row.head
            self._committed(group, ended)

    def _settles_went_well(self) -> bool:
        """Remove the finished settles from the queue. Return False if one did not settle what it
        should, or the oldest one takes too long.
        """
        settles, machine = self._settles, self._context.machine
        while settles and settles[0].through.done():
            last, through, _ = settles.popleft()
            if (
                through.cancelled()
                or through.exception() is not None
                or machine.settled.revision < last
            ):
                return False  # the settled revision stays below the head: take over again
        return not settles or self._context.clock.monotonic() < settles[0].gives_up_s

    def _continues(self, head: Head) -> bool:
        """Return whether the machine still continues behind the head: a Rebase or an Adopt may have
        been applied since.
        """
        machine = self._context.machine
        if machine.settled.revision < head.last:
            return machine.holds(mark_of(head))
        return machine.settled.agrees(mark_of(head))

    def _next_batch(self, head: Head) -> list[Pending]:
        """Return the pending intents behind the head, as many as one group may contain."""
        batch: list[Pending] = []
        size = 0
        machine = self._context.machine
        revision = head.last + 1
        while len(batch) < self._batch_max:
            entry = machine.pending.get(revision)
            if entry is None or (
                batch and size + entry.size > self._context.settings.group_bytes_max
            ):
                break
            batch.append(entry)
            size += entry.size
            revision += 1
        if not batch and machine.revision > head.last:
            raise InvariantViolated(f"revision {head.last + 1} was ordered and is not pending")
        return batch

    async def _build(
        self, term: int, head: Head, batch: Sequence[Pending]
    ) -> Group | Literal["later"] | None:
        """Read the facts that the batch needs and evaluate it at exactly `head`. Return "later"
        when the store does not answer, and None when its ledger ends at another head.
        """
        batch = batch[: judged_together(batch)]
        asks, store = needs(batch), self._context.store
        facts = no_facts(head)
        if not asks.nothing:
            found = await store.asked(self._facts(asks))
            if found is None:
                return "later"
            if not self._are_of(head, found):
                return None
            facts = found
        now_ms = self._context.member.now_ms()
        evaluation = evaluate(batch, facts, now_ms, term)
        fitting = _fitting(evaluation.records)
        if fitting < len(batch):
            batch = batch[:fitting]
            evaluation = evaluate(batch, facts, now_ms, term)
        return group_on(
            head,
            term=term,
            committer=self._context.name,
            log_time_ms=now_ms,
            batch=batch,
            evaluation=evaluation,
        )

    async def _facts(self, asks: Needs) -> Facts:
        store = self._context.store
        found = await store.port.facts(
            asks.op_ids,
            asks.keys,
            asks.hashed,
            asks.blobs,
            spans=asks.spans,
            leases=asks.leases,
            timeout_s=store.timeout_s,
        )
        spans = {span: await self._whole(span, found.spans[span]) for span in found.spans}
        return replace(found, spans=spans) if spans else found

    async def _whole(self, span: Span, versions: tuple[Version, ...]) -> tuple[Version, ...]:
        """Return the versions with their large values, if values are compared."""
        if not span.whole or span.limit <= 1:
            return versions
        store, whole = self._context.store, []
        for version in versions:
            value: bytes | Reference | None = version.value
            if isinstance(value, Reference):
                value = await store.port.blob(value, timeout_s=store.timeout_s)
                if value is None:
                    raise StoreDamaged(
                        "store", version.key, version.revision, "a large value is not there"
                    )
            whole.append(replace(version, value=value))
        return tuple(whole)

    def _are_of(self, head: Head, facts: Facts) -> bool:
        """Return whether the facts are the store's state at exactly the head that the group is
        built on.
        """
        return facts.head == head

    async def _write(self, group: Group) -> Appended | Literal["unknown", "later"]:
        """Run the group's transaction. "later": nothing was changed; "unknown": taking over finds
        out.
        """
        store = self._context.store
        try:
            async with asyncio.timeout(store.timeout_s * HANG_FACTOR):
                result = await store.port.append(group, timeout_s=store.timeout_s)
        except BackendUnavailable as exc:
            self._failed(exc)
            return "later"
        except (OutcomeUnknown, TimeoutError) as exc:
            self.unknown += 1
            self._failed(exc)
            return "unknown"
        if isinstance(result, Fenced):
            self.fenced += 1
            _log.warning(
                "group fenced off",
                first=group.row.first,
                last=group.row.last,
                head=result.head.last,
            )
            return "unknown"
        assert isinstance(result, Appended)
        store.answered()
        self._batch_max = min(self._batch_max * 2, self._context.settings.group_intents_max)
        return result

    def _failed(self, exc: Exception) -> None:
        self._batch_max = max(1, self._batch_max // 2)
        self._context.store.failed(exc)

    def _committed(self, group: Group, appended: Appended) -> None:
        """Answer the local clients of a committed group, and settle it on all members."""
        self.groups += 1
        self.intents += len(group.row.body)
        self._answer(group)
        self._settle(group, appended)

    def _answer(self, group: Group) -> None:
        """Answer the clients that wait on this member (INV-2: only after COMMIT)."""
        self.answered = mark_of(group.row)
        self._context.member.committed(group.row.first, group.row.body)

    def _settle(self, group: Group, appended: Appended) -> None:
        """Propose the group's Settle to all members (INV-2: only after COMMIT)."""
        through = self._context.proposer.propose(settle_of_group(group, appended.numbers))
        gives_up_s = self._context.clock.monotonic() + self._context.settings.propose_timeout_s
        self._settles.append(_SettleOnItsWay(group.row.last, through, gives_up_s))


def _fitting(records: Sequence[Recorded]) -> int:
    """Return how many records, from the first on, name at most KEYS_BYTES_MAX of keys; one at
    least.
    """
    size = 0
    for count, record in enumerate(records):
        size += sum(map(len, record.keys)) + KEY_BYTES * len(record.keys)
        if count and size > KEYS_BYTES_MAX:
            return count
    return len(records)


def follows(head: Head, first: Pending) -> bool:
    """Return whether rolling the first pending intent onto the head's digest gives the machine's
    digest. Otherwise the machine's order is not the ledger's.
    """
    return roll(head.digest, first.intent.op_id, first.body_hash) == first.digest
