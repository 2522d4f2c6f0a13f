"""Pull a state from another member: choose the least loaded one that has it, ask for what is
missing, and choose another when it does not answer or what it gave cannot be used (R6).

Never puts anything in place, and never lets a state be put in place that the log cannot go on from:
this member's own, or the leader's.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from pysyncobj.node import Node

from coordinator.log import Position
from coordinator.raft.core.environment import log
from coordinator.raft.core.following.transfer import Transfer
from coordinator.raft.core.state import State

ASK_AGAIN_S: Final = 0.5
"""Seconds after which the same is asked for again, if nothing of it has arrived."""
DIAL_S: Final = 0.05
"""The same while there is no connection to ask on."""
SILENT_S: Final = 5.0
"""Seconds without an answer after which another member is asked."""
UNMADE_S: Final = 15.0
"""Seconds without word of where a state ends after which another member is asked."""
LOADS_S: Final = 0.5
"""Seconds for which it is waited for what members say that they have to do."""
OFFERED_S: Final = 2.0
"""Seconds with a leader for which what one said of its log counts: it says it with every heartbeat.
"""
DECLINED_S: Final = 1.0
"""Seconds for which a member is not asked that gave nothing."""
REFUSED_S: Final = 10.0
"""Seconds for which a member is not asked whose state could not be used, doubled each time."""
REFUSED_S_MAX: Final = 600.0


class Avoided(NamedTuple):
    """Why a member is not asked for its state, and until when."""

    until: float
    pause_s: float
    why: str


class Vetted(NamedTuple):
    """Who said that its log goes on from a state, and for which one."""

    leader: Node
    term: int
    end: Position


class Pull:
    """The asking side of the transfer of a state to this member."""

    def __init__(self, state: State, transfer: Transfer) -> None:
        self._library, self._environment, self._log = state.pysyncobj, state.environment, state.log
        self._roster, self._transfer = state.roster, transfer
        self.source: Node | None = None
        """The member whose state is being pulled."""
        self.promised: Position | None = None
        """Where that state ends, once it has said so."""
        self.vetted: Vetted | None = None
        self._total = self._offset = 0
        self._offered: tuple[int, float] = 0, float("-inf")
        """Where the leader's log begins, which does not reach back to ours, and when it said so."""
        self._chosen_at = self._ask_at = self._heard_at = float("-inf")
        self._needed_at = float("inf")
        """The monotonic time since which a state is needed."""
        self._told_at = self._paused_until = float("-inf")
        self._loads: dict[str, int] = {}
        self._avoided: dict[str, Avoided] = {}

    # ----------------------------------------------------------------------------- what is needed

    def offer(self, index: int) -> None:
        """Note that the leader's log begins at `index`, after the end of ours."""
        self._offered = index, self._environment.now()

    def withdraw(self) -> None:
        """Note that our log reaches the leader's."""
        self._offered = 0, float("-inf")

    @property
    def lacks(self) -> bool:
        """Whether this member needs another one's state."""
        return self._least() is not None

    def _least(self) -> int | None:
        """Return where a state has to end that is of use, or later; None: none is needed."""
        index, at = self._offered
        offered = index > 0 and at + OFFERED_S >= self._environment.now()
        if self._library.leads or not (offered or self._transfer.fetching):
            return None
        return max(index if offered else 0, self._log.first_index)

    # --------------------------------------------------------------------------------- the source

    def note_load(self, member: str, load: int) -> None:
        """Note how much a member said that it has to do for others."""
        self._loads[member] = load

    def avoid(self, why: str, *, refused: bool = False) -> None:
        """Ask another member: this one gives nothing, or its state was `refused`."""
        source, now = self.source, self._environment.now()
        if source is None:
            return
        pause_s = DECLINED_S
        if refused:
            before = self._avoided.get(source.id)
            doubled = 0.0 if before is None else 2 * before.pause_s
            pause_s = min(REFUSED_S_MAX, max(REFUSED_S, doubled))
        self._avoided[source.id] = Avoided(now + pause_s, pause_s, why)
        log.warning("state not pulled", member=self._roster.id, source=source.id, why=why)
        self._environment.count("states_declined")
        self._leave()

    def pause(self, why: str) -> None:
        """Ask nobody for a while: this member cannot take a state now, whoever gives it."""
        log.warning("state cannot be taken", member=self._roster.id, why=why)
        self._paused_until = self._environment.now() + REFUSED_S
        self._leave()

    def _leave(self) -> None:
        held = self.source is not None and self._transfer.incoming is not None
        if held and 0 < self._offset < self._total:
            self._want(self._total, 0)  # nothing more: the other one need not keep its copy
        self._transfer.drop_unless_installing()
        self.source = self.promised = self.vetted = None
        self._total = self._offset = 0
        self._ask_at = float("-inf")
        self._environment.wake()

    def end(self) -> None:
        """Forget the source: the state is in place, or is not needed any more."""
        self._avoided.clear()
        self.withdraw()
        self._leave()

    @property
    def troubles(self) -> tuple[str, ...]:
        """What keeps this member from getting a state, for people to read."""
        if not self.lacks:
            return ()
        return tuple(
            f"the state of {member} could not be used, it is asked again later: {avoided.why}"
            for member, avoided in sorted(self._avoided.items())
            if avoided.pause_s >= REFUSED_S
        )

    def _choose(self, now: float) -> Node | None:
        """Return the least loaded connected member that may be asked; None: there is none, or it
        is not known yet.
        """
        leader = self._library.leader
        able = [
            node
            for member, node in sorted(self._roster.known)
            if member != self._roster.id
            and node in self._library.connected_nodes
            and not self._roster.retired(member)
            and (member not in self._avoided or self._avoided[member].until <= now)
        ]
        if now < self._needed_at + LOADS_S and any(node.id not in self._loads for node in able):
            return None
        return min(
            able, key=lambda node: (self._loads.get(node.id, 0), node == leader), default=None
        )

    # --------------------------------------------------------------------------------------- asks

    def maybe_ask(self) -> None:
        """Ask for what is wanted and does not come, of another member if need be."""
        now = self._environment.now()
        if self.promised is not None and now >= self._told_at + ASK_AGAIN_S:
            self.tell_leader()
        if self._log.resting:
            return
        if self._library.leader is None and self._least() is not None:
            self._offered = self._offered[0], now
        least = self._least()
        if least is None:
            self._needed_at = float("inf")
            if self.source is not None:
                self.end()
            return
        self._needed_at = min(self._needed_at, now)
        self._maybe_change_source(now, least)
        if self.source is not None and now >= self._ask_at and not self._is_complete():
            self._environment.count("states_asked")
            self._ask(least)

    def _maybe_change_source(self, now: float, least: int) -> None:
        if self.promised is not None and self.promised.index < least:
            self._leave()  # the log was cut meanwhile: a newer state is needed
        if self.source is not None and not self._is_complete():
            if now > self._heard_at + SILENT_S:
                self.avoid("it does not answer")
            elif self.promised is None and now > self._chosen_at + UNMADE_S:
                self.avoid("it does not make a dump")
        if self.source is None and now >= self._paused_until:
            self.source = self._choose(now)
            self._chosen_at = self._heard_at = self._ask_at = now

    def _is_complete(self) -> bool:
        """Return whether all of the state has arrived."""
        return self._transfer.incoming is not None and 0 < self._total <= self._offset

    def _ask(self, least: int) -> None:
        taken = self._want(self._offset, least)
        self._ask_at = self._environment.now() + (ASK_AGAIN_S if taken else DIAL_S)

    def _want(self, offset: int, least: int) -> bool:
        """Ask for what follows `offset` of the state under way, or for one; say whether that is
        on its way.
        """
        assert self.source is not None
        held = self._transfer.incoming is not None and self._offset > 0
        id = self._transfer.id if held else b""
        message = {"type": "state_wanted", "id": id, "offset": offset if held else 0}
        return self._library.send(self.source, {**message, "least": least})

    def tell_leader(self) -> None:
        """Tell the leader which state is under way, so that it keeps its log from where that ends,
        and says whether it fits.
        """
        leader, end = self._library.leader, self.promised or Position(0, 0)
        if leader is None or self._library.leads:
            return
        self._told_at = self._environment.now()
        message = {"type": "state_underway", "term": self._library.term, "total": self._total}
        self._library.send(leader, {**message, "index": end.index, "index_term": end.term})

    # ------------------------------------------------------------------------------------ answers

    def on_answer(self, node: Node, message: dict[str, Any]) -> None:
        """Note what a member prepares, or choose another one if it gives nothing."""
        if node != self.source or self._log.resting:
            return
        if message["id"] and message["id"] != self._transfer.id:
            return
        if message["problem"]:
            self.avoid(message["problem"])
            return
        self._heard_at = self._environment.now()
        if message["index"] and self.promised is None:
            self._promise(Position(message["index"], message["index_term"]), 0)

    def arrived(self, node: Node, end: Position, total: int) -> bool:
        """Say whether a chunk of a state that ends at `end` is one that this member waits for."""
        if node != self.source or self._log.resting or self._least() is None:
            return False
        raft_log, commit = self._log, self._library.commit_index
        self._heard_at = self._environment.now()
        if raft_log.holds(end.index) and not raft_log.agrees(end) and end.index <= commit:
            self.avoid("its log is not the one that this member has", refused=True)
            return False
        if end != self.promised or total != self._total:
            self._promise(end, total)
        return True

    def _promise(self, end: Position, total: int) -> None:
        if total and self.source is not None:
            member, source = self._roster.id, self.source.id
            log.info("pulling a state", member=member, source=source, index=end.index, bytes=total)
        self.promised, self.vetted = end, None
        self._total, self._offset = total, 0
        self.tell_leader()

    def taken(self, offset: int) -> None:
        """Note that all bytes before `offset` are here, and ask for what follows."""
        forward, self._offset = offset > self._offset, offset
        if forward:  # with the last byte too: the other one need not keep its copy any more
            least = self._least()
            if least is not None:
                self._ask(least)

    def on_vetted(self, node: Node, message: dict[str, Any]) -> None:
        """Note the leader's word on whether its log goes on from the state under way."""
        end = Position(message["index"], message["index_term"])
        library = self._library
        if node != library.leader or message["term"] != library.term or end != self.promised:
            return
        if message["fits"]:
            self.vetted = Vetted(node, library.term, end)
        elif not self._log.agrees(end):
            self.vetted = None
            self.avoid("the leader's log does not go on from its state")

    @property
    def usable(self) -> bool:
        """Whether all of the state is here, and a log goes on from its end: our own, or that of the
        present leader, which has said so.
        """
        end, vetted, library = self.promised, self.vetted, self._library
        if not self._is_complete() or end is None:
            return False
        if self._transfer.fetching and self._log.agrees(end):
            return True
        return vetted is not None and vetted == (library.leader, library.term, end)
