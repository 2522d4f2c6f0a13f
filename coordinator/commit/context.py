"""Define what all parts of the committer share: the member, its store, its log, its leadership.

It decides nothing; it knows how to call the store, and whether the store is in trouble.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import structlog

from coordinator.commit.leadership import Leadership, Proposer
from coordinator.log import Log
from coordinator.logtime import LogTime
from coordinator.machine.machine import Machine
from coordinator.settings import CoordinatorSettings
from kv.errors import BackendUnavailable, OutcomeUnknown
from kv.model import Recorded
from kv.ports import Clock, Identity, Store

_log = structlog.get_logger("acordo.committer")
_T = TypeVar("_T")

STUCK_AFTER_S: Final = 1.0
HANG_FACTOR: Final = 1.5
"""When a store call takes longer than its timeout times this factor, its answer counts as lost."""


class CommittingMember(Protocol):
    """The member that a committer runs on, as far as the committer needs it."""

    @property
    def machine(self) -> Machine:
        """Its machine."""
        ...

    def now_ms(self) -> int:
        """Return the log time now."""
        ...

    @property
    def time(self) -> LogTime:
        """The log time that it keeps, if it knows it yet."""
        ...

    def taken_over(self) -> None:
        """Note that this member has taken over the store."""
        ...

    def committed(self, first: int, records: Sequence[Recorded]) -> None:
        """Answer the clients that wait on this member: the group that begins at `first` is in the
        store.
        """
        ...


class AskedStore:
    """The store with the committer's timeouts, which also end calls to a store that hangs, and a
    record of its trouble.
    """

    def __init__(self, store: Store, clock: Clock, timeout_s: float) -> None:
        self.port, self.timeout_s = store, timeout_s
        self._clock = clock
        self.trouble: str | None = None
        """Why the store did not accept the last group; None once it accepts one."""
        self._since_s = 0.0

    async def within(self, asking: Coroutine[Any, Any, _T]) -> _T:
        """Await a call that only reads. Raises BackendUnavailable, also when the store overruns its
        own timeout.
        """
        try:
            async with asyncio.timeout(self.timeout_s * HANG_FACTOR):
                return await asking
        except TimeoutError as exc:
            raise BackendUnavailable("store", "no answer in time") from exc

    async def asked(self, asking: Coroutine[Any, Any, _T]) -> _T | None:
        """Await a call that may safely be repeated; return None when the store does not answer."""
        try:
            return await self.within(asking)
        except (BackendUnavailable, OutcomeUnknown) as exc:
            self.failed(exc)
            return None

    def failed(self, exc: Exception) -> None:
        """Record that the store failed."""
        if self.trouble is None:
            _log.warning("store in trouble", error=str(exc) or type(exc).__name__)
            self._since_s = self._clock.monotonic()
        self.trouble = str(exc) or type(exc).__name__

    def answered(self) -> None:
        """Record that the store accepted what it was given."""
        if self.trouble is not None:
            _log.info("store answers again")
        self.trouble = None

    @property
    def stuck(self) -> str | None:
        """Why the store accepts nothing, once that has lasted `STUCK_AFTER_S`: a single lost answer
        is no reason to send clients elsewhere.
        """
        lasts = self._clock.monotonic() - self._since_s >= STUCK_AFTER_S
        return self.trouble if lasts else None


@dataclass(frozen=True)
class CommitContext:
    """What the parts of one member's committer share."""

    member: CommittingMember
    store: AskedStore
    log: Log
    clock: Clock
    leadership: Leadership
    proposer: Proposer
    settings: CoordinatorSettings
    name: str
    """The name of this incarnation in the ledger: no two of them ever append in the same term."""
    cluster: str
    """The id that the store is claimed for."""

    @property
    def machine(self) -> Machine:
        """The member's machine."""
        return self.member.machine

    @property
    def identity(self) -> Identity:
        """The identity that the store must have: this cluster, with this history."""
        founded = self.machine.founded
        return Identity(self.cluster, b"" if founded is None else founded.history)
