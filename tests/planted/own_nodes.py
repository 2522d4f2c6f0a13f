"""Break a node with a store of its own on purpose. Each of these is to be seen from outside a real
cluster (`python -m chaos teeth`), in the replicated store alone.
"""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec

from coordinator.log import Position
from coordinator.raft.core.leading.leader import Leader
from coordinator.raft.storage import real_disk
from coordinator.replicated.settling import Settling
from kv.ports import Settled
from kv.ports.member_store import Step
from tests.planted import raft
from tests.planted.nodes import bug
from tests.planted.registry import Patches

SYNCED_EACH: Final = 16
FAR_MS: Final = 3_000
BEGAN_MS: Final = int(time.time() * 1000)


@bug("INV-2")
def answers_before_a_quorum() -> Patches:
    """A leader commits what its own disk has, without waiting for a majority."""
    yield Leader, "maybe_commit", vars(raft.MinorityLeads)["maybe_commit"]


@bug("INV-2")
def journal_is_not_synced() -> Patches:
    """Most syncs of the Raft log are left out, so that its entries count as durable once written.
    If all were, members would come back without a log, and never vote again.
    """
    right = real_disk.RealFile._sync

    def sync(self: Any) -> None:
        self.planted_count = getattr(self, "planted_count", 0) + 1
        if self.planted_count % SYNCED_EACH == 1:
            right(self)

    yield real_disk.RealFile, "_sync", sync


@bug("R1")
def evaluates_by_its_own_clock() -> Patches:
    """A member judges deadlines, and dates what expires, by its wall clock once that is far from
    the log's time.
    """
    right = Settling._now_ms

    def now_ms(self: Settling) -> int:
        stamp, own = right(self), int(time.time() * 1000)
        return own if abs(own - stamp) > FAR_MS else stamp

    yield Settling, "_now_ms", now_ms


@bug("R1")
def forgets_unsynced_versions() -> Patches:
    """After a restart the log is applied again, but of the rows that the file had lost the versions
    are not written anew. A row that is missing altogether is noticed by the file itself.
    """
    right = Settling._evaluate

    def evaluate(self: Settling, position: Position) -> Settled:
        own: Any = self._own
        held = getattr(self, "planted_note", None)
        if held is None:
            held = self.planted_note = own.note.index  # type: ignore[attr-defined]
        if not held or self._machine.log_time_ms >= BEGAN_MS:
            return right(self, position)

        def forget(step: Step) -> None:
            assert step.group is not None
            group = msgspec.structs.replace(step.group, versions=())
            type(own).settle(own, msgspec.structs.replace(step, group=group, hashes=()))

        own.settle = forget
        try:
            return right(self, position)
        finally:
            del own.settle

    yield Settling, "_evaluate", evaluate
