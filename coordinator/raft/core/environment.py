"""Hold what a core is given from outside, and its counters.

Never decides anything, and reads no clock or random source but those it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, TypeAlias

import structlog

from coordinator.log import Replica
from coordinator.raft.storage.snapshot import SnapshotStore
from kv.ports import Clock

log = structlog.get_logger("acordo.raft")

Done: TypeAlias = Callable[[Any, BaseException | None], None]
Spawn: TypeAlias = Callable[[Coroutine[Any, Any, Any], Done], None]
"""Runs a coroutine as a task that its owner watches, then calls back on the event loop with
(result, exception).
"""


class Environment:
    """The environment of one core: clock, rng, machine, snapshots, and the request for a tick."""

    def __init__(
        self,
        *,
        member: str,
        clock: Clock,
        rng: Random,
        replica: Replica,
        snapshots: SnapshotStore,
        spawn: Spawn,
        wake: Callable[[], None],
        wake_in: Callable[[float], object],
    ) -> None:
        self.member = member
        self.now = clock.monotonic
        self.rng = rng
        self.replica = replica
        self.snapshots = snapshots
        self.spawn = spawn
        self.wake = wake
        """Asks for a tick soon."""
        self.wake_in = wake_in
        """Asks for a tick after so many seconds."""
        self.counts: dict[str, int] = {}
        """How often each notable event happened, by name (elections, truncations, ...)."""

    def count(self, name: str) -> None:
        """Add one to the counter `name`."""
        self.counts[name] = self.counts.get(name, 0) + 1
