"""Admit the intents of this member's clients, or refuse them at once and definitely (INV-4).

Once intents are handed to the log, this module never says "not applied" by itself: only the log's
answer to the command does, or the recorded outcome.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from coordinator.clients.waits import Wait, Waits, fail
from coordinator.failure import FatalFailure
from coordinator.log import Log, Position
from coordinator.machine.commands import Submit, encode
from coordinator.machine.machine import Machine
from coordinator.machine.pending import size_of_all
from coordinator.settings import CoordinatorSettings
from kv.errors import BadRequest, NotApplied, OutcomeUnknown, store_refused
from kv.model import NODE_OP_ID_PREFIX, Answer, Cancel, Intent


class SubmittingMember(Protocol):
    """The member that a Submission runs on, as far as it needs it."""

    @property
    def machine(self) -> Machine:
        """Its machine."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether the member takes part: its log is open."""
        ...

    @property
    def refusal(self) -> str | None:
        """Why the store is refused, if it is."""
        ...

    @property
    def held_back(self) -> str:
        """Why what is ordered has not been applied on this member for a while; empty when it is."""
        ...

    @property
    def stamped(self) -> bool:
        """Whether the member knows the log time."""
        ...

    def now_ms(self) -> int:
        """Return the log time now."""
        ...


class Submission:
    """The path of this member's intents into the log."""

    def __init__(
        self,
        member: SubmittingMember,
        log: Log,
        waits: Waits,
        failure: FatalFailure,
        settings: CoordinatorSettings,
    ) -> None:
        self._member, self._log, self._waits = member, log, waits
        self._failure, self._settings = failure, settings

    def submit(self, intents: Sequence[Intent | Cancel]) -> list[asyncio.Future[Answer]]:
        """Propose intents as one command of the log; see `kv.ports.Consensus.submit`."""
        for intent in intents:
            if type(intent) is Cancel and intent.op_id.startswith(NODE_OP_ID_PREFIX):
                raise BadRequest("not_cancellable", "op_ids made by a node cannot be cancelled")
        refused = self._refuses(intents)
        if refused is not None:
            return [_failed(refused) for _ in intents]
        waits = [self._waits.add(intent) for intent in intents]
        if waits:
            through = self._log.propose(encode(Submit(tuple(intents))))
            through.add_done_callback(partial(self._proposed, waits))
        return [wait.answered for wait in waits]

    def refuses(self, intents: Sequence[Intent | Cancel]) -> NotApplied | None:
        """Return why these intents would be refused now, if they would; see
        `kv.ports.Consensus.refuses`.
        """
        refused = self._refuses(intents)
        if refused is not None:
            return refused
        raft = self._log.status()
        if raft.leader is None:
            return NotApplied("no_leader", "no leader is known")
        return None if raft.quorum else NotApplied("no_quorum", "no quorum answers the leader")

    def _refuses(self, intents: Sequence[Intent | Cancel]) -> NotApplied | None:
        """Return why an attempt must not be handed to Raft at all. Only such a refusal is definite
        by itself (INV-4).
        """
        member = self._member
        if not member.is_open:
            return NotApplied("draining", "this node is not open")
        refusal = member.refusal
        if refusal is not None:
            return store_refused(refusal)
        if not member.stamped:
            return NotApplied(
                "starting",
                "this node does not know yet what time it is in the log",
                retry_after_s=0.2,
            )
        if self._overloaded(intents):
            return NotApplied("overloaded", "too many intents wait for the store")
        held_back = member.held_back
        if held_back:
            return NotApplied("store_away", held_back)
        if self.stalled:
            return NotApplied("store_away", "what was ordered before does not get committed")
        return None

    def _overloaded(self, intents: Sequence[Intent | Cancel]) -> bool:
        machine, settings = self._member.machine, self._settings
        return (
            len(machine.pending) + len(intents) > settings.pending_intents_max
            or machine.pending_bytes + size_of_all(intents) > settings.pending_bytes_max
            or len(self._waits) + len(intents) > settings.waiters_max
        )

    @property
    def stalled(self) -> bool:
        """Whether the oldest pending intent has waited for its commit longer than `stall_s`."""
        machine = self._member.machine
        oldest = machine.pending.get(machine.settled.revision + 1)
        if oldest is None:
            return False
        return self._member.now_ms() - oldest.ordered_ms > self._settings.stall_s * 1000

    def _proposed(self, waits: list[Wait], through: asyncio.Future[Position]) -> None:
        """Fail the waits of an attempt that is not in the log, or may not be."""
        exc = asyncio.CancelledError() if through.cancelled() else through.exception()
        if exc is None:
            # it is applied here: the machine knows the intents, and settling them answers the waits
            return
        for wait in waits:
            if wait.answered.done():
                continue
            if isinstance(exc, NotApplied):
                wait.fail(NotApplied(exc.reason, exc.detail, retry_after_s=exc.retry_after_s))
            else:
                wait.fail(
                    OutcomeUnknown(str(exc) or "the log lost sight of it", op_id=wait.attempt[0])
                )
            self._waits.drop(wait)
        if not isinstance(exc, NotApplied | OutcomeUnknown | asyncio.CancelledError):
            self._failure.die(exc)


def _failed(exc: Exception) -> asyncio.Future[Answer]:
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    fail(answered, exc)
    return answered
