"""Commit group after group behind a head that is known, answer the clients, and settle.

It assumes nothing about a transaction whose answer it did not hear, and tells nobody of an outcome
before the COMMIT that made it true (INV-2).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import structlog

from coordinator.backoff import Backoff
from coordinator.commit.context import HANG_FACTOR, CommitContext
from coordinator.machine.chain import group_on, mark_of, settle_of
from coordinator.machine.evaluate import evaluate, needs, no_facts
from coordinator.machine.pending import Mark, Pending
from kv.errors import BackendUnavailable, InvariantViolated, OutcomeUnknown
from kv.model import Group, Head, roll
from kv.ports import Appended, Facts, Fenced

_log = structlog.get_logger("acordo.committer")


class _SettleOnItsWay(NamedTuple):
    """A group that is committed, and whose Settle is not applied yet."""

    last: int
    through: asyncio.Future[Any]
    gives_up_s: float


class GroupCommitter:
    """The leader's way from pending intents to settled groups, one transaction at a time."""

    def __init__(self, context: CommitContext, backoff: Backoff) -> None:
        self._context, self._backoff = context, backoff
        self._settles: deque[_SettleOnItsWay] = deque()
        self._batch_max = context.settings.group_intents_max
        """Halved by every failure of the store, doubled by every commit: what is too much for it
        gets through.
        """
        self.answered = Mark()
        """Up to where clients of this member were answered at COMMIT: it is in the store, though
        perhaps not settled yet.
        """
        self.groups = self.intents = 0
        """Committed."""
        self.unknown = self.fenced = 0
        """Whose answer was lost; that the ledger did not take."""

    def forget_answered(self) -> None:
        """Take nothing for answered any more: an adoption gave it up."""
        self.answered = Mark()

    async def run(self, term: int, head: Head) -> None:
        """Commit group after group behind `head`; return when taking over again has to say where
        the head is.
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
            if group is None:  # the facts are of another head
                return
            if group == "later":
                await leadership.pause(self._backoff.next_s())
                continue
            if not leadership.leads(term) or not context.machine.holds(batch[-1].mark):
                return  # nothing was sent: who leads now commits these, in the order they have now
            ended = await self._write(group)
            if ended == "later":
                await leadership.pause(self._backoff.next_s())
                continue
            if ended == "unknown":
                return
            head = group.row.head
            self._committed(group)

    def _settles_went_well(self) -> bool:
        """Take the settles that are through off the queue; say whether they settled what they
        should.
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
        """Say whether the machine still goes on behind the head: a Rebase or an Adopt may have come
        in between.
        """
        machine = self._context.machine
        if machine.settled.revision < head.last:
            return machine.holds(mark_of(head))
        return machine.settled.agrees(mark_of(head))

    def _next_batch(self, head: Head) -> list[Pending]:
        """Return the pending intents behind the head, as many as one group may take."""
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
        """Look up what the batch needs and evaluate it at exactly `head`. `later`: the store does
        not answer; None: it ends elsewhere.
        """
        asks, store = needs(batch), self._context.store
        facts = no_facts(head)
        if not asks.nothing:
            found = await store.asked(
                store.port.facts(
                    asks.op_ids, asks.keys, asks.hashed, asks.blobs, timeout_s=store.timeout_s
                )
            )
            if found is None:
                return "later"
            if not self._are_of(head, found):
                return None
            facts = found
        now_ms = self._context.member.now_ms()
        return group_on(
            head,
            term=term,
            committer=self._context.name,
            log_time_ms=now_ms,
            batch=batch,
            evaluation=evaluate(batch, facts, now_ms),
        )

    def _are_of(self, head: Head, facts: Facts) -> bool:
        """Say whether the facts are the store's state at exactly the head that is built on."""
        return facts.head == head

    async def _write(self, group: Group) -> Literal["committed", "unknown", "later"]:
        """Run the group's transaction. `later`: nothing happened; `unknown`: taking over
        will tell.
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
        return "committed"

    def _failed(self, exc: Exception) -> None:
        self._batch_max = max(1, self._batch_max // 2)
        self._context.store.failed(exc)

    def _committed(self, group: Group) -> None:
        """Go on from a group that is in the store: answer who waits here, settle everywhere."""
        self.groups += 1
        self.intents += len(group.row.body)
        self._answer(group)
        self._settle(group)

    def _answer(self, group: Group) -> None:
        """Answer the clients that wait on this member (INV-2: only after COMMIT)."""
        self.answered = mark_of(group.row)
        self._context.member.committed(group.row.first, group.row.body)

    def _settle(self, group: Group) -> None:
        """Tell all members through the log (INV-2: only after COMMIT)."""
        through = self._context.proposer.propose(settle_of(group.row))
        gives_up_s = self._context.clock.monotonic() + self._context.settings.propose_timeout_s
        self._settles.append(_SettleOnItsWay(group.row.last, through, gives_up_s))


def follows(head: Head, first: Pending) -> bool:
    """Say whether the machine's digest of the first pending intent rolls on from the head's: else
    the machine's order is not the ledger's.
    """
    return roll(head.digest, first.intent.op_id, first.body_hash) == first.digest
