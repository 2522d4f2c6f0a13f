"""Carry notes of this member's machine to the others, keep theirs, and say how each member is.

A note is the machine's own; here it is bytes. Never decides anything by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

from pysyncobj.node import Node

from coordinator.log import PeerAddress, PeerStatus
from coordinator.raft.core.protocol import Core

NOTE_PERIOD_S: Final = 0.25
"""Notes carry the time, which a member that starts waits for before it takes writes."""
NOTE_BYTES_MAX: Final = 256


class Notes:
    """The newest note of each member."""

    def __init__(self, core: Core, note: Callable[[], bytes]) -> None:
        """`note` returns this member's own."""
        self._core, self._note = core, note
        self._newest: dict[str, tuple[bytes, int, float]] = {}
        """The newest note of each peer, the term it was made in, and when it came."""
        self._sent_at = float("-inf")
        self._sent_in: object = None
        """The term, its leader and the connected peers, as they were when the own note was last
        sent.
        """
        core.handle("note", self._on_note)

    def maybe_send(self, now: float) -> None:
        """Send the own note when it is due, or when somebody may need it who had none."""
        situation = self._situation()
        if now - self._sent_at >= NOTE_PERIOD_S or situation != self._sent_in:
            self._sent_at, self._sent_in = now, situation
            note = bytes(self._note())[:NOTE_BYTES_MAX]
            self._core.broadcast({"type": "note", "note": note, "term": self._core.term})

    def _situation(self) -> tuple[object, ...]:
        """Return what makes a note due at once: who may need it changed."""
        core = self._core
        leader, connected = core.leader_node, core.roster.connected
        reached = tuple(member.id for member in core.members if connected(member.id))
        return core.term, None if leader is None else leader.id, reached

    def _on_note(self, node: Node, message: dict[str, Any]) -> None:
        self._newest[node.id] = message["note"], message["term"], self._core.now()

    def peer(self, member: PeerAddress) -> PeerStatus:
        """Say how a member is, as far as this one knows; of itself it knows most."""
        core = self._core
        if member.id == core.node_id:
            return PeerStatus(
                id=member.id,
                address=member.address,
                voter=member.voter,
                role=core.role,
                match=core.log.last_index,
                last_seen_s=0.0,
                note=bytes(self._note()),
            )
        role: Literal["leader", "follower", "observer", "unknown"] = "unknown"
        leader = core.leader_node
        if leader is not None and leader.id == member.id:
            role = "leader"
        elif core.roster.connected(member.id):
            role = "follower" if member.voter else "observer"
        note, term, came_s = self._newest.get(member.id, (b"", 0, 0.0))
        return PeerStatus(
            id=member.id,
            address=member.address,
            voter=member.voter,
            role=role,
            match=core.match(member.id),
            last_seen_s=core.last_seen_s(member.id),
            note=note,
            note_term=term,
            note_age_s=max(0.0, core.now() - came_s),
            trouble=core.roster.trouble(member.id),
        )
