"""Append an empty row behind the ledger's newest one, so that nothing that was in flight can land.

This also resolves a commit whose answer was lost: either its row is below the new one, or it can
never land.
"""

from __future__ import annotations

import asyncio

import structlog

from coordinator.commit.context import HANG_FACTOR, CommitContext
from coordinator.commit.refusal import StoreRefusal
from kv.errors import BackendUnavailable, OutcomeUnknown
from kv.model import Head
from kv.ports import Outranked, TakenOver

_log = structlog.get_logger("acordo.committer")


class Fence:
    """The empty rows by which a leader fences off other committers, and its own lost commits."""

    def __init__(self, context: CommitContext, refusal: StoreRefusal) -> None:
        self._context, self._refusal = context, refusal

    async def take_place(self, term: int, adopt_last: int | None = None) -> TakenOver | None:
        """Append an empty row; for an adoption, one that ends at `adopt_last`. Return None when it
        is not known to have landed, or when a row of a higher term is in the way.
        """
        context, store = self._context, self._context.store
        try:
            async with asyncio.timeout(store.timeout_s * HANG_FACTOR):
                result = await store.port.take_over(
                    term,
                    context.name,
                    context.member.now_ms(),
                    adopt_last=adopt_last,
                    identity=None if adopt_last is None else context.identity,
                    timeout_s=store.timeout_s,
                )
        except (BackendUnavailable, OutcomeUnknown, TimeoutError) as exc:
            store.failed(exc)  # if it did land, the next row is appended behind it
            return None
        if isinstance(result, Outranked):
            _log.warning(
                "outranked by a ledger row",
                term=term,
                row_term=result.head.term,
                row_of=result.head.committer,
            )
            # whether to refuse is for the committer that wrote that row to decide
            self._refusal.clear()
            await self.stand_above(term, result.head)
            return None
        return result

    async def stand_above(self, term: int, head: Head) -> None:
        """Step down and stand for election again above the row in the way: only then may this
        member append.
        """
        self._context.log.outrank(max(term, head.term))
        await self._context.leadership.pause(self._context.settings.backoff_s_max)


def outranks(head: Head, term: int, name: str) -> bool:
    """Return whether a row forbids the committer `name` of `term` to append behind it."""
    return head.seq > 0 and (head.term > term or (head.term == term and head.committer != name))
