"""Collect what the members report about themselves: who leads and since when, what it refuses, and
how far each has settled.

The reports come in the notes that heartbeats carry. What a note does not say is unknown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import msgspec

from coordinator.commit.leadership import LeadersPart
from coordinator.log import Log, PeerStatus, RaftStatus
from coordinator.logtime import ClockReading
from coordinator.machine.book import LEVEL
from coordinator.machine.machine import Machine
from coordinator.machine.standing import GivenUp
from coordinator.peers.notes import (
    NOTE_URL_MAX,
    NOTE_VERSION,
    Note,
    VoterProgress,
    encode_note,
    read_note,
    term_mark,
    unneeded,
)
from coordinator.peers.timekeeping import Timekeeping
from coordinator.replicated.marks import ContentMark
from coordinator.replicated.member import OwnParts
from coordinator.replicated.witnesses import Telling
from kv.ports import Clock, Leadership, Member

TURN_S: Final = 0.6
"""How long a member tells of the newest row of one stride (`marks.STRIDES`)."""


LEADERSHIPS_MAX: Final = 32
"""Changes of leader that are remembered."""


class LeaderSeen(NamedTuple):
    """Who leads, as far as this member knows."""

    id: str | None = None
    term: int = 0
    since_ms: int = 0
    """When it began to lead, by this member's wall clock or as the leader reported it."""


class LeaderWord(NamedTuple):
    """What another leader reported about its store in its newest note."""

    refusal: str | None = None
    gives_up: GivenUp | None = None
    stuck: bool = False


class Roster:
    """The members as one of them knows them, itself included."""

    def __init__(
        self,
        node: str,
        url: str,
        *,
        log: Log,
        clock: Clock,
        machine: Machine,
        committer: LeadersPart,
        timekeeping: Timekeeping,
        own: OwnParts | None = None,
        level: int = LEVEL,
    ) -> None:
        """`level` is the feature level that this member speaks."""
        self._own, self._level = own, level
        self._node, self._url = node, url
        self._log, self._clock, self._machine = log, clock, machine
        self._committer, self._timekeeping = committer, timekeeping
        self.leader = LeaderSeen()
        self.leaderships: deque[Leadership] = deque(maxlen=LEADERSHIPS_MAX)
        """The newest changes of leader, oldest first."""
        self.word = LeaderWord()
        self._synced = False
        """Whether what this member's log acknowledges is on its disk, as far as is known yet."""

    # --------------------------------------------------------------------------- this member's note

    def note(self) -> bytes:
        """Return this member's note to the others; see `log.Replica.note`."""
        machine, committer, time = self._machine, self._committer, self._timekeeping.time
        leads = committer.term is not None
        given = committer.gives_up if leads else None
        mark = self._content_mark()
        return encode_note(
            Note(
                version=NOTE_VERSION,
                ordered=0 if machine.book.founded else machine.revision,
                settled=machine.settled.revision,
                digest=machine.settled.digest,
                url=self._url[:NOTE_URL_MAX],
                refusal=(committer.refusal or "") if leads else "",
                leader_since_ms=self.leader.since_ms if leads else 0,
                wall_ms=self._clock.wall_ms(),
                kept_ms=self._timekeeping.now_ms() if time.kept else 0,
                found_in=time.found_in,
                synced=self._synced,
                gives_up=given.revisions if given else -1,
                gives_up_after=given.after if given else 0,
                stuck=leads and committer.stuck is not None,
                level=self._level,
                content_seq=mark.seq,
                content=mark.digest,
                content_term=term_mark(machine.book.term),
                witness=self._own is None or self._own.keeping.witness,
            )
        )

    def _content_mark(self) -> ContentMark:
        """Return the row of the own store whose content digest this note tells of (R3)."""
        if self._own is None:
            return ContentMark(0, b"")
        return self._own.marks.report(int(self._clock.monotonic() / TURN_S))

    def tellings(self, raft: RaftStatus) -> Iterator[Telling]:
        """Yield what the other members told of their contents, as far as it is comparable: they
        have applied an entry of the same term as this one, so their rows are of the same log. What
        a member told whose log is about to be overwritten does not count.
        """
        term = term_mark(self._machine.book.term)
        for peer in raft.peers:
            note = read_note(peer.note) if peer.id != self._node else None
            if note is not None and note.content_seq and note.content_term == term:
                yield Telling(peer.id, note.content_seq, note.content, peer.voter, note.witness)

    def _note_of(self, peer: PeerStatus) -> Note | None:
        return read_note(self.note() if peer.id == self._node else peer.note)

    # --------------------------------------------------------------------------- the members' notes

    def look(self, raft: RaftStatus) -> None:
        """Adopt what the leader reports about itself."""
        self._synced = raft.fsync == "always"
        self.word, since_ms = LeaderWord(), 0
        for peer in raft.peers:
            if peer.id != raft.leader or peer.id == self._node or peer.role != "leader":
                continue
            note = read_note(peer.note)
            if note is None:
                continue
            since_ms = note.leader_since_ms
            refusal = note.refusal or None
            given = GivenUp(note.gives_up_after, note.gives_up) if note.gives_up >= 0 else None
            self.word = LeaderWord(refusal, given if refusal is not None else None, note.stuck)
        self.lead_seen(raft.leader, raft.term, since_ms)

    def lead_seen(self, leader: str | None, term: int, since_ms: int = 0) -> None:
        """Record who leads. `since_ms` 0: the leader did not report since when."""
        known = self.leader
        if (known.id, known.term) != (leader, term):
            self.leader = LeaderSeen(leader, term, since_ms or self._clock.wall_ms())
            self._remember()
        elif since_ms and since_ms != known.since_ms:
            self.leader = LeaderSeen(leader, term, since_ms)
            self._remember()

    def _remember(self) -> None:
        """Record the present leader among the changes of leader: a later word about when it began
        replaces an earlier one.
        """
        now, changes = self.leader, self.leaderships
        if now.id is None:
            return
        last = changes[-1] if changes else None
        if last is not None and (last.leader, last.term) == (now.id, now.term):
            changes[-1] = msgspec.structs.replace(last, since_ms=now.since_ms)
            return
        former = None if last is None else last.leader
        changes.append(Leadership(now.id, now.term, now.since_ms, former, self._silent_ms(former)))

    def _silent_ms(self, member: str | None) -> int | None:
        """Return how long nothing has been heard of a member, in milliseconds; None: not known."""
        if member == self._node:
            return 0
        for peer in self._log.status().peers:
            if peer.id == member and peer.last_seen_s is not None:
                return int(peer.last_seen_s * 1000)
        return None

    def readings(self, raft: RaftStatus) -> list[ClockReading]:
        """Return the members' clock readings of the present term. Older readings may be from before
        a clock was stepped or stopped.
        """
        readings = []
        for peer in raft.peers:
            own, note = peer.id == self._node, self._note_of(peer)
            if note is not None and note.wall_ms and (own or peer.note_term == raft.term):
                age_s = 0.0 if own else peer.note_age_s
                readings.append(
                    ClockReading(
                        peer.id, peer.voter, note.wall_ms, note.kept_ms, age_s, note.found_in
                    )
                )
        return readings

    def members(self, raft: RaftStatus) -> Iterator[Member]:
        """Yield the members as this one knows them."""
        for peer in raft.peers:
            own, note = peer.id == self._node, self._note_of(peer)
            noted_url = note.url if note else ""
            yield Member(
                id=peer.id,
                url=self._url if own else noted_url,
                raft_address=peer.address,
                voter=peer.voter,
                role=raft.role if own else peer.role,
                term=raft.term if own else None,
                applied=max(note.ordered, note.settled) if note else None,
                settled=note.settled if note else None,
                digest=note.digest.hex() if note else None,
                lag=max(0, raft.last - peer.match) if peer.match is not None else None,
                last_seen_s=0.0 if own else peer.last_seen_s,
                trouble=peer.trouble,
            )

    def url_of(self, member: str, members: Iterable[Member] | None = None) -> str:
        """Return the URL at which a member takes requests; empty when it is not known."""
        if members is None:
            members = self.members(self._log.status())
        return next((known.url for known in members if known.id == member), "")

    def leader_settled(self) -> int | None:
        """Return the settled revision in the newest note from the leader of the present term."""
        raft = self._log.status()
        for peer in raft.peers:
            if (
                peer.id == raft.leader != self._node
                and peer.role == "leader"
                and peer.note_term == raft.term
            ):
                note = read_note(peer.note)
                return None if note is None else note.settled
        return None

    def level_spoken(self) -> int:
        """Return the feature level that every member in force said, in the present term, that it
        speaks; 0 while one has said nothing (R14).
        """
        raft, spoken = self._log.status(), self._level
        for peer in raft.peers:
            note = self._note_of(peer)
            heard = note is not None and (peer.id == self._node or peer.note_term == raft.term)
            spoken = min(spoken, note.level if note is not None and heard else 0)
        return spoken

    def unneeded_below(self) -> int:
        """Return the revision up to which no voter will ever need the ledger's rows again; 0: one
        may need all.
        """
        heard: list[VoterProgress | None] = []
        for peer in self._log.status().peers:
            if peer.voter:
                note = self._note_of(peer)
                heard.append(None if note is None else VoterProgress(note.settled, note.synced))
        return unneeded(heard)
