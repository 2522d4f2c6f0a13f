"""Know whether this member may vote and lead at all.

Never gives a vote itself. It covers this member and its disk only; whether the member is a voter is
said by the configuration in force (roster.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from coordinator.raft.core.durable_log import DurableLog
from coordinator.raft.core.log import WIPED
from coordinator.raft.core.roster import Roster

NEVER: Final = float("-inf")


class Eligibility:
    """The reasons against this member's votes: a removal, a lost disk, a contested first list."""

    def __init__(self, roster: Roster, journal: DurableLog, now: Callable[[], float]) -> None:
        self._roster, self._now = roster, now
        self.removed = False
        self.disk_lost = False
        self.blank = self._is_blank(journal)
        self.contested_until = NEVER
        """Monotonic time until which this member withholds its votes, because another member was
        given a different list of first members and no log has settled which is right.
        """

    def _is_blank(self, journal: DurableLog) -> bool:
        """Say whether this disk holds nothing, or only the base entry that a start writes. A
        member that has joined and is blank has lost its disk.

        A stored term does not prove that this is the old disk: a new member may have learned a term
        from others. Under a policy without fsync it does: entries may be missing after a power cut
        there, but the term is always synced.
        """
        base_alone = len(journal) == 0 or (journal[-1][1] <= 1 and journal[-1][0] != WIPED)
        return base_alone and (journal.getCurrentTerm() == 0 or journal.policy == "always")

    @property
    def votes(self) -> bool:
        """Say whether this member may stand for election and counts towards a quorum."""
        if self.contested_until == NEVER:  # as nearly always
            return self._roster.votes and not self.removed and not self.disk_lost
        return self._roster.votes and self.may_vote

    @property
    def may_vote(self) -> bool:
        """Say whether this member may vote for a candidate, whether or not its own log makes it a
        voter.

        A candidate asks only those that its log makes voters. Our log may not have that entry yet,
        and without our vote nobody might be elected who could send it (section 4.2.2).
        """
        if self.removed or self.disk_lost:
            return False
        until = self.contested_until  # in the past for ever, unless another list was met
        return until == NEVER or self._roster.begun or self._now() >= until

    @property
    def unfit(self) -> Literal["removed", "disk_lost"] | None:
        """Why this member can never be a member again; None: it can."""
        if self.removed:
            return "removed"
        return "disk_lost" if self.disk_lost else None

    def hold_something(self) -> None:
        """Note that the disk now holds something that a replaced disk would not have."""
        self.blank = False

    def lose_disk(self) -> None:
        """Note that this member's disk was lost, and its promises with it: it never votes again."""
        self.disk_lost = True

    def remove(self) -> None:
        """Note that this member was removed for good."""
        self.removed = True

    def contest(self, until: float) -> None:
        """Withhold votes until `until`, as long as the log here does not name its members."""
        self.contested_until = until
