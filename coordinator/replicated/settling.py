"""Settle what a command ordered at once, in the member's own store: evaluate it as a function of
the log (R2), or take the outcomes that the file recorded of the same command (R5).

Every member does this with every command, in log order. So what is applied is settled, and all
members have the same rows, with the same content digests (R1, R3).
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from msgspec.structs import force_setattr, replace

from coordinator.log import Position
from coordinator.machine.book import LEVEL
from coordinator.machine.commands import Command, Found, Level, Submit
from coordinator.machine.comparing import Numbers
from coordinator.machine.effects import Effects
from coordinator.machine.evaluate import Evaluation, evaluate, evaluate_plain
from coordinator.machine.machine import Machine
from coordinator.machine.needs import NOTHING, Needs, needs, read_ranges
from coordinator.machine.pending import Pending
from coordinator.replicated.comparing import Replayed, differs
from coordinator.replicated.condition import Condition
from coordinator.replicated.marks import ContentMarks
from kv.content import content_digest, hash_of
from kv.errors import BackendUnavailable, BadRequest, NewerCommand
from kv.model import Group, Head, LedgerRow, Version
from kv.ports import Facts, Settled, Span
from kv.ports.member_store import MemberStore, Note, Step

_log = structlog.get_logger("acordo.own_store")
_NOT_OURS = BadRequest(
    "log_of_shared_store",
    "the log is of a cluster with a shared store: a member with its own store cannot go on in it",
    allowed="the store that this cluster was made with, or an empty data directory",
)


class Settling:
    """The link between a member's machine and its own store."""

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
        self.rows = self.intents = 0
        """Rows evaluated here, and the intents in them."""
        self.replayed = 0
        """Rows taken from the file."""
        self.prefix_losses = 0
        """How often the file was cut back, because the log had lost what it held (R12)."""
        self._floor_again = False
        """Whether the ordered floor may have been cut off the file, and goes into the next Step."""

    def admit(self, command: Command) -> Command:
        """Return what the machine shall apply of a command. Raises NewerCommand or BadRequest,
        which end the member, for what it does not speak.
        """
        match command:
            case Level(level=level):
                self._speak(level)
            case Found(limits=limits):
                if limits.level == 0:
                    raise _NOT_OURS
                self._speak(limits.level)
            case Submit():
                if command.intents and not self._machine.book.founded:
                    return Submit(())  # nothing is ordered before the history is founded (R14)
            case _:
                pass
        return command

    def _speak(self, level: int) -> None:
        """Raise NewerCommand for a feature level that this member does not speak (R14)."""
        if level > self._level:
            raise NewerCommand(f"feature level {level}; this member speaks up to {self._level}")

    def settle(self, position: Position, command: bytes, effects: Effects) -> Settled | None:
        """Settle what the machine has just ordered by a command; return what listeners receive.
        Returns None when nothing was ordered, or when the store cannot be used any more.
        """
        machine, before = self._machine, self._machine.book.index
        machine.book.pass_to(position.index, position.term)
        if effects.verdict == "founded":
            machine.book.begin(command)
            if self._is_foreign():
                self._condition.spoil("set_aside", "the file is of another history than the log")
                return None
        try:
            row = None if self._condition.caught_up else self._from_file(position, before)
            if row is not None:
                return self._take(row)
            if machine.pending:
                return self._evaluate(position)
            self._note(position, effects)
        except BackendUnavailable as exc:
            self._condition.spoil("set_aside", f"its file cannot be read: {exc}")
        return None

    def cut_to_applied(self, why: str) -> None:
        """Cut the file back to what is applied here: no log has what is above (R12). Raises
        BackendUnavailable.
        """
        machine = self._machine
        self._cut_back(machine.book.index, why)
        self._condition.caught_up = True
        if self._own.note.index < machine.book.index:
            at = Position(machine.book.index, machine.book.term)
            self._own.settle(Step(self._note_at(at), floor=self._take_floor()))

    def _is_foreign(self) -> bool:
        """Return whether the file belongs to another history than the one that was just founded.
        One that was cut back to nothing belongs to none.
        """
        founded, note = self._machine.founded, self._own.note
        if founded is None or not note.index:
            return False
        return bool(note.history) and note.history != founded.history

    # ---------------------------------------------------------------------------- from the own file

    def _from_file(self, position: Position, before: int) -> LedgerRow | None:
        """Return the file's row of a command that is replayed; None: there is none, and what the
        command ordered is evaluated anew.
        """
        own = self._own
        row = own.row_at(position.index)
        why = self._differs(position, before, row)
        if why:
            self._cut_back(before, why)
            row = None
        self._condition.caught_up = position.index >= own.note.index
        if self._condition.caught_up:
            _log.info("log has reached the file", index=position.index)
        return row

    def _differs(self, position: Position, before: int, row: LedgerRow | None) -> str:
        """Return how the file differs from the log since the command at `before`, for people to
        read; empty when they agree (R5).
        """
        own, note = self._own, self._own.note
        for index in range(before + 1, min(position.index, note.index + 1)):
            if own.row_at(index) is not None or index == note.index:
                return f"the log has no command at {index}"
        if position.index > note.index:
            return ""
        return differs(self._replayed(position), note, row)

    def _replayed(self, position: Position) -> Replayed:
        machine = self._machine
        return Replayed(
            position.index,
            position.term,
            machine.settled.revision + 1,
            machine.revision,
            machine.digest,
            machine.log_time_ms,
        )

    def _cut_back(self, to: int, why: str) -> None:
        """Cut the file back to the newest command that it is known to share with the log, at or
        below `to`: a quorum has lost what it had acknowledged (R12).

        The file's commands without a row above that one may be others than the log's: what they
        ordered goes with them, and what the log ordered there is noted anew.
        """
        to = self._known_shared(to)
        self._own.cut_back(to)
        self._floor_again = True
        self.prefix_losses += 1
        _log.critical("file holds what the log has lost: cut back", to=to, why=why)

    def _known_shared(self, to: int) -> int:
        return min(to, self._condition.shared_to)

    def _take(self, row: LedgerRow) -> Settled:
        self.replayed += 1
        self._condition.shared_to = row.index
        self._enter(row)
        return self._machine.settle_here(row.body, row.log_time_ms)

    # --------------------------------------------------------------------------- evaluated here

    def _note(self, position: Position, effects: Effects) -> None:
        """Note a command that gave no revision: the file's newest command is the log's (R5)."""
        if position.index <= self._own.note.index:
            return
        floor = self._machine.book.floor if effects.verdict == "noted" else self._take_floor()
        self._own.settle(Step(self._note_at(position), floor=floor))

    def _take_floor(self) -> int:
        """Return the ordered floor if the file may lack it; 0: it does not."""
        again, self._floor_again = self._floor_again, False
        return self._machine.book.floor if again else 0

    def _note_at(self, position: Position) -> Note:
        founded = self._machine.founded
        history = b"" if founded is None else founded.history
        return Note(history, position.index, position.term, self._machine.digest)

    def _evaluate(self, position: Position) -> Settled:
        """Evaluate what is pending and settle it, in the own store and in the machine."""
        machine, book = self._machine, self._machine.book
        batch = list(machine.pending.values())
        time_ms = self._row_ms()
        evaluation = self._judge(batch, position.term)
        hashes = tuple([hash_of(version) for version in evaluation.versions])
        settled = machine.settled
        base = Head(book.seq, book.row_term, "", settled.revision, settled.digest)

        row = LedgerRow(
            base.seq + 1,
            position.term,
            "",
            base.last + 1,
            machine.revision,
            machine.digest,
            time_ms,
            evaluation.records,
            position.index,
        )
        content = content_digest(book.content, row, evaluation.versions, hashes)
        # nobody has seen the row yet: completing it costs less than making another one
        force_setattr(row, "content", content)
        group = Group(base, row, evaluation.versions, evaluation.operations)
        self._own.settle(Step(self._note_at(position), group, hashes, self._take_floor()))
        self.rows += 1
        self.intents += len(batch)
        self._enter(row)
        return machine.settle_here(row.body, time_ms, evaluation.versions)

    def _enter(self, row: LedgerRow) -> None:
        self._machine.book.enter(row)
        self._marks.add(row.seq, row.content)

    def _row_ms(self) -> int:
        """Return the time that a row carries: its command's stamp (R1)."""
        return self._machine.log_time_ms

    def _now_ms(self) -> int:
        """Return the time at which a command is evaluated: its stamp, never a clock (R2)."""
        return self._machine.log_time_ms

    def _judge(self, batch: Sequence[Pending], term: int) -> Evaluation:
        """Evaluate what a command ordered. Raises BackendUnavailable."""
        level = self._machine.book.level
        asks = needs(batch, numbered=True, level=level)
        if asks is NOTHING:
            return evaluate_plain(batch, self._now_ms(), self._numbers(batch))
        return evaluate(batch, self._facts(asks), self._now_ms(), term, level=level)

    def _facts(self, asks: Needs) -> Facts:
        """Read what the evaluation needs, as of exactly what was settled before. Raises
        BackendUnavailable.
        """
        spans = read_ranges(asks, self._span)
        found = self._own.facts(
            asks.op_ids,
            asks.keys,
            asks.hashed,
            spans=[span for span in asks.spans if not span.end] if asks.ranges else asks.spans,
            leases=asks.leases,
            recorded_since_ms=self._known_since_ms(),
        )
        return replace(found, spans={**found.spans, **spans}) if spans else found

    def _span(self, span: Span) -> tuple[Version, ...]:
        """Read one range, of exactly what was settled before. Raises BackendUnavailable."""
        return self._own.facts((), (), (), spans=(span,), recorded_since_ms=0).spans[span]

    def _numbers(self, batch: Sequence[Pending]) -> dict[bytes, Numbers]:
        """Read what plain puts need. Raises BackendUnavailable."""
        return self._own.numbers([write.key for each in batch for write in each.intent.writes])  # type: ignore[union-attr]  # plain puts

    def _known_since_ms(self) -> int:
        """Return the log time since which recorded op_ids are known, whatever was pruned (R2)."""
        return self._machine.known_since_ms()
