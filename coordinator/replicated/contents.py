"""Compare this member's contents with what the others tell of theirs, and act on the verdict (R3).

`witnesses` decides. A member that differs from a majority serves nothing more, and fetches its
state anew; where there is no majority nobody guesses, and nothing is served until an operator
decides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

import structlog

from coordinator.log import PeerStatus, RaftStatus
from coordinator.machine.machine import Machine
from coordinator.replicated.condition import Condition
from coordinator.replicated.keeping import Keeping
from coordinator.replicated.marks import PREFIX_BYTES, ContentMarks
from coordinator.replicated.witnesses import (
    Telling,
    confirmed,
    differing,
    judge,
    outlived,
    supported,
    unanimous,
)

TOLD_MAX: Final = 16
"""What a member told last that is kept of each."""

_log = structlog.get_logger("acordo.own_store")


class Contents:
    """The comparison of one member's contents with the others'."""

    def __init__(
        self, machine: Machine, marks: ContentMarks, condition: Condition, keeping: Keeping
    ) -> None:
        self._machine = machine
        self._marks, self._condition, self._keeping = marks, condition, keeping
        self._told: dict[str, deque[Telling]] = {}
        self._compared_in = (0, 0)
        """The term of the newest applied command, and the installs, that `_told` belongs to."""
        self._differ_from = 0
        """The row from which on contents differed without a majority."""
        self.comparisons = 0
        """Digests of other members that were compared with the own one."""
        self.divergences = 0
        """How often this member's contents differed from the majority's."""

    def look(self, raft: RaftStatus, tellings: Iterable[Telling]) -> None:
        """Take in what the members tell of their contents, and judge the own ones."""
        now = (self._machine.book.term, self._keeping.installs)
        if self._compared_in != now:
            self._compared_in = now
            self._told.clear()  # it was told of another log, or compared with what is gone
        self._take_in(raft.peers, tellings)
        if self._condition.spoilt is not None:
            return
        own = self._own_at(each.seq for kept in self._told.values() for each in kept)
        for kept in self._told.values():
            for each in outlived(own, kept):
                kept.remove(each)
        told = [each for kept in self._told.values() for each in kept]
        others = [peer for peer in raft.peers if peer.id != raft.id and peer.voter]
        votes = any(peer.id == raft.id and peer.voter for peer in raft.peers)
        if not self._keeping.witness and confirmed(own, told, len(others)):
            self._keeping.confirm()
            _log.info("fetched state is like the others'", seq=self._marks.newest)
        counts, voters = votes and self._keeping.witness, len(others) + votes
        verdict = judge(own, counts, told, voters)
        at = differing(own, told)
        if verdict == "alike" and self._is_decided(own, told, counts, voters, others):
            self._condition.undecided = ""
        if verdict == "diverged":
            self.divergences += 1
            why = f"the contents differ from the majority's from row {at} on"
            self._condition.spoil("diverged", why)
        elif verdict == "undecided":
            self._differ_from = at or 0
            self._stop(f"the members' contents differ from row {at} on, and none has a majority")

    def _is_decided(
        self,
        own: dict[int, bytes],
        told: Iterable[Telling],
        counts: bool,
        voters: int,
        others: Iterable[PeerStatus],
    ) -> bool:
        """Return whether what was told of rows that are not before the difference ends it: rows
        before it are alike in any case.
        """
        row = min(self._differ_from, self._marks.newest)  # a lost suffix may have taken that row
        since = [each for each in told if each.seq >= row]
        newest = {each.member: each for each in since}
        return supported(own, counts, since, voters) or unanimous(
            own, newest, [peer.id for peer in others]
        )

    def _stop(self, why: str) -> None:
        """Serve nothing, and let an operator decide whose contents are right: nobody guesses."""
        if self._condition.undecided == why:
            return
        _log.critical(
            "contents differ without a majority: nothing is served",
            why=why,
            advice="remove the members whose contents are wrong",
        )
        self._condition.undecided = why

    def _take_in(self, peers: Iterable[PeerStatus], tellings: Iterable[Telling]) -> None:
        members = {peer.id for peer in peers}
        for gone in self._told.keys() - members:
            del self._told[gone]
        for each in tellings:
            kept = self._told.setdefault(each.member, deque(maxlen=TOLD_MAX))
            if kept and each in kept:
                continue
            if kept and kept[-1].witness and not each.witness:
                kept.clear()  # it has fetched its state: what it told before is gone
            if self._marks.at(each.seq) is not None:
                self.comparisons += 1
            kept.append(each)

    def _own_at(self, rows: Iterable[int]) -> dict[int, bytes]:
        found = {}
        for seq in rows:
            digest = self._marks.at(seq)
            if digest is not None:
                found[seq] = digest[:PREFIX_BYTES]
        return found
