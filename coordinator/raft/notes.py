"""Send notes of this member's machine to the others, keep theirs, and report each member's status.

A note is made by the machine and is opaque bytes here; nothing is decided by its content.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

from pysyncobj.node import Node

from coordinator.log import PeerAddress, PeerStatus
from coordinator.raft.core.protocol import Core

NOTE_PERIOD_S: Final = 0.25
"""Seconds between two notes. It is short because notes carry log time, and a member that starts
waits for that before it accepts writes.
"""
NOTE_BYTES_MAX: Final = 256


class Notes:
    """The exchange of notes between one member and the others; it keeps the newest of each."""

    def __init__(self, core: Core, note: Callable[[], bytes]) -> None:
        """`note` returns this member's current note."""
        self._core, self._note = core, note
        self._newest: dict[str, tuple[bytes, int, float]] = {}
        """By peer: its newest note, the term that the note was made in, and when it arrived."""
        self._sent_at = float("-inf")
        self._sent_in: object = None
        """The term, its leader and the connected peers when our note was last sent."""
        core.handle("note", self._on_note)

    def maybe_send(self, now: float) -> None:
        """Send our note if NOTE_PERIOD_S has passed, or if the term, the leader or the connected
        peers have changed, so that a peer may be without it.
        """
        situation = self._situation()
        if now - self._sent_at >= NOTE_PERIOD_S or situation != self._sent_in:
            self._sent_at, self._sent_in = now, situation
            note = bytes(self._note())[:NOTE_BYTES_MAX]
            self._core.broadcast(
                {
                    "type": "note",
                    "note": note,
                    "term": self._core.term,
                    "load": self._core.giving.load,
                }
            )

    def _situation(self) -> tuple[object, ...]:
        """Return the term, the leader and the connected peers: a change makes a note due."""
        core = self._core
        leader, connected = core.leader_node, core.roster.connected
        reached = tuple(member.id for member in core.members if connected(member.id))
        return core.term, None if leader is None else leader.id, reached

    def _on_note(self, node: Node, message: dict[str, Any]) -> None:
        self._newest[node.id] = message["note"], message["term"], self._core.now()
        self._core.pull.note_load(node.id, message["load"])

    def peer(self, member: PeerAddress) -> PeerStatus:
        """Return the status of a member, as far as this member knows it."""
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
            match=self._match(member.id),
            last_seen_s=self._last_seen_s(member.id),
            note=note,
            note_term=term,
            note_age_s=max(0.0, core.now() - came_s),
            trouble=core.roster.trouble(member.id),
        )

    def _match(self, member: str) -> int | None:
        """Return up to which index a member is known to hold our log; None if we do not lead."""
        core = self._core
        node, library = core.roster.node(member), core.pysyncobj
        return library.match_index.get(node) if node is not None and library.leads else None

    def _last_seen_s(self, member: str) -> float | None:
        """Return the seconds since a member answered us as leader, else since it sent anything."""
        core = self._core
        node, library = core.roster.node(member), core.pysyncobj
        if node is None:  # its connection was dropped, and the entry that removed it was cut off
            return None
        seen = library.last_response.get(node) if library.leads else None
        if seen is not None:
            return max(0.0, core.now() - seen)
        ask = getattr(library.transport, "last_seen_s", None)
        return None if ask is None else ask(node)
