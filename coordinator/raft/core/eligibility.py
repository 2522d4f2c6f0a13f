"""Know whether this member may vote and lead at all.

Never gives a vote itself. What it holds is about this member and its disk; the configuration in
force (roster.py) says whether it is a voter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from coordinator.raft.core.library import DurableLog
from coordinator.raft.core.log import WIPED
from coordinator.raft.core.roster import Roster


class Eligibility:
    """What speaks against this member's votes: a removal, a lost disk, a contested first list."""

    def __init__(self, roster: Roster, journal: DurableLog, now: Callable[[], float]) -> None:
        self._roster, self._now = roster, now
        self.removed = False
        self.disk_lost = False
        self.blank = self._is_blank(journal)
        self.contested_until = float("-inf")
        """Until then nobody votes here: a member was given another list of the first ones, and no
        log has settled it.
        """

    def _is_blank(self, journal: DurableLog) -> bool:
        """Say whether nothing was ever on this disk, or the base alone that a start puts there: a
        member that joined and is blank has lost it.

        The term says nothing: a start may have heard of one. Without fsync it does say that this is
        the disk of old, for it alone is always synced.
        """
        base_alone = len(journal) == 0 or (journal[-1][1] <= 1 and journal[-1][0] != WIPED)
        return base_alone and (journal.getCurrentTerm() == 0 or journal.policy == "always")

    @property
    def votes(self) -> bool:
        """Say whether this member may stand and be counted."""
        return self._roster.votes and self.may_vote

    @property
    def may_vote(self) -> bool:
        """Say whether it may give its vote to one who asks, and so counts it a voter already.

        Its own log may not have the entry that made it one, and never get it without that vote
        (section 4.2.2).
        """
        contested = not self._roster.begun and self._now() < self.contested_until
        return not self.removed and not self.disk_lost and not contested

    @property
    def unfit(self) -> Literal["removed", "disk_lost"] | None:
        """Why this member can be none for good."""
        if self.removed:
            return "removed"
        return "disk_lost" if self.disk_lost else None

    def hold_something(self) -> None:
        """Note that something is on this disk now that a lost one would not have."""
        self.blank = False

    def lose_disk(self) -> None:
        """Note that what this member promised is forgotten: it votes no more."""
        self.disk_lost = True

    def remove(self) -> None:
        """Note that this member was taken out for good."""
        self.removed = True

    def contest(self, until: float) -> None:
        """Give no votes until then, as long as no log says who the members are."""
        self.contested_until = until
