"""Look up how an operation ended and, on request, make its outcome definite (DESIGN section 3,
"Look-up").

A look-up changes nothing: an op_id that no machine knows may belong to another client, be on its
way, or be in the broker. This module never answers "expired" for an op_id that might still be
ordered, and never cancels one made by a node.
"""

from __future__ import annotations

import asyncio
from typing import Final, Literal, NamedTuple, TypeAlias

from kv.errors import BackendUnavailable, KvError, NotApplied, OutcomeUnknown
from kv.model import NODE_OP_ID_PREFIX, Again, Answer, Cancel
from kv.ports import Clock, Consensus, MemberStore, Store
from node.judging.store_identity import check_store_identity
from node.judging.store_kind import reader_of
from node.readiness.findings import ADOPT, differs
from node.reads.reads import Reads
from node.settings import ServerSettings
from node.writes.writes import Writes

PENDING_WAIT_S: Final = 2.0
"""How long a look-up waits for a pending operation to settle."""


class StillUnknown(NamedTuple):
    """An outcome that is not known now; with "outcome_forgotten" it most likely never will be.
    `why` tells the client what to do.
    """

    why: str
    code: Literal["outcome_unknown", "outcome_forgotten"] = "outcome_unknown"


Found: TypeAlias = Answer | Literal["pending", "not_ordered"] | StillUnknown
"""The result of a look-up. not_ordered: a quorum confirmed that neither the log nor `ops` has the
op_id; it may still be ordered later.
"""


class Lookups:
    """The look-up of operations by op_id."""

    def __init__(
        self,
        consensus: Consensus,
        store: Store | None,
        clock: Clock,
        settings: ServerSettings,
        *,
        reads: Reads,
        writes: Writes,
        own: MemberStore | None = None,
    ) -> None:
        self._consensus, self._clock = consensus, clock
        self._shared, self._store = store, reader_of(store, own)
        self._settings = settings
        self._reads, self._writes = reads, writes

    async def find(self, op_id: str, *, deadline: float) -> Found:
        """Return what is known of the operation. Never raises merely because its outcome is not
        known. `deadline` is loop time.
        """
        if self._shared is None and (refusal := self._consensus.refusal) is not None:
            return StillUnknown(
                f"this member's own copy cannot be used now ({refusal}): ask another"
            )
        known = await self._known(op_id, deadline)
        if known is not None:
            return known
        failed = await self._reads.rounds.confirm()
        if failed is None and (known := await self._known(op_id, deadline)) is not None:
            return known
        if op_id.startswith(NODE_OP_ID_PREFIX):
            if failed is not None:
                return StillUnknown(
                    f"this node does not know it, and without a quorum ({failed}) none else is "
                    f"asked"
                )
            return StillUnknown(
                "made by a node, and not remembered: unless its time limit still runs, it "
                "cannot be told any more",
                "outcome_forgotten",
            )
        recorded = await self._recorded(op_id, deadline)
        if recorded is not None:
            return recorded
        if failed is not None:
            return StillUnknown(
                f"without a quorum ({failed}) nobody can say whether it was ordered: ask again "
                f"later"
            )
        return "not_ordered"

    async def settle(self, op_id: str, *, deadline: float) -> Found:
        """Return how the operation ended. If its op_id is not ordered, cancel it, so that it never
        takes effect.
        """
        found = await self.find(op_id, deadline=deadline)
        return await self._cancelled(op_id, deadline) if found == "not_ordered" else found

    async def _known(self, op_id: str, deadline: float) -> Found | None:
        """Ask this node's machine. A recorded outcome never changes; a pending operation is waited
        for, at most PENDING_WAIT_S.
        """
        known = self._consensus.recorded(op_id)
        if known != "pending":
            return known
        left = min(deadline - self._clock.monotonic(), PENDING_WAIT_S)
        try:
            await self._consensus.wait_settled(self._consensus.ordered, timeout_s=max(left, 0.001))
        except TimeoutError:
            return "pending"
        return self._consensus.recorded(op_id)

    async def _recorded(self, op_id: str, deadline: float) -> Found | None:
        """Ask the store's `ops`. None means "no such operation", and only a store that contains
        everything settled here may say so.
        """
        left = max(min(deadline - self._clock.monotonic(), self._settings.store_timeout_s), 0.001)
        settled = self._consensus.settled
        try:
            async with asyncio.timeout(left):
                found = (await self._store.operations((op_id,), timeout_s=left))[0]
                await check_store_identity(self._consensus, self._shared, settled, timeout_s=left)
                if found is not None:
                    return Answer(found.revision, found.outcome)
                head = await self._store.head(timeout_s=left)
                ending = (
                    await self._store.row_ending(settled.last, timeout_s=left)
                    if settled.last
                    else None
                )
        except (BackendUnavailable, TimeoutError) as exc:
            return StillUnknown(f"the store does not answer: {exc}")
        except NotApplied as exc:
            return StillUnknown(f"the store cannot be asked: {exc.detail}")
        refusal = self._consensus.refusal or differs(settled, head, ending)
        return (
            None
            if refusal is None
            else StillUnknown(f"the store is not what was settled ({refusal}): {ADOPT}")
        )

    async def _cancelled(self, op_id: str, deadline: float) -> Found:
        """Order a Cancel. From then on the outcome of the op_id is definite, even if an attempt of
        it arrives later.
        """
        try:
            result = (await self._writes.many((Cancel(op_id),), deadline=deadline))[0]
        except NotApplied as exc:
            result = exc
        match result:
            case Answer(outcome=Again(revision, outcome)):
                return Answer(revision, outcome)
            case Answer():
                return result
            case NotApplied() | OutcomeUnknown():
                return StillUnknown(f"it could not be made definite ({result.detail}): ask again")
            case KvError():
                return StillUnknown(f"it could not be made definite ({result}): ask again")
