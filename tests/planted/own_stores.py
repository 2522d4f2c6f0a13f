"""Break how nodes, Raft and the stores keep members' own stores and their copies: the rules R2, R4,
R6, R11 and R13 of docs/replicated-store.md where the coordinator does not keep them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from backends.memory import member_file, member_store
from backends.memory.member_file import MemoryFile
from backends.memory.member_store import MemoryMemberStore
from backends.memory.member_tables import MemberTables
from coordinator.log import Position
from coordinator.raft.core.compaction import Compaction
from coordinator.raft.core.eligibility import Eligibility
from coordinator.raft.core.following.snapshot_receiver import SnapshotReceiver
from coordinator.raft.storage.snapshot import SnapshotStore
from coordinator.raft.storage.snapshot_format import Snapshot, decode
from coordinator.raft.storage.snapshot_stream import Incoming
from kv.model import RecordedOperation, Reference, value_hash
from kv.ports import StateCopy
from node.writes.staging import Staging
from node.writes.writes import Writes
from tests.planted.registry import Patches, fault


@fault("R1")
def r2_overwritten() -> Patches:
    """The record of an op_id takes the place of an older one, which a file that is cut back to
    before it needs again.
    """
    right = MemberTables._record

    def record(self: MemberTables, operations: Sequence[RecordedOperation]) -> None:
        new = {operation.op_id for operation in operations}
        self._recordings = [each for each in self._recordings if each.op_id not in new]
        right(self, operations)

    yield MemberTables, "_record", record


@fault("R5")
def file_opened_twice() -> Patches:
    """Two processes have one member's file open."""
    right = MemoryMemberStore.__aenter__

    async def enter(self: MemoryMemberStore) -> MemoryMemberStore:
        self.file.opened = None
        return await right(self)

    yield MemoryMemberStore, "__aenter__", enter


@fault("INV-2")
def r4_order() -> Patches:
    """A dump is put in place before what it covers is durable."""
    right = SnapshotStore.save

    def save(self: SnapshotStore, *what: Any) -> Any:
        *kept, secured = what
        saving = right(self, *kept)

        async def saved() -> Any:
            header = await saving
            await secured()
            return header

        return saved()

    yield SnapshotStore, "save", save


@fault("R6")
def r6_copy_first() -> Patches:
    """The database is copied before the dump that goes with it is chosen."""

    async def outgoing_with(
        self: SnapshotStore, attach: Callable[[], Awaitable[StateCopy | None]]
    ) -> Any:
        state = await attach()
        await asyncio.sleep(0.3)
        bare = self.outgoing()
        if state is None:
            return bare
        whole = bare.attach(state)
        whole.seal_now()
        return whole

    yield SnapshotStore, "outgoing_with", outgoing_with


@fault("Raft: committed entries stay")
def r6_log_wiped() -> Patches:
    """A member that fetches a state drops its log, which holds what it has acknowledged."""
    right = SnapshotReceiver._on_in_place

    def on_in_place(self: SnapshotReceiver, node: Any, base: Position, *more: Any) -> None:
        agrees = self._log.agrees
        self._log.agrees = lambda position: False  # type: ignore[method-assign]
        try:
            right(self, node, base, *more)
        finally:
            self._log.agrees = agrees  # type: ignore[method-assign]

    yield SnapshotReceiver, "_on_in_place", on_in_place


@fault("R6")
def r6_log_cut() -> Patches:
    """The leader cuts its log although a state that is on its way needs it."""

    def needed(self: Compaction) -> tuple[int, int]:
        return self._log.last_index, 0

    yield Compaction, "_needed_by_transfers", needed


@fault("R6")
def r6_unverified() -> Patches:
    """A state is put in place as it has arrived, whatever its digest."""

    def verify_now(self: Incoming, id: bytes, dump_bytes: int) -> Snapshot:
        return decode(self._disk.load_now(self._name)[: dump_bytes or None])

    yield Incoming, "_verify_now", verify_now


class _Aside:
    """Where a node keeps large values that it holds back from the log."""

    async def stage(self, op_id: str, value: bytes, *, timeout_s: float) -> Reference:
        return Reference(op_id, value_hash(value), len(value))

    async def unstage(self, reference: Reference, *, timeout_s: float) -> None:
        return


@fault("R11")
def r11_staged() -> Patches:
    """A node keeps a large value, and the log carries only a reference to it."""
    right = Writes.__init__

    def init(self: Writes, consensus: Any, store: Any, clock: Any, settings: Any) -> None:
        right(self, consensus, store, clock, settings)
        if store is None:
            aside: Any = _Aside()
            self._staging = Staging(consensus, aside, clock, settings)

    yield Writes, "__init__", init


@fault("R6")
def file_installs_torn() -> Patches:
    """A store installs another's bytes, whatever their digest."""

    def tables(content: bytes) -> MemberTables:
        try:
            return MemberTables.of(member_file._unpack(content[len(member_file._MAGIC) + 32 :]))
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise ValueError("it cannot be read") from exc

    yield member_file, "tables_of", tables
    yield member_store, "tables_of", tables


@fault("R13")
def r13_blank_votes() -> Patches:
    """A member that comes back with an empty disk votes and acknowledges as before."""

    def is_blank(self: Eligibility, journal: Any) -> bool:
        return False

    yield Eligibility, "_is_blank", is_blank


@fault("R4")
def power_takes_the_middle() -> Patches:
    """A power cut takes rows from the middle of what was not durable, and keeps newer ones."""
    right = MemoryFile.power_cut

    def power_cut(self: MemoryFile, keep: int = 0) -> None:
        at_risk = len(self._tail)
        right(self, keep)
        if at_risk and len(self.durable._rows) > 2:
            del self.durable._rows[-2]
            self.written = self.durable.clone()

    yield MemoryFile, "power_cut", power_cut
