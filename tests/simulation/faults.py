"""Break the product on purpose, one protection at a time: what the simulation has to find by
itself.

Each fault stands for a mistake that somebody could make in that place. Nothing here checks
anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from pysyncobj.node import Node

from backends.fence import empty_row, outranks
from backends.seal import AS_OF_BYTES, MAC_BYTES, unseal
from coordinator import logtime
from coordinator.logtime import PATIENCE_S, LogTime, median
from coordinator.raft.core.rules.readindex import Rounds
from coordinator.raft.core.rules.replication import quorum_index
from coordinator.raft.core.state import CANDIDATE
from coordinator.raft.member import MemberCore
from coordinator.raft.net.peer_identity import Origin
from coordinator.rules import Rules
from kv.errors import KvError
from kv.model import Entry, Group, Reference
from kv.ports import Appended, Fenced, Outranked, Space, TakenOver
from node.judging.freshness import entry_holds
from node.judging.positions import check_given
from node.reads.reads import Reading, Reads
from tests.simulation.world import SimCache, SimDatabase

T = TypeVar("T")


# -------------------------------------------------------------------------------------------- store


class UnfencedDatabase(SimDatabase):
    """Check of a group only what `rules` ask for."""

    rules: Rules

    def append(self, group: Group) -> Appended | Fenced:
        head = self.head()
        if not self._lets(group):
            return Fenced(head)
        for version in group.versions:
            if (
                isinstance(version.value, Reference)
                and (version.value.op_id, version.value.hash) not in self._blobs
            ):
                return Fenced(head)
        self._rows.append(msgspec.structs.replace(group.row, seq=head.seq + 1))
        for version in sorted(group.versions, key=lambda version: version.revision):
            self._insert(version)
        for operation in group.operations:
            self._operations.setdefault(operation.op_id, operation)
        self.note(head.last, head.digest, group)
        return Appended()

    def _lets(self, group: Group) -> bool:
        rules, base, row, head = self.rules, group.base, group.row, self.head()
        if rules.fence and head.last != base.last:
            return False
        if rules.fence and rules.fence_digest and head.digest != base.digest:
            return False
        if rules.fence_row and head.seq != base.seq:
            return False
        return not (
            rules.fence_row and rules.fence_ordered and outranks(head, row.term, row.committer)
        )

    def take_over(
        self, term: int, committer: str, log_time_ms: int, adopt_last: int | None
    ) -> TakenOver | Outranked:
        head = self.head()
        if self.rules.fence_ordered and outranks(head, term, committer):
            return Outranked(head)
        row = empty_row(head, term, committer, log_time_ms, adopt_last)
        self._rows.append(row)
        self.rows_ever.append(row)
        return TakenOver(head, row.head)


def unfenced(away: Rules) -> type[SimDatabase]:
    """Return a store that keeps only these of the rules that are the store's."""
    return type("Unfenced", (UnfencedDatabase,), {"rules": away})


# -------------------------------------------------------------------------------------------- reads


class _Untouched:
    """A Consensus that never heard of any change of any key."""

    def __init__(self, consensus: Any) -> None:
        self._consensus = consensus

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consensus, name)

    def touched(self, key: bytes) -> int:
        return 0


class TrustingReads(Reads):
    """Serve whatever a cache has."""

    def __init__(self, consensus: Any, *args: Any) -> None:
        super().__init__(_Untouched(consensus), *args)


class BlindReads(Reads):
    """Read the store without a look at what it holds."""

    def check_refusal(self) -> None:
        return

    async def snapshot(
        self, keys: Any, *, at: int | None = None, settled: Any = None, timeout_s: float
    ) -> Any:
        settled = settled or self._consensus.settled
        async with asyncio.timeout(timeout_s):
            return await self._store.read(keys, at=at, settled=settled.last, timeout_s=timeout_s)


class HastyReads(Reads):
    """Call a position the future by what this node knows, without asking a quorum."""

    async def reach(self, revision: int, name: str, deadline: float) -> bool:
        check_given(revision, max(self._consensus.ordered, self._consensus.settled.last), name)
        return await super().reach(revision, name, deadline)


class _DatedReads(Reads):
    """Give what was read from the store another `as_of` than the head of its own snapshot."""

    def _as_of(self, start: int, head: int) -> int:
        raise NotImplementedError

    def _start(self) -> int:
        return 0

    async def _fetch_batch(self, batch: Any) -> list[Entry]:
        namespace, start = self._namespace, self._start()
        left = await self._from_cache(batch, namespace)
        if not left:
            return []
        keys = list(dict.fromkeys(waiting.key for waiting in left))
        began, settled = self._clock.monotonic(), self._consensus.settled
        try:
            read = await self.snapshot(
                keys, settled=settled, timeout_s=self._settings.store_timeout_s
            )
        except KvError as exc:
            for waiting in left:
                waiting.end(exc)
            return []
        as_of = self._as_of(start, read.head.last)
        entries = {
            key: Entry(key, version, as_of)
            for key, version in zip(keys, read.versions, strict=True)
        }
        for entry in entries.values():
            self.memory.keep(entry, began)
        position = max(settled.last, read.head.last)
        for waiting in left:
            waiting.end(
                Reading(entries[waiting.key].version, as_of, position, "linearizable", "store", 0.0)
            )
        return list(entries.values())


class Unsigned(SimCache):
    """Take whatever stands under our names for ours."""

    def taken(self, space: Space, key: bytes, raw: bytes) -> Entry | None:
        return msgspec.msgpack.decode(raw[AS_OF_BYTES + MAC_BYTES :], type=Entry)


class NamedAlike(Unsigned):
    """The same, of entries from later than what this node has ordered alone."""

    def taken(self, space: Space, key: bytes, raw: bytes) -> Entry | None:
        entry = super().taken(space, key, raw)
        return (
            entry
            if unseal(space, key, raw) is not None or (entry and entry.as_of > self.newest + 1)
            else None
        )


class BelievesFuture(Reads):
    """Judge what claims to be from later than all that this node knows."""

    def _may_serve(self, entry: Entry) -> bool:
        return entry_holds(entry, self._consensus.touched(entry.key))


class AppliedStart(_DatedReads):
    """Date it by what was ordered when the read began: the store need not have that yet."""

    def _start(self) -> int:
        return self._consensus.ordered

    def _as_of(self, start: int, head: int) -> int:
        return start


class SettledEnd(_DatedReads):
    """Date it by what is settled when the read has ended: more than the snapshot had."""

    def _as_of(self, start: int, head: int) -> int:
        return self._consensus.settled.last


# --------------------------------------------------------------------------------------------- Raft


class StockTruncation(MemberCore):
    """Cut everything behind the place before the sent entries, as the library does."""

    def _on_append_entries(self, node: Node, message: dict[str, Any]) -> None:
        previous = message["prevLogIdx"]
        current = message["term"] >= self._term and not self._installing and not self._disk_lost
        held = current and self._first_index <= previous < self._last_index
        if held and self._term_at(previous) == message["prevLogTerm"]:
            self._truncate(previous + 1)
        super()._on_append_entries(node, message)


class AckBeforeSync(MemberCore):
    """Acknowledge what has only been written."""

    def _acknowledge(self, node: Node) -> None:
        self._answer(node, self._verified + 1, success=True)

    def _on_append_entries(self, node: Node, message: dict[str, Any]) -> None:
        super()._on_append_entries(node, message)
        if message["entries"] and self._SyncObj__raftLeader == node and not self._installing:
            self._acknowledge(node)


class TwoVotes(MemberCore):
    """Forget whom the vote of this term was given to."""

    def _on_request_vote(self, node: Node, message: dict[str, Any]) -> None:
        if not self._leads:
            self._SyncObj__votedForNodeId = None
        super()._on_request_vote(node, message)


class AcksWithoutTerm(MemberCore):
    """Take every acknowledgement for one of this term."""

    def _on_next_node_idx(self, node: Node, message: dict[str, Any]) -> None:
        super()._on_next_node_idx(
            node, {**message, "term": min(message["term"], self._term) and self._term}
        )


class AnyLogWins(MemberCore):
    """Vote for candidates whose log is behind."""

    def _on_request_vote(self, node: Node, message: dict[str, Any]) -> None:
        super()._on_request_vote(
            node, {**message, "last_log_term": self._last_term, "last_log_index": self._last_index}
        )


class NoQuorum(MemberCore):
    """Confirm reads without asking anybody."""

    def tell_member(self, member: str, message: dict[str, Any]) -> bool:
        if message["type"] == "read_ping":
            pong = {"type": "read_pong", "term": message["term"], "round": message["round"]}
            self._handlers["read_pong"](self._nodes[member], pong)
            return True
        return super().tell_member(member, message)


class _LateRounds(Rounds[T]):
    """Let a read join the round that is under way."""

    def arrive(self, read: T) -> bool:
        if self._round is None:
            return super().arrive(read)
        self._serving = (*self._serving, read)
        return True


class LateJoiner(MemberCore):
    """Serve a read by a ReadIndex round that began before it arrived."""

    def handle(self, type: str, handler: Any) -> None:
        if type == "read_ping":
            handler.__self__._rounds = _LateRounds(first_id=handler.__self__._rounds._next_id)
        super().handle(type, handler)


class MinorityLeads(MemberCore):
    """Count a lost quorum as held, and commit without one."""

    def has_quorum(self, within_s: float) -> bool:
        return True

    def _maybe_commit(self) -> bool:
        index = self._SyncObj__raftLog.synced_index
        if index <= self._SyncObj__raftCommitIndex or self._term_at(index) != self._term:
            return False
        self._set_commit(index)
        return True


class LateVotes(MemberCore):
    """Stay a candidate while pre-votes of the next term are asked: a late vote is added to them."""

    def _stand(self, *, forced: bool) -> None:
        stood = self._SyncObj__raftState == CANDIDATE
        super()._stand(forced=forced)
        if stood and self._asking_pre is not None:
            self._SyncObj__raftState = CANDIDATE


class ForgetfulBase(MemberCore):
    """Take the base entry that a start writes for a sign that the disk was never lost."""

    def _use_journal(self, journal: Any) -> None:
        blank = len(journal) == 0 and journal.getCurrentTerm() == 0
        super()._use_journal(journal)
        self._blank = blank


class ForgetfulOrigin(MemberCore):
    """Tell nobody what the log began from, and of which members."""

    @property
    def origin(self) -> Origin:
        return Origin()


class HeardTerm(MemberCore):
    """Take a term that was heard for a sign that the disk was never lost."""

    def _use_journal(self, journal: Any) -> None:
        heard = journal.getCurrentTerm() > 0
        super()._use_journal(journal)
        self._blank = self._blank and not heard


# ------------------------------------------------------------------------------------------- clocks


class WallWhole(LogTime):
    """Take the leader's own wall clock whole, whenever it is ahead."""

    def lead(
        self,
        readings: Sequence[logtime.Reading],
        voters: int,
        waited_s: float,
        at_s: float,
        term: int,
    ) -> int:
        jump_ms = super().lead(readings, voters, waited_s, at_s, term)
        own = [reading.wall_now_ms for reading in readings if reading.age_s == 0.0]
        if self.kept and own:
            self.raise_to(own[0], at_s)
        return jump_ms


class JumpsToMedian(LogTime):
    """Do not slew: take the median of the wall clocks whenever it is ahead, though the time was
    kept.
    """

    def lead(
        self,
        readings: Sequence[logtime.Reading],
        voters: int,
        waited_s: float,
        at_s: float,
        term: int,
    ) -> int:
        jump_ms = super().lead(readings, voters, waited_s, at_s, term)
        walls = [reading.wall_now_ms for reading in readings if reading.voter]
        if self.kept and len(walls) > voters // 2:
            self.raise_to(median(walls), at_s)
        return jump_ms


class _Finds(LogTime):
    """Begin at something else than what was kept, or else the median."""

    heeds_kept = True

    def lead(
        self,
        readings: Sequence[logtime.Reading],
        voters: int,
        waited_s: float,
        at_s: float,
        term: int,
    ) -> int:
        if self.kept or (self.heeds_kept and logtime.newest_kept(readings) is not None):
            return super().lead(readings, voters, waited_s, at_s, term)
        walls = [reading.wall_now_ms for reading in readings if reading.voter]
        before_ms = self.now_ms(at_s)
        if len(walls) < voters and waited_s < PATIENCE_S:
            return 0
        self.kept, self.found_in = True, term
        self.raise_to(self._find(walls), at_s)
        return self.now_ms(at_s) - before_ms

    def _find(self, walls: list[int]) -> int:
        raise NotImplementedError


class Minimum(_Finds):
    """Take the least of the clocks: one that is behind keeps every key for ever."""

    def _find(self, walls: list[int]) -> int:
        return min(walls)


class Maximum(_Finds):
    """Take the greatest of the clocks: one that is ahead ends every key."""

    def _find(self, walls: list[int]) -> int:
        return max(walls)


class ClocksFirst(_Finds):
    """ReadRequest the clocks though somebody kept the time."""

    heeds_kept = False

    def _find(self, walls: list[int]) -> int:
        return median(walls)


class BelievesLog(LogTime):
    """Go on from the newest stamp of its log, as if nothing had passed since."""

    def stamp(self, stamp_ms: float, at_s: float) -> None:
        super().stamp(stamp_ms, at_s)
        self.kept = True


class CountsOldTerms(MemberCore):
    """Commit an entry of an older term as soon as a majority has it (figure 8 of the Raft
    paper).
    """

    def _maybe_commit(self) -> bool:
        durable = [self._SyncObj__raftMatchIndex.get(node, 0) for node in self._voters]
        index = quorum_index(
            [*durable, *([self._SyncObj__raftLog.synced_index] if self.votes else [])]
        )
        if index <= self._SyncObj__raftCommitIndex:
            return False
        self._set_commit(index)
        return True


class ConfirmsAnyTerm(MemberCore):
    """Confirm the reads of whoever asks, of whatever term it is."""

    def handle(self, type: str, handler: Any) -> None:
        def pong(node: Node, message: dict[str, Any]) -> None:
            if self.votes and not self.leads:
                self.tell(
                    node, {"type": "read_pong", "term": message["term"], "round": message["round"]}
                )

        super().handle(type, pong if type == "read_ping" else handler)


class KeepsWhatWasCutOff(MemberCore):
    """Go by a configuration whose entry was cut off."""

    def _truncate(self, index: int) -> None:
        held = list(self._history._held)
        super()._truncate(index)
        if len(held) > len(self._history._held):
            self._history._held[:] = held
            self._configure()


class AcksWithLostDisk(MemberCore):
    """Follow and acknowledge with a disk that was lost; votes it gives none."""

    def _follow(self, node: Node, message: dict[str, Any]) -> bool:
        if self._blank and message["joined"]:
            self._lose_disk()
        lost, self._disk_lost, blank, self._blank = self._disk_lost, False, self._blank, False
        try:
            return super()._follow(node, message)
        finally:
            self._disk_lost, self._blank = lost, blank


class ConfirmsWithLostDisk(MemberCore):
    """Confirm reads with a disk that was lost, and with it the term that was promised; else only of
    the very term.
    """

    def handle(self, type: str, handler: Any) -> None:
        def pong(node: Node, message: dict[str, Any]) -> None:
            if self._disk_lost:
                self.tell(
                    node, {"type": "read_pong", "term": message["term"], "round": message["round"]}
                )
            else:
                handler(node, message)

        super().handle(type, pong if type == "read_ping" else handler)
