"""Take the rules of the replicated store away, one by one (docs/replicated-store.md, R1 … R15).

A name begins with its rule. What each rule is for is told by its story in
tests/unit/coordinator/test_replicated_rules.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any, Final

from coordinator.applier import Applier
from coordinator.background.publisher import CURSOR, Publisher, _Part
from coordinator.consensus import Coordinator
from coordinator.log import Position
from coordinator.machine.book import Book
from coordinator.machine.commands import Command
from coordinator.machine.machine import Machine
from coordinator.peers import roster
from coordinator.peers.roster import Roster
from coordinator.replicated import contents, witnesses
from coordinator.replicated.comparing import DumpEnd
from coordinator.replicated.condition import Condition
from coordinator.replicated.contents import Contents
from coordinator.replicated.cursors import OrderedCursors
from coordinator.replicated.keeping import Keeping
from coordinator.replicated.pruning import Pruning
from coordinator.replicated.settling import Settling
from coordinator.replicated.witnesses import ContentVerdict, Telling
from kv.model import LedgerRow
from kv.ports.member_store import LocalRetention
from tests.planted.registry import Patches, fault

_numbers = count()
SKEW_MS: Final = 10_000
"""How far the clocks of two members are apart where a fault lets them count."""


def _own_clock_ms(member: Settling) -> int:
    """Return a time that differs between members, and between their incarnations."""
    if not hasattr(member, "planted_number"):
        member.planted_number = next(_numbers)  # type: ignore[attr-defined]
    return member._machine.log_time_ms + SKEW_MS * int(member.planted_number)  # type: ignore[attr-defined]


# ---------------------------------------------------------------------------- rows and evaluation


@fault("R1")
def r1_row_time() -> Patches:
    """A row carries the member's own time."""

    def row_ms(self: Settling) -> int:
        return _own_clock_ms(self)

    yield Settling, "_row_ms", row_ms


@fault("R1")
def r2_own_clock() -> Patches:
    """A member judges deadlines, and dates ttls, by its own clock."""

    def now_ms(self: Settling) -> int:
        return _own_clock_ms(self)

    yield Settling, "_now_ms", now_ms


@fault("R1")
def r2_known_by_pruning() -> Patches:
    """An op_id is known as long as the member has not pruned it."""

    def known_since_ms(self: Settling) -> int:
        return 0

    yield Settling, "_known_since_ms", known_since_ms


@fault("R1")
def r2_retention_raised() -> Patches:
    """A longer retention brings back op_ids that some members have pruned under the shorter one."""

    def forget_before(self: Book, log_time_ms: int) -> None:
        return

    yield Book, "forget_before", forget_before


# ----------------------------------------------------------------------------------------- digests


@fault("R3")
def r3_compare() -> Patches:
    """Members do not compare their contents."""

    def look(self: Contents, raft: Any, tellings: Iterable[Telling]) -> None:
        return

    yield Contents, "look", look


@fault("R3")
def r3_majority() -> Patches:
    """Without a majority each member takes itself to be right."""
    right = witnesses.judge

    def judge(*told: Any) -> ContentVerdict:
        verdict = right(*told)
        return "alike" if verdict == "undecided" else verdict

    yield contents, "judge", judge


@fault("R3")
def r3_count() -> Patches:
    """One witness fewer than more than half is taken for a majority."""

    def is_majority(count: int, voters: int) -> bool:
        return count >= voters // 2

    yield witnesses, "_is_majority", is_majority


@fault("R3")
def r3_outlived() -> Patches:
    """What a member told before it fetched its state is still held against its contents."""

    def alike_up_to(*told: Any) -> int:
        return 0

    yield witnesses, "_alike_up_to", alike_up_to


@fault("R3")
def r3_undecided_stays() -> Patches:
    """Members that differ without a majority serve again when nobody has told anything lately."""

    def supported(*told: Any) -> bool:
        return True

    yield contents, "supported", supported


@fault("R3")
def r3_same_log() -> Patches:
    """What a member told of a log that was overwritten since is compared with this one's."""

    def term_mark(term: int) -> int:
        return 0

    def now(self: Contents, raft: Any, tellings: Iterable[Telling]) -> None:
        self._compared_in = (self._machine.book.term, self._keeping.installs)
        right(self, raft, tellings)

    right = Contents.look
    yield roster, "term_mark", term_mark
    yield Contents, "look", now


@fault("R3")
def r3_witness() -> Patches:
    """A member that fetched its state is a witness for it beside its source."""

    def counts(told: Telling) -> bool:
        return told.voter

    yield witnesses, "_counts", counts


@fault("R3")
def r3_witness_restarts() -> Patches:
    """A member that fetched its state is a witness for it once it has restarted."""

    def witness(self: Keeping) -> bool:
        return self._confirmed or not self.installs

    yield Keeping, "witness", property(witness)


# ------------------------------------------------------------------------------ dumps and restarts


@fault("INV-2")
def r4_durable() -> Patches:
    """The log is cut although the rows up to there are not durable."""

    async def make_durable(self: Keeping, index: int) -> None:
        return

    yield Keeping, "_make_durable", make_durable


@fault("R1")
def r5_file_whole() -> Patches:
    """A damaged file is not found, neither at the start nor when it cannot be read."""
    right = Condition.spoil

    def find_damage(self: Keeping) -> bool:
        return False

    def spoil(self: Condition, how: Any, why: str) -> None:
        if "cannot be read" not in why:
            right(self, how, why)

    yield Keeping, "find_damage", find_damage
    yield Condition, "spoil", spoil


@fault("R1")
def r5_dump_file() -> Patches:
    """File and dump are not compared."""

    def unusable(self: Keeping, end: DumpEnd) -> str:
        return ""

    yield Keeping, "_unusable", unusable


@fault("R1")
def r5_file_log() -> Patches:
    """File and log are not compared."""

    def differs(self: Settling, position: Position, before: int, row: LedgerRow | None) -> str:
        return ""

    yield Settling, "_differs", differs


@fault("INV-1")
def r5_head_wait() -> Patches:
    """A member serves before its log has reached what its file holds."""

    def is_caught_up(self: Condition) -> bool:
        return True

    yield Condition, "_is_caught_up", is_caught_up


@fault("R1")
def r5_history() -> Patches:
    """A file of another history is taken for this one's."""

    def is_foreign(self: Settling) -> bool:
        return False

    def differs(self: Settling, position: Position, before: int, row: LedgerRow | None) -> str:
        return ""

    yield Settling, "_is_foreign", is_foreign
    yield Settling, "_differs", differs


@fault("R6")
def r6_sure() -> Patches:
    """A member gives a state away, and dumps it, although it is in doubt."""

    def check_sure(self: Keeping) -> None:
        return

    yield Keeping, "_check_sure", check_sure


@fault("R6")
def r6_pruned_copy() -> Patches:
    """A member prunes as far as its newest dump allows, though a copy is made for an older one."""
    yield Keeping, "prunable_to", property(lambda self: self._in_place)


# -------------------------------------------------------------------------------- floors, publisher


@fault("INV-2")
def r8_prune_dump() -> Patches:
    """A member prunes up to where its machine is, not up to its newest durable dump."""

    def retention(self: Pruning) -> LocalRetention:
        book = self._machine.book
        return LocalRetention(book.index, book.floor, self._machine.known_since_ms())

    yield Pruning, "_retention", retention


@fault("INV-6")
def r8_prune_cursor() -> Patches:
    """The ordered floor passes what the publisher has not confirmed."""

    def held_at(self: OrderedCursors, name: str = CURSOR) -> None:
        return

    yield OrderedCursors, "held_at", held_at


@fault("R9")
def r9_bound() -> Patches:
    """What is settled and not in the file yet is not bounded."""

    def is_behind(self: Condition) -> bool:
        return False

    yield Condition, "_is_behind", is_behind


@fault("INV-6")
def r10_cursor_ordered() -> Patches:
    """A new leader publishes from its own head on."""

    async def cursor(self: OrderedCursors, name: str, *, timeout_s: float) -> int:
        return self._machine.settled.revision

    yield OrderedCursors, "cursor", cursor


@fault("INV-6")
def r10_cursor_after() -> Patches:
    """The publisher's position is ordered before the broker has confirmed."""
    right = Publisher._publish

    async def publish(self: Publisher, part: _Part) -> None:
        await self._cursors.move_cursor(CURSOR, part.position, timeout_s=1.0)
        await right(self, part)

    yield Publisher, "_publish", publish


@fault("INV-6")
def r10_cursor_follows() -> Patches:
    """A publisher does not follow a position that was ordered since its election."""

    def ordered_here(self: Publisher) -> int:
        return 0

    yield Publisher, "_ordered_here", ordered_here


# ------------------------------------------------------------------------ overwritten logs, levels


@fault("INV-1")
def r12_reset() -> Patches:
    """A member whose applied log was overwritten keeps its machine."""

    def keep(self: Coordinator) -> None:
        self.leading.wake()

    yield Coordinator, "reset", keep


@fault("INV-1")
def r12_cut_back() -> Patches:
    """A file that holds what the log has lost is not cut back."""

    def cut_back(self: Settling, to: int, why: str) -> None:
        return

    yield Settling, "_cut_back", cut_back


@fault("R12")
def r12_marks_stay() -> Patches:
    """A file is cut back to the newest command of the log, whatever commands without a row it holds
    up to there.
    """

    def known_shared(self: Settling, to: int) -> int:
        return to

    yield Settling, "_known_shared", known_shared


@fault("INV-6")
def r12_watchers() -> Patches:
    """Watchers do not hear that what they were told is lost, nor what took its place."""

    def undo_lost(self: Applier) -> None:
        return

    yield Applier, "_undo_lost", undo_lost


@fault("INV-6")
def r12_kept_positions() -> Patches:
    """A position that a client keeps is a bare revision, whatever row gave it."""

    def holds_to(self: Book, revision: int, term: int, last: int) -> int:
        return revision

    yield Book, "holds_to", holds_to


@fault("R12")
def r12_cut_to_nothing() -> Patches:
    """A file that was cut back to nothing still belongs to the history that it held."""

    def is_foreign(self: Settling) -> bool:
        founded, history = self._machine.founded, self._own.note.history
        return bool(history) and founded is not None and history != founded.history

    yield Settling, "_is_foreign", is_foreign


@fault("INV-1")
def r12_cache_term() -> Patches:
    """Cache entries of a lost suffix are taken, once its revisions are given again."""
    yield Machine, "cache_namespace", property(lambda self: self.namespace)


@fault("R1")
def r14_founded_first() -> Patches:
    """Intents are ordered before the history is founded."""

    def admit(self: Settling, command: Command) -> Command:
        return command

    yield Settling, "admit", admit


@fault("R1")
def r14_speaks() -> Patches:
    """A member that meets a feature level that it does not speak goes on."""

    def speak(self: Settling, level: int) -> None:
        return

    yield Settling, "_speak", speak


@fault("R14")
def r14_all_speak() -> Patches:
    """A leader raises the feature level as soon as it speaks it itself."""

    def level_spoken(self: Roster) -> int:
        return self._level

    yield Roster, "level_spoken", level_spoken
