"""Declare the port of a member's own store, which the log fills, and the types that it takes and
returns.

Nothing here has behaviour: the contract suite checks what an adapter must do. The rules R1 to R15
are those of docs/replicated-store.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

import msgspec

from kv.model import GENESIS_DIGEST, Digest, Group, LedgerRow
from kv.ports.store import Facts, LeaseAsk, Pruning, Span, StoreReader


class Note(msgspec.Struct, frozen=True, array_like=True):
    """The newest command whose effects a member's store holds, with or without a ledger row (R5).

    The all-default Note stands for a store that holds nothing.
    """

    history: bytes = b""
    index: int = 0
    term: int = 0
    digest: Digest = GENESIS_DIGEST
    """The digest of the machine's order after that command."""


class Step(msgspec.Struct, frozen=True):
    """The effects of one command of the log on a member's store."""

    note: Note
    group: Group | None = None
    """The row with its versions and operations; None: the command gave no revision (R1). Its
    `row.index` and `row.term` are those of the note, and `row.content` is the content digest.
    """
    hashes: tuple[bytes, ...] = ()
    """The value hashes of `group.versions`, in the same order."""
    floor: int = 0
    """The prune floor that the command ordered; 0: none."""


class LocalRetention(msgspec.Struct, frozen=True):
    """How far one small step of a member's own pruning may go (R8). It stops at the ordered
    floor.
    """

    index: int
    """Of the member's newest durable dump: rows above it stay, and so do versions that were not
    superseded at or below the floor there.
    """
    floor: int
    """The ordered floor in that dump."""
    operations_before_ms: int
    """Operations recorded before this log time may be deleted."""
    rows_max: int = 500


StoreCondition: TypeAlias = Literal["sound", "empty", "damaged"]


class StateCopy(Protocol):
    """A copy of a member's store as it was at one position, for another member (R6). It is readable
    until it is closed, whatever happens to the store.
    """

    @property
    def size(self) -> int:
        """The number of bytes."""
        ...

    def read_now(self, offset: int, length: int) -> bytes:
        """Read `length` bytes from `offset`; return fewer only at the end."""
        ...

    def close(self) -> None:
        """Release the copy, and delete what it occupies."""
        ...


class MemberStore(StoreReader, Protocol):
    """The store that one member keeps for itself. The log is the authority; this is what the log
    made of it.

    `settle` takes effect at once for everything that is read through this object: the asynchronous
    readers of StoreReader answer from a state that contains every Step settled before the call. It
    is written behind: to the file in order, many Steps in one transaction, not synced. A process
    that dies loses nothing that was written; a power cut may take the newest Steps that
    `make_durable` has not confirmed, never one before another that is kept.

    Methods that are not async never wait for a disk write. Opening raises
    BadRequest("foreign_store" | "newer_schema" | "store_in_use"), and never for a damaged file:
    `condition` says so.
    """

    @property
    def condition(self) -> StoreCondition:
        """How the file is. A damaged one is not read and not written; `set_aside` or `install`
        replaces it.
        """
        ...

    @property
    def damage(self) -> str:
        """Why it is damaged, for people to read; empty when it is not."""
        ...

    @property
    def note(self) -> Note:
        """The newest command that was settled or, after opening, is in the file."""
        ...

    @property
    def newest(self) -> LedgerRow | None:
        """The newest ledger row that was settled or, after opening, is in the file."""
        ...

    @property
    def written(self) -> Note:
        """The newest command that is in the file (not necessarily durable)."""
        ...

    @property
    def fetched(self) -> bool:
        """Whether the content is another member's (`install`), and was not confirmed since (R3).
        It survives a power cut.
        """
        ...

    @property
    def unwritten_bytes(self) -> int:
        """Roughly how many bytes were settled and are not in the file yet (R9)."""
        ...

    @property
    def trouble(self) -> str:
        """Why nothing gets into the file (a full or failing disk), while it is tried again; empty
        while all is well.
        """
        ...

    def facts(
        self,
        op_ids: Sequence[str],
        keys: Sequence[bytes],
        hashed: Sequence[bytes],
        *,
        spans: Sequence[Span] = (),
        leases: Sequence[LeaseAsk] = (),
        recorded_since_ms: int,
    ) -> Facts:
        """Read what `evaluate` needs, from everything that was settled. Blocks for a few page reads
        at most.

        Operations recorded before `recorded_since_ms` are not known, whether or not they were
        pruned (R2). `missing` is empty. Raises BackendUnavailable: the file cannot be read, and
        nothing more may be applied.
        """
        ...

    def numbers(self, keys: Sequence[bytes]) -> dict[bytes, tuple[int, int]]:
        """Return the create_revision and the version of those of the keys that are present, from
        everything that was settled: all that plain puts ask for. Blocks and raises as `facts` does.
        """
        ...

    def row_at(self, index: int) -> LedgerRow | None:
        """Return the ledger row that the command at this log index made; None if there is none.
        Blocks for a few page reads at most.
        """
        ...

    def settle(self, step: Step) -> None:
        """Take the effects of the next command. The note's index is above all before."""
        ...

    async def wait_written(self, index: int, *, timeout_s: float) -> None:
        """Return once every Step up to this log index is in the file. Raises TimeoutError,
        BackendUnavailable.
        """
        ...

    async def make_durable(self, index: int) -> None:
        """Return once every Step up to this log index survives a power cut (R4). Raises
        BackendUnavailable.
        """
        ...

    def cut_back(self, index: int) -> None:
        """Remove everything that commands above this log index made (R12), and note `index` as the
        newest command with what the row there says. Nothing may be unwritten. Blocks: it happens
        only after a quorum lost what it had acknowledged.

        Raises BackendUnavailable.
        """
        ...

    async def set_aside(self, why: str) -> str:
        """Move the file out of the way, keep it, and begin an empty one. Return where it is now."""
        ...

    async def copy(self) -> StateCopy:
        """Copy the store as it is now, or later (R6). Raises BackendUnavailable."""
        ...

    async def install(self, state: StateCopy) -> None:
        """Replace the file by a copy of another member's, durably, and marked as `fetched`. `note`
        and `newest` are then those of the copy.

        Raises ValueError, with nothing changed, when the bytes are not a sound store of a version
        that is understood; BackendUnavailable when there is no room. Interrupted at any moment,
        either the old or the new file is there.
        """
        ...

    async def confirm(self) -> None:
        """Take the content for this member's own: `fetched` is false from now on. A power cut may
        undo that. Raises BackendUnavailable.
        """
        ...

    async def prune(self, retention: LocalRetention, *, timeout_s: float) -> Pruning:
        """Do one small step of pruning below the ordered floor (R8). Tombstones are deleted only
        with or after older versions.
        """
        ...

    async def broken_pages(self) -> tuple[str, ...]:
        """Return what is wrong with the pages of the file, and between its indexes and its tables:
        a few of the flaws, for people to read. It may take long, and keeps nobody from reading.
        """
        ...

    async def damaged_rows(self, after: int, *, timeout_s: float) -> tuple[int, tuple[int, ...]]:
        """Recompute the content digests of the next ledger rows after `after` (a seq), as far as
        all that they made is still kept. Return the seq reached (0: the end) and the damaged ones.
        """
        ...
