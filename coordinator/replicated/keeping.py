"""Keep a member's own store and its dumps together: what is captured, made durable, given to
others, put in place, and begun again (R4, R5, R6, R12).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import msgspec

from coordinator.log import Position
from coordinator.machine.book import LEVEL
from coordinator.machine.machine import Machine
from coordinator.machine.snapshot import MachineState, decode_state
from coordinator.replicated.comparing import DumpEnd, unusable
from coordinator.replicated.condition import Condition
from coordinator.replicated.marks import ContentMarks
from kv.errors import BackendUnavailable, NewerCommand
from kv.ports.member_store import MemberStore, StateCopy


class DumpPoint(msgspec.Struct, frozen=True, gc=False):
    """What pruning has to know of a dump (R8)."""

    index: int
    """The log index of its newest command."""
    row_index: int
    """The log index of its newest row."""
    floor: int
    known_since_ms: int
    """Operations recorded before this log time are not known there."""


class Keeping:
    """The own store of one member beside its machine's dumps."""

    def __init__(
        self,
        machine: Machine,
        own: MemberStore,
        condition: Condition,
        marks: ContentMarks,
        *,
        level: int = LEVEL,
    ) -> None:
        """`level` is the feature level that this member speaks."""
        self._machine, self._own = machine, own
        self._condition, self._marks, self._level = condition, marks, level
        self._captured: DumpPoint | None = None
        self.durable: DumpPoint | None = None
        """The dump that is in place; None: there is none."""
        self._is_in_place = True
        """Whether that dump is surely in place: one that was just fetched may not be yet."""
        self.changing = asyncio.Lock()
        """Held while the whole file is replaced or put aside."""
        self._copied: list[DumpPoint | None] = []
        """The dumps with which copies go that are being made."""
        self.installs = 0
        self._confirmed = False
        """Whether a comparison of the state that was fetched last has held."""

    @property
    def witness(self) -> bool:
        """Whether this member's contents are its own evaluation. A fetched state is not, until a
        comparison with others has held, even if this member restarts before (R3).
        """
        return self._confirmed or not self._own.fetched

    def confirm(self) -> None:
        """Record that a comparison of the fetched state with others has held."""
        self._confirmed = True

    async def keep_confirmed(self) -> None:
        """Let the own store know, so that a restart knows too."""
        if self._confirmed and self._own.fetched:
            with contextlib.suppress(BackendUnavailable):  # it is tried again
                await self._own.confirm()

    # ----------------------------------------------------------------------------- dumps of its own

    def capture(self) -> None:
        """Remember what the dump that is captured now holds."""
        self._captured = self._point()

    def _point(self) -> DumpPoint:
        machine = self._machine
        book = machine.book
        return DumpPoint(book.index, book.row_index, book.floor, machine.known_since_ms())

    async def secure(self, position: Position) -> None:
        """Make everything durable that the log made up to a position, so that it may be cut there
        (R4). Raises BackendUnavailable, also while this member's state is in doubt.
        """
        self._check_sure()
        await self._make_durable(position.index)
        self._check_sure()

    async def _make_durable(self, index: int) -> None:
        """Wait until every row up to a log index survives a power cut (R4)."""
        await self._own.make_durable(min(index, self._own.note.index))

    def _check_sure(self) -> None:
        """Raise BackendUnavailable while this member's state may be neither dumped nor given."""
        refusal = self._condition.refusal
        if refusal is not None:
            raise BackendUnavailable("own store", refusal)

    def saved(self) -> None:
        """Record that the dump that was captured last is in place."""
        self.durable, self._is_in_place = self._captured, True

    @property
    def prunable_to(self) -> DumpPoint | None:
        """The dump whose needs pruning has to respect; None: nothing may be pruned (R8).

        While a copy is made that is the dump with which it goes, and not one that was put in place
        since: a copy without rows that its dump needs could not be used, and one that was pruned by
        a later floor could not be cut back to what lies between (R6).
        """
        needed = [*self._copied, self._in_place]
        points = [point for point in needed if point is not None]
        return min(points, key=lambda point: point.index) if len(points) == len(needed) else None

    @property
    def _in_place(self) -> DumpPoint | None:
        return self.durable if self._is_in_place else None

    # --------------------------------------------------------------------------- state for others

    async def attach(self) -> StateCopy:
        """Copy the own store for another member, to go with the dump that is in place: the copy is
        not older than that dump, and nothing is pruned meanwhile that this dump needs (R6). Raises
        BackendUnavailable.
        """
        self._check_sure()
        dump = self._in_place
        self._copied.append(dump)
        try:
            state = await self._own.copy()
        finally:
            self._copied.remove(dump)
        try:
            self._check_sure()  # it may be a copy of what was put in the file's place meanwhile
        except BackendUnavailable:
            state.close()
            raise
        return state

    async def install(
        self, snapshot: bytes, state: StateCopy | None, restore: Callable[[MachineState], None]
    ) -> None:
        """Put another member's state in place: the database first, then the machine (R6).

        Raises ValueError, with nothing changed, when they cannot be used; BackendUnavailable.
        """
        if state is None:
            raise ValueError("a member with its own store needs a copy of another's")
        decoded = decode_state(snapshot)
        self.check(decoded)
        self._condition.replacing, self._confirmed = True, False
        try:
            async with self.changing:
                await self._own.install(state)
            self._condition.mended()
            restore(decoded)
        finally:
            self._condition.replacing = False
        self._is_in_place = False
        self.installs += 1

    # ------------------------------------------------------------------------------ beginning again

    def check(self, state: MachineState) -> None:
        """Raise ValueError for the dump of a shared store's member or of another history, and
        NewerCommand for one whose feature level this member does not speak (R14).
        """
        if state.book is None:
            if state.revision or state.founded is not None:
                raise ValueError("the snapshot is of a cluster with a shared store")
            return
        if state.book.level > self._level:
            raise NewerCommand(f"feature level {state.book.level} in a snapshot")
        ours = self._machine.founded
        if ours is not None and state.founded is not None and ours.history != state.founded.history:
            raise ValueError("the snapshot is of another history")

    def restored(self) -> None:
        """Compare the file with the dump that the machine was restored from, which is in place, and
        begin to follow the file from there (R5).
        """
        machine, book = self._machine, self._machine.book
        self.durable, self._is_in_place = self._point(), True
        self._marks.clear(book.seq, book.content)
        if self.find_damage():
            return
        founded = machine.founded
        end = DumpEnd(
            b"" if founded is None else founded.history,
            book.index,
            book.term,
            machine.digest,
            book.row_index,
            book.content,
        )
        why = self._unusable(end)
        if why:
            self._condition.spoil("set_aside", why)
        self._follow()

    def _unusable(self, end: DumpEnd) -> str:
        """Return why the file does not go with the dump (R5); empty when it does."""
        own = self._own
        try:
            row = own.row_at(end.row_index) if end.row_index else None
        except BackendUnavailable as exc:
            return f"its file cannot be read: {exc}"
        return unusable(end, own.note, row)

    def begun_again(self) -> None:
        """Begin to follow the file from the beginning of the log: the machine was reset."""
        self._marks.clear()
        self.durable = None
        # a file that is being replaced is closed, and counts as damaged until the new one is open
        if self._condition.replacing or not self.find_damage():
            self._follow()

    def find_damage(self) -> bool:
        """Return whether the file is damaged as a whole; then it is not used any more (R5)."""
        if self._own.condition == "damaged":
            self._condition.spoil("set_aside", f"its file is damaged: {self._own.damage}")
            return True
        return False

    def _follow(self) -> None:
        """Serve nothing until the log has reached the file's newest command (R5)."""
        index = self._machine.book.index
        self._condition.shared_to = index
        self._condition.caught_up = index >= self._own.note.index
        # what is cut back must be in the file (R12)
        self._condition.draining = not self._condition.caught_up and self._own.unwritten_bytes > 0
