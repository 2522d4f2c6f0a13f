"""Refuse a store that is not what was settled, until it is repaired, another member leads, or an
operator adopts its head.

It adopts nothing without being asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from coordinator.commit.context import CommitContext
from coordinator.commit.fence import Fence
from coordinator.commit.groups import GroupCommitter
from coordinator.commit.refusal import StoreRefusal
from coordinator.machine import founding
from coordinator.machine.commands import Adopt
from coordinator.machine.pending import Mark
from coordinator.machine.standing import Refuse, given_up
from kv.errors import BackendUnavailable, BadRequest, NotApplied, OutcomeUnknown
from kv.model import Head, LedgerRow

_log = structlog.get_logger("acordo.committer")


class Adoption:
    """The state of a leader that refuses its store, and the ways out of it."""

    def __init__(
        self,
        context: CommitContext,
        fence: Fence,
        groups: GroupCommitter,
        refusal: StoreRefusal,
        entropy: Callable[[int], bytes],
    ) -> None:
        self._context, self._fence, self._groups = context, fence, groups
        self._refusal, self._entropy = refusal, entropy
        self._handed_on_at: Mark | None = None
        """The settled place at which this member last tried to transfer the leadership. It does so
        once for each place.
        """

    async def look(self, settled: Mark) -> Head | None:
        """Return the store's head, read from the server that holds what was settled if there are
        several. None: the store does not answer.
        """
        store = self._context.store
        return await store.asked(
            store.port.head(at_least=settled.revision, timeout_s=store.timeout_s)
        )

    async def stay_refused(self, term: int, own: Head, refuse: Refuse) -> None:
        """Refuse writes and reads of the store until it changes, an operator adopts its head, or
        another member leads.
        """
        context, refusal = self._context, self._refusal
        settled = context.machine.settled
        if refusal.why != refuse.why:
            _log.error(
                "store is not what was settled: refusing",
                why=refuse.why,
                settled=settled.revision,
                settled_digest=settled.digest.hex(),
                head=own.last,
                head_digest=own.digest.hex(),
                gives_up=given_up(settled, own).revisions,
            )
        refusal.refuse(refuse.why, given_up(settled, own))
        if await self._hand_on(term, settled):
            return
        while context.leadership.leads(term) and context.machine.settled == settled:
            asked = refusal.asked
            if asked is not None:
                await self._adopt(term, own, asked)
                return
            await context.leadership.pause(context.settings.refused_check_s)
            head = await self.look(settled)
            if head is not None and head != own:
                return  # somebody repaired the store, or made it worse

    async def _hand_on(self, term: int, settled: Mark) -> bool:
        """Transfer the leadership to the next voter before refusing: its connections may lead to
        the server that holds what was settled. Return whether another member leads.

        Each member does so once for each settled place, so that the leadership goes round once and
        then stays.
        """
        if self._handed_on_at == settled:
            return False
        self._handed_on_at = settled
        status = self._context.log.status()
        for voter in next_voters(status.id, [peer.id for peer in status.peers if peer.voter]):
            try:
                await self._context.log.transfer(voter, timeout_s=self._context.settings.hand_on_s)
            except (NotApplied, OutcomeUnknown, BadRequest) as exc:
                _log.info("not handed on", to=voter, error=str(exc))
            if not self._context.leadership.leads(term):
                return True
        return False

    async def _adopt(self, term: int, own: Head, asked: asyncio.Future[int]) -> None:
        """Append the row that ends above every revision ever given, and order its adoption."""
        context = self._context
        last = max(context.machine.revision, own.last) + 1
        landed = await self._fence.take_place(term, adopt_last=last)
        if landed is None:
            _fail(asked, BackendUnavailable("store", "the adopting row was not appended"))
            return
        before, head = landed.before, landed.own
        row = LedgerRow(
            seq=head.seq,
            term=head.term,
            committer=head.committer,
            first=before.last + 1,
            last=head.last,
            digest=head.digest,
            log_time_ms=context.member.now_ms(),
        )
        command = Adopt(row, founding.namespace(self._entropy))
        if not await context.proposer.order(command, term):
            _fail(asked, OutcomeUnknown("the adoption was not seen to be ordered"))
        elif context.machine.settled.revision < head.last:
            _fail(asked, NotApplied("deposed", "another command came before the adoption"))
        else:
            _log.warning("head adopted", settled=head.last, digest=head.digest.hex())
            self._refusal.clear()  # from here on the store is what is settled
            self._groups.forget_answered()
            if not asked.done():
                asked.set_result(head.last)


def next_voters(own: str, voters: Sequence[str]) -> list[str]:
    """Return the other voters in ring order, so that each of them is tried as the leadership goes
    round.
    """
    ring = sorted(voters)
    return [each for each in ring if each > own] + [each for each in ring if each < own]


def _fail(asked: asyncio.Future[int], exc: Exception) -> None:
    if not asked.done():
        asked.set_exception(exc)
