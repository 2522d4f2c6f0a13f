"""Take back, in the background, keys that were put for clients who went away before their answer.

Whatever became of the put, it is made definite first: a put that may still be ordered would bring
the key back after its delete. It never deletes a key that was put again since.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, NamedTuple, Self

import structlog

from kv.errors import KvError
from kv.model import Answer, Applied, Compare, Delete, Expired, Intent
from kv.ports import Clock
from node.settings import ServerSettings
from node.writes.leases import Leases
from node.writes.lookups import Lookups
from node.writes.writes import Writes

HELD_MAX: Final = 10_000
"""Keys that wait to be taken back. One more is left to the end of its lease."""
AT_ONCE_MAX: Final = 32
TRIED_S: Final = 60.0
"""How long it is tried; then the key is left to the end of its lease."""
PAUSE_S: Final = 0.5
CLOSE_S: Final = 1.0
"""How long it goes on when the node stops."""

log = structlog.get_logger("acordo.node")


class Left(NamedTuple):
    """A key that nobody waits for any more."""

    key: bytes
    lease: int
    op_id: str
    """That of its put. It is not one that begins with NODE_OP_ID_PREFIX: those cannot be cancelled.
    """
    revision: int = 0
    """That of its put; 0: not known."""
    own_lease: bool = False
    """Whether the lease was granted for this key alone: it is revoked."""


class TakeBacks:
    """The keys that one node takes back. `async with` runs its work."""

    def __init__(
        self,
        clock: Clock,
        settings: ServerSettings,
        *,
        writes: Writes,
        lookups: Lookups,
        leases: Leases,
    ) -> None:
        self._clock, self._settings = clock, settings
        self._writes, self._lookups, self._leases = writes, lookups, leases
        self._tasks = asyncio.TaskGroup()
        self._running: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(AT_ONCE_MAX)
        self._closing = False
        self.given_up = 0
        """Keys that were left to the ends of their leases."""

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing = True
        if self._running and error is None:
            await asyncio.wait(self._running, timeout=CLOSE_S)
        for task in self._running:
            task.cancel()
        await self._tasks.__aexit__(kind, error, trace)

    def __len__(self) -> int:
        return len(self._running)

    def add(self, left: Left) -> None:
        """Take a key back, soon."""
        if self._closing or len(self._running) >= HELD_MAX:
            self._give_up(left)
            return
        task = self._tasks.create_task(self._run(left))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def wait_done(self) -> None:
        """Return once all keys that were added are taken back, or given up."""
        while self._running:
            await asyncio.wait(self._running)

    def _give_up(self, left: Left) -> None:
        self.given_up += 1
        log.warning("key of a lost client stays until its lease ends", lease=f"{left.lease:x}")

    async def _run(self, left: Left) -> None:
        ends = self._clock.monotonic() + TRIED_S
        while True:
            async with self._turns:
                done = await self._tried(left)
            if done:
                return
            if self._clock.monotonic() >= ends:
                self._give_up(left)
                return
            await asyncio.sleep(PAUSE_S)

    async def _tried(self, left: Left) -> bool:
        """Try once; return whether it is known that the key is gone, or is another's."""
        deadline = self._clock.monotonic() + self._settings.request_timeout_s
        try:
            if left.own_lease:
                op_id = self._writes.new_op_id()
                ended = await self._leases.revoke(left.lease, op_id, deadline=deadline)
                return not isinstance(ended.outcome, Expired)
            revision = left.revision or await self._put_at(left.op_id, deadline)
            if not revision:
                return revision is not None
            same = Compare(left.key, b"", "mod", "=", revision)
            intent = Intent(self._writes.new_op_id(), 0, (same,), (Delete(left.key),), ())
            answer = await self._writes.one(intent, deadline=deadline)
            return not isinstance(answer.outcome, Expired)
        except KvError:
            return False

    async def _put_at(self, op_id: str, deadline: float) -> int | None:
        """Return at which revision a put took effect, 0 if it never will; None: not known yet."""
        found = await self._lookups.settle(op_id, deadline=deadline)
        if not isinstance(found, Answer):
            return None
        return found.revision if isinstance(found.outcome, Applied) else 0
