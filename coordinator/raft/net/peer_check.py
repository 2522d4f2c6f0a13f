"""Judge whether a peer belongs to this member's cluster, before a connection with it counts.

It compares lists of first members and histories, and knows removals. It never judges a peer that
has not proved its identity, and never decides which of two histories is right: it keeps the two
apart and reports the conflict.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import structlog

from coordinator.raft.net.peer_identity import Origin, PeerIdentity, judge_origins, never_belonged
from kv.errors import BadRequest

CONTESTED_S: Final = 10.0
"""Seconds for which a member whose log has not begun withholds its vote after it met a peer with a
different list of first members. One of the two lists is a mistake, and a vote by the member that
has the wrong one may found a second cluster.
"""
CONFLICTS_MAX: Final = 64
SAY_AGAIN_S: Final = 60.0
"""Seconds between two log entries about the same conflict: the peer connects every second."""
REMOVED: Final = "removed"

_log = structlog.get_logger("acordo.raft")


class OwnCluster(Protocol):
    """The part of the protocol that the check queries, and that it reports to."""

    @property
    def origin(self) -> Origin:
        """The origin of this member's log."""
        ...

    @property
    def begun(self) -> bool:
        """Say whether the log here names its members."""
        ...

    def now(self) -> float:
        """Return the monotonic time in seconds."""
        ...

    def contest(self, until: float) -> None:
        """Withhold votes until `until`, as long as the log here does not name its members."""
        ...

    def retired(self, member: str) -> bool:
        """Say whether a member was removed from the cluster."""
        ...

    def on_told_removed(self, by: str) -> None:
        """Note that the member `by` says that this member was removed."""
        ...


class PeerCheck:
    """The check by which one member decides which peers may connect."""

    def __init__(
        self,
        core: OwnCluster,
        member: str,
        address: str,
        incarnation: bytes,
        fault: Callable[[BaseException], None],
    ) -> None:
        """`fault` is called with an error that must end this member: it was configured with the
        wrong list of members.
        """
        self._core, self._fault = core, fault
        self._member, self._address, self._incarnation = member, address, incarnation
        self._conflicts: dict[str, tuple[str, float]] = {}
        self._said: dict[tuple[str, str], float] = {}
        """By (peer, detail): when it was last logged, oldest first. The detail is in the key
        because two processes may connect in turns under one id.
        """

    def identity(self) -> PeerIdentity:
        """Return the identity to send with this member's hello."""
        return PeerIdentity(self._core.origin, self._incarnation, self._address)

    def judge(self, peer: str, identity: PeerIdentity) -> tuple[str, str] | None:
        """Return (reason, detail) why a peer that has proved itself is not of our cluster; None if
        it may be. Calls `fault` if this member is the one that does not belong.
        """
        mine, theirs = self._core.origin, identity.origin
        conflict = judge_origins(mine, theirs)
        if conflict is None:
            self._conflicts.pop(peer, None)
            if self._core.retired(peer):
                return (
                    REMOVED,
                    f"{peer} was removed from the cluster, and a removed id never comes back",
                )
            return None
        if conflict == "other_history":
            pair = f"{self._member} and {peer}"
            detail = f"{pair} belong to two clusters of one name: their logs began apart"
        elif not mine.history and not theirs.history:
            detail = f"{self._member} and {peer} were given different lists of the first members"
        else:
            new, old = (self._member, peer) if theirs.history else (peer, self._member)
            detail = (
                f"{new} has no log, and its list of first members is not the one that "
                f"{old}'s cluster began with"
            )
        self._note(peer, conflict, detail)
        if never_belonged(mine, theirs):
            self._fault(
                BadRequest(
                    "foreign_members",
                    detail,
                    allowed="the list that the cluster began with; for a member that joins it, "
                    "a list with itself as an observer; for one whose disk was lost, a new id",
                )
            )
        return conflict, detail

    def _note(self, peer: str, conflict: str, detail: str) -> None:
        now = self._core.now()
        if now - self._said.get((peer, detail), float("-inf")) >= SAY_AGAIN_S:
            _log.error(
                "members_of_two_clusters",
                member=self._member,
                peer=peer,
                reason=conflict,
                detail=detail,
            )
            self._said.pop((peer, detail), None)
            if len(self._said) >= CONFLICTS_MAX:
                del self._said[next(iter(self._said))]
            self._said[peer, detail] = now
        if peer in self._conflicts or len(self._conflicts) < CONFLICTS_MAX:
            self._conflicts[peer] = (detail, now)
        if not self._core.begun:
            self._core.contest(now + CONTESTED_S)

    def on_refused(self, peer: str, said: str) -> None:
        """Handle a peer's refusal of our connection: pass a removal on to the protocol."""
        if said.startswith(REMOVED):
            self._core.on_told_removed(peer)

    @property
    def conflicts(self) -> tuple[str, ...]:
        """Messages about the conflicts with members that were met in the last CONTESTED_S."""
        since = self._core.now() - CONTESTED_S
        return tuple(detail for _, (detail, at) in sorted(self._conflicts.items()) if at >= since)
