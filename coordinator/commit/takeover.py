"""Take over the store: claim it, fence off what was in flight, and bring the machines to its head.

A new leader does this before anything else, and a leader does it again whenever it does not know
how a transaction ended. It never takes a row for settled that does not exactly continue what is
settled.
"""

from __future__ import annotations

import structlog

from coordinator.commit.adoption import Adoption
from coordinator.commit.context import CommitContext
from coordinator.commit.fence import Fence, outranks
from coordinator.commit.groups import GroupCommitter
from coordinator.machine.chain import mark_of
from coordinator.machine.commands import Command
from coordinator.machine.pending import Mark
from coordinator.machine.standing import Ahead, Level, Refuse, anchored, belongs, catch_up, standing
from kv.errors import BackendUnavailable, Pruned
from kv.model import Head, LedgerRow

_log = structlog.get_logger("acordo.committer")


class TakeOver:
    """The leader's steps from its election to a head that it may build on."""

    def __init__(
        self, context: CommitContext, fence: Fence, groups: GroupCommitter, adoption: Adoption
    ) -> None:
        self._context, self._fence = context, fence
        self._groups, self._adoption = groups, adoption
        self.tries = self.rebases = 0

    async def run(self, term: int) -> Head | None:
        """Append the empty row, read the head, bring the machines there, and return the head to
        build on.

        None: it did not succeed this time, or this member leads no more.
        """
        self.tries += 1
        if not await self._owns_store(term):
            return None
        landed = await self._fence.take_place(term)
        if landed is None or not self._context.leadership.leads(term):
            return None
        return await self._bring_level(term, landed.own)

    async def _owns_store(self, term: int) -> bool:
        """Make sure that the store belongs to this history before anything is written to it, and
        refuse it otherwise.
        """
        context, store = self._context, self._context.store
        leads = context.leadership.leads
        if context.machine.founded is None:
            return leads(term)
        found = await store.asked(store.port.claim(context.identity, timeout_s=store.timeout_s))
        refuse = None if found is None else belongs(context.identity, found)
        if refuse is not None and leads(term):
            await self._refuse_other(term, refuse)
        return found is not None and refuse is None and leads(term)

    async def _refuse_other(self, term: int, refuse: Refuse) -> None:
        """Refuse a store that does not belong to this history, until that changes."""
        context, store = self._context, self._context.store
        head = await store.asked(store.port.head(timeout_s=store.timeout_s))
        if head is None or not context.leadership.leads(term):
            return
        if refuse.why == "store_history" and outranks(head, term, context.name):
            await self._fence.stand_above(term, head)  # an adoption is appended behind that row
        else:
            await self._adoption.stay_refused(term, head, refuse)

    async def _bring_level(self, term: int, own: Head) -> Head | None:
        """Order the commands that bring the machines from the settled revision to the head, page by
        page.
        """
        while True:
            settled = self._context.machine.settled
            found = await self._plan(settled, own)
            if found is None or not self._context.leadership.leads(term):
                return None
            if isinstance(found, Refuse):
                if await self._nobody_moved(settled, own):
                    await self._adoption.stay_refused(term, own, found)
                return None
            if not found:
                return own
            for command in found:
                if not await self._context.proposer.order(command, term):
                    return None
            if self._context.machine.settled.revision <= settled.revision:
                # another command came first: the settled revision is still below the head
                return None

    async def _nobody_moved(self, settled: Mark, own: Head) -> bool:
        """Return whether the head is still this leader's own row, and the machine still where it
        was when it was compared with it.

        Otherwise another leader is at work. Its Settles may arrive here before the news of its
        election does, so the store that looked behind was only compared too early.
        """
        head = await self._adoption.look(settled)
        return head == own and self._context.machine.settled == settled

    async def _plan(self, settled: Mark, own: Head) -> tuple[Command, ...] | Refuse | None:
        """Return the next commands from the settled revision to the head, for at most a page of
        rows; () when the machines are there. None: the store does not answer.
        """
        stands = standing(settled, own)
        answered = self._groups.answered
        if answered.revision > settled.revision and not isinstance(stands, Refuse):
            answered_stands = standing(answered, own)
            if isinstance(answered_stands, Refuse):
                # answered revisions are not in the store: no other order may take their place
                return answered_stands
        if isinstance(stands, Level):
            return ()
        if isinstance(stands, Refuse):
            return stands
        assert isinstance(stands, Ahead)
        rows = await self._rows_after(settled, own)
        if rows is None or isinstance(rows, Refuse):
            return rows
        known = bool(rows) and self._context.machine.holds(mark_of(rows[-1]))
        rows_bytes_max = self._context.settings.rebase_bytes_max
        found = catch_up(settled, rows, known=known, rows_bytes_max=rows_bytes_max)
        if not known and not isinstance(found, Refuse):
            self.rebases += 1
            _log.warning(
                "ledger holds what the log lost",
                settled=settled.revision,
                to=rows[-1].last,
                head=own.last,
            )
        return found

    async def _rows_after(self, settled: Mark, own: Head) -> list[LedgerRow] | Refuse | None:
        """Return a page of the rows between the settled revision and the head, if they can be
        trusted to continue it. None: the store does not answer.
        """
        store = self._context.store
        try:
            ending = None
            if settled.revision:
                ending = await store.within(
                    store.port.row_ending(settled.revision, timeout_s=store.timeout_s)
                )
            refuse = anchored(settled, ending)
            if refuse is not None:
                return refuse
            page = await store.within(
                store.port.rows(
                    settled.revision, self._context.settings.rows_page, timeout_s=store.timeout_s
                )
            )
        except Pruned:
            return Refuse("store_pruned")
        except BackendUnavailable as exc:
            store.failed(exc)
            return None
        return [row for row in page if row.last <= own.last]
