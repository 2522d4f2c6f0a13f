"""Apply committed commands to this member's machine, and notify whoever waits for them.

The machine decides; nothing is decided here. A call raises only for what must end the member.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import structlog

from coordinator.clients.feed import Feed
from coordinator.clients.recovery import Recovery
from coordinator.clients.waits import Waits
from coordinator.failure import FatalFailure
from coordinator.log import Position
from coordinator.machine.book import Terms
from coordinator.machine.commands import Command, Settle, Submit, decode, settle_in
from coordinator.machine.effects import Effects
from coordinator.machine.machine import Machine
from coordinator.machine.pending import Mark
from coordinator.machine.snapshot import MachineState, encode_state
from coordinator.peers.timekeeping import Timekeeping
from coordinator.replicated.settling import Settling
from kv.errors import NewerCommand, NotApplied
from kv.model import Answer
from kv.ports import Settled

_log = structlog.get_logger("acordo.consensus")


class Applier:
    """The link between one member's log and its machine."""

    def __init__(
        self,
        machine: Machine,
        *,
        waits: Waits,
        feed: Feed,
        recovery: Recovery,
        timekeeping: Timekeeping,
        failure: FatalFailure,
        settling: Settling | None = None,
    ) -> None:
        """`settling` settles at once what a command orders; None: the store is shared, and the log
        says what is settled.
        """
        self._machine, self._waits, self._feed = machine, waits, feed
        self._settling = settling
        self._recovery, self._timekeeping, self._failure = recovery, timekeeping, failure
        self.stamped_in = 0
        """The newest term of which a stamp is applied here."""
        self._told_of = b""
        self._told: Terms = ()
        """The history that the listeners were told of, and which terms gave it, where a machine
        with its own store has begun again since.
        """
        self.resets = self.restores = self.undecoded = 0
        """`undecoded` counts commands that this version could not read; they had no effect here."""

    def apply(self, position: Position, stamp_ms: int, command: bytes) -> Effects | None:
        """Apply one committed command, answer the clients that wait for it, and feed the listeners.
        Return its effects; None if it could not be decoded, or if it ended the member.

        Raises NewerCommand before anything is changed, which ends the member: skipping the command
        would let its state diverge from the other members'.
        """
        try:
            decoded = decode(command)
        except ValueError as exc:
            self.undecoded += 1
            _log.error("command not understood", index=position.index, error=str(exc))
            return None
        try:
            admitted = decoded if self._settling is None else self._settling.admit(decoded)
            effects = self._apply(admitted, stamp_ms)
            if stamp_ms:
                self.stamped_in = position.term
            self._tell(effects)
            if self._settling is not None:
                settled = self._settling.settle(position, command, effects)
                if settled is not None:
                    self._tell_settled(settled)
                elif admitted is not decoded:
                    self._drop(decoded)
        except NewerCommand:
            raise
        except Exception as exc:  # noqa: BLE001 (whatever it is, it must end the process, not the log's loop)
            self._failure.die(exc)
            return None
        if effects.verdict in {"foreign", "gap", "illegal"}:
            _log.info(
                "command did nothing",
                verdict=effects.verdict,
                kind=type(decoded).__name__,
                index=position.index,
            )
        return effects

    def foresee(self, command: bytes) -> None:
        """Answer the clients that wait here by a Settle that is in this member's log and not
        ordered yet. Its leader proposed it after COMMIT, so what it says is in the store, whatever
        becomes of the entry (INV-2).
        """
        if self._settling is not None or not self._waits:
            return
        settle = settle_in(command)
        if settle is not None and self._is_ours(settle):
            self._waits.answer_records(settle.first, settle.records)

    def _is_ours(self, settle: Settle) -> bool:
        """Return whether a Settle is about exactly what was ordered here: only then is it known
        which attempts its outcomes belong to.
        """
        whole = len(settle.records) == settle.last - settle.first + 1
        return whole and self._machine.holds(Mark(settle.last, settle.digest))

    def _apply(self, command: Command, stamp_ms: int) -> Effects:
        ordered_before = self._machine.revision
        effects = self._machine.apply(command, stamp_ms)
        if self._waits and isinstance(command, Submit):
            self._waits.ordered(command.intents, ordered_before, self._machine.pending)
        self._timekeeping.stamp(self._machine.log_time_ms)
        return effects

    def _tell(self, effects: Effects) -> None:
        for answered in effects.answered:
            self._waits.answer((answered.op_id, answered.body_hash), answered.answer)
        for settled in effects.settled:
            self._tell_settled(settled)

    def _tell_settled(self, settled: Settled) -> None:
        if settled.previous < self._feed.fed:
            self._undo_lost()  # the log repeats itself, or gives again what it has lost
        self._waits.answer_records(settled.previous + 1, settled.records)
        self._feed.feed(settled)

    def _drop(self, command: Command) -> None:
        """Fail the waits for intents that no member orders, because they came too early."""
        if isinstance(command, Submit):
            early = NotApplied("starting", "no history is founded yet")
            for intent in command.intents:
                self._waits.refuse(intent.op_id, early)

    def capture(self) -> Callable[[], bytes]:
        """Capture the machine's state now and return a function that encodes it in another thread.

        `last` is left out: copying it would block the event loop, and a member that restores the
        snapshot only has to read the store a little more often.
        """
        return partial(encode_state, self._machine.capture(last=False))

    def restore(self, state: MachineState) -> None:
        """Replace the state by a snapshot's, and notify the listeners that the machine jumped
        there.
        """
        machine = self._machine
        self._remember_told()
        machine.restore(state)
        self.restores += 1
        self._timekeeping.stamp(machine.log_time_ms)
        self._waits.forget_order()
        self._answer_from_window()
        settled = machine.settled
        try:
            self._undo_lost()
        except Exception as exc:  # noqa: BLE001 (as in apply)
            self._failure.die(exc)
        fed = self._feed.fed
        if settled.revision <= fed:
            return
        self._recovery.stepped_over(fed, settled.revision)
        jump = Settled(
            previous=fed,
            last=settled.revision,
            digest=settled.digest,
            records=(),
            versions=None,
            log_time_ms=machine.log_time_ms,
            undone_after=machine.undone.after if fed < machine.undone.to else None,
            term=machine.book.row_term,
        )
        try:
            self._feed.feed(jump)
        except Exception as exc:  # noqa: BLE001 (as in apply)
            self._failure.die(exc)

    def undo_told(self) -> None:
        """Take back what the listeners were told past the restored state, because it was not what
        the other members have (R3). It is told again as the log makes it.
        """
        self._undo_to(self._machine.settled.revision)

    def _remember_told(self) -> None:
        """Remember which terms gave what the listeners were told: the machine will forget it."""
        machine = self._machine
        if machine.book.founded and machine.settled.revision >= self._feed.fed:
            self._told = machine.book.terms
            self._told_of = b"" if machine.founded is None else machine.founded.history

    def _undo_lost(self) -> None:
        """Tell the listeners that what they were told is undone, as far as the log has lost it, and
        gives its revisions again (R12). If a quorum has lost all of it, the history is another one.
        """
        machine = self._machine
        founded = b"" if machine.founded is None else machine.founded.history
        if founded != self._told_of and self._told_of:
            self._undo_to(0)
        else:
            self._undo_to(machine.shared_with(self._told, self._feed.fed))

    def _undo_to(self, upto: int) -> None:
        """Tell the listeners that all they were told past `upto` is undone, if they were."""
        machine = self._machine
        if upto < self._feed.fed:
            digest, time_ms = machine.settled.digest, machine.log_time_ms
            self._feed.undo(Settled(upto, upto, digest, (), None, time_ms, upto))

    def restored_in(self, term: int) -> None:
        """Count a stamp contained in a snapshot as applied: the member that made it had begun its
        term.
        """
        self.stamped_in = max(self.stamped_in, term)

    def _answer_from_window(self) -> None:
        """Answer the attempts whose commands a snapshot replaced, as far as its window knows their
        outcome.
        """
        machine = self._machine
        for op_id, body_hash in self._waits.attempts():
            known = machine.window.get(op_id, machine.log_time_ms)
            if known is None:
                continue
            first = Answer(known.revision, known.outcome)
            self._waits.answer(
                (op_id, body_hash),
                first if known.body_hash == body_hash else machine.window.meet(known, body_hash),
            )

    def reset(self) -> None:
        """Discard the machine's state. Applied entries were overwritten in the log, so the keys and
        revisions here may belong to intents that were never ordered.
        """
        _log.warning(
            "applied log was overwritten: starting again", settled=self._machine.settled.revision
        )
        self.resets += 1
        self._remember_told()
        self._machine.reset()
