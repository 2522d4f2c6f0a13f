"""Break a node on purpose, as a programmer could: a check left out, an order swapped, a bound off
by one.

Each of these is to be seen from outside a real cluster (`python -m chaos teeth`). None touches a
file or a wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from backends.replicated.store import SqliteMemberStore
from coordinator import logtime
from coordinator.clients.waits import Waits
from coordinator.leases.deadlines import Deadlines, Granted
from coordinator.logtime import LogTime
from coordinator.machine import evaluate as evaluation
from coordinator.machine.window import Known, Window
from kv.model import Again, Answer, AtRevision, Delete, Recorded, Version
from kv.ports import Change, Read
from node.http.steps import Told
from node.reads import fetches as fetching
from node.reads import reads as reading
from node.reads.levels import Reading, ReadOptions
from node.reads.memory import MemoryTier
from node.reads.reads import Reads
from node.reads.rounds import ReadIndexRounds, tell
from node.reads.store_reads import StoreReads
from node.watching import ring as watching
from node.watching.ring import ChangeRing, Portion
from node.watching.views import Views
from node.watching.watches import Watches
from tests.planted import protocol
from tests.planted.registry import Patches, PlantedFault, fault

FAR_S: Final = 1e6
BUGS: Final[dict[str, PlantedFault]] = {}
"""By the names that `python -m tests.bugs` takes."""


def bug(promise: str) -> Callable[[Callable[[], Patches]], PlantedFault]:
    """Enter a fault of a node under its name, with dashes."""

    def enter(patches: Callable[[], Patches]) -> PlantedFault:
        name = patches.__name__.replace("_", "-")
        BUGS[name] = entered = fault(promise, name)(patches)
        return entered

    return enter


def _confirmed() -> Told[str | None]:
    told: Told[str | None] = Told()
    told.set_result(None)
    return told


# --------------------------------------------------------------------------------------------- time


@bug("Time")
def log_time_takes_the_wall_clock() -> Patches:
    """A leader takes its own wall clock whole whenever it is ahead, also while it keeps the
    time.
    """
    right = LogTime.lead

    def lead(
        self: LogTime, readings: Sequence[logtime.ClockReading], voters: int, *moments: Any
    ) -> int:
        jump_ms = right(self, readings, voters, *moments)
        for own in readings:
            if self.kept and own.age_s == 0.0:
                self.raise_to(own.wall_ms, moments[1])
        return jump_ms

    yield LogTime, "lead", lead


# ------------------------------------------------------------------------------------------ reading


@bug("INV-1")
def reads_without_a_round() -> Patches:
    """A linearizable read asks no quorum: what this node knows is taken for the newest."""
    yield ReadIndexRounds, "confirm", lambda self: _confirmed()


@bug("INV-1")
def leader_trusts_itself() -> Patches:
    """A leader asks nobody whether it still leads."""
    asked = ReadIndexRounds.confirm

    def confirm(self: ReadIndexRounds) -> Told[str | None]:
        return _confirmed() if self._consensus.status().role == "leader" else asked(self)

    yield ReadIndexRounds, "confirm", confirm


@bug("INV-1")
def late_reads_join_a_round() -> Patches:
    """A read shares the round that is already under way when it arrives."""

    async def run(self: ReadIndexRounds) -> None:
        try:
            while self._arrived:
                failed = await self._round()
                covered, self._arrived = self._arrived, []
                asyncio.get_running_loop().call_soon(tell, covered, failed)
        finally:
            self._under_way = False

    yield ReadIndexRounds, "_run", run


@bug("INV-1")
def no_quorum_reads_memory() -> Patches:
    """Without a quorum a read is answered from memory instead of from the store."""
    right = Reads.linearizable

    async def linearizable(self: Reads, key: bytes, deadline: float) -> Reading:
        if (
            await self.rounds.confirm() is not None
            and (held := self._judged(key, "linearizable")) is not None
        ):
            return held
        return await right(self, key, deadline)

    yield Reads, "linearizable", linearizable


@bug("INV-5")
def judge_off_by_one() -> Patches:
    """A cached entry is good although the key was touched at the very next revision."""
    for module in (reading, fetching):
        yield module, "entry_holds", lambda entry, touched: touched <= entry.as_of + 1


@bug("INV-5")
def touch_at_settle() -> Patches:
    """A key counts as touched when its write settles, not when it is ordered."""
    yield from protocol.touch.patches()


@bug("INV-5")
def as_of_ordered() -> Patches:
    """What was read from the store is dated by what is ordered, not by what the store held."""
    right = StoreReads.snapshot

    async def snapshot(self: StoreReads, keys: Sequence[bytes], **more: Any) -> Read:
        read = await right(self, keys, **more)
        head = msgspec.structs.replace(read.head, last=max(read.head.last, self._consensus.ordered))
        return msgspec.structs.replace(read, head=head)

    yield StoreReads, "snapshot", snapshot


@bug("INV-1")
def session_position_ignored() -> Patches:
    """A session's read does not wait for what the session has seen."""
    right = Reads.get

    async def get(self: Reads, key: bytes, asked: ReadOptions, *, deadline: float) -> Reading:
        return await right(self, key, asked._replace(min_revision=0), deadline=deadline)

    yield Reads, "get", get


@bug("INV-1")
def stale_age_from_now() -> Patches:
    """A stale read takes what is at hand for as young as the newest round, whether or not
    it holds.
    """
    right = vars(reading)["age_s"]

    def age_s(now: float, holds: bool, confirmed_at: Any, proved_at: Any) -> Any:
        return right(now, True, now, proved_at)

    for module in (reading, fetching):
        yield module, "age_s", age_s


@bug("INV-1")
def snapshot_in_two_reads() -> Patches:
    """Many keys are read in two transactions of the store instead of one."""
    yield SqliteMemberStore, "read", _in_two(vars(SqliteMemberStore)["read"])


def _in_two(right: Any) -> Any:
    async def read(self: Any, keys: Sequence[bytes], **more: Any) -> Read:
        half = len(keys) // 2
        rest: Read = await right(self, keys[half:], **more)
        first = (await right(self, keys[:half], **more)).versions if half else ()
        return msgspec.structs.replace(rest, versions=first + rest.versions)

    return read


@bug("INV-5")
def first_version_of_a_group_kept() -> Patches:
    """Of two versions that a group makes of a key, the cache keeps the first."""
    right = MemoryTier.settled

    def settled(self: MemoryTier, event: Any, proved_at: float | None) -> Any:
        if event.versions is not None:
            event = msgspec.structs.replace(event, versions=tuple(reversed(event.versions)))
        return right(self, event, proved_at)

    yield MemoryTier, "settled", settled


# ------------------------------------------------------------------------------------------ writing


@bug("INV-3")
def op_id_forgotten() -> Patches:
    """A repeated op_id is a new operation."""
    yield from protocol.dedupe.patches()
    yield from protocol.store_dedupe.patches()


@bug("INV-3")
def repeated_op_id_off_by_one() -> Patches:
    """A repeated op_id is told the revision after its own."""

    def meet(self: Window, known: Known, body_hash: bytes) -> Answer:
        return Answer(known.revision + 1, Again(known.revision + 1, known.outcome))

    yield Window, "meet", meet


@bug("INV-1")
def revision_guard_blind_in_group() -> Patches:
    """A guard on a revision looks at the store, not at what the group did before."""
    right = evaluation._Group._holds

    def holds(self: Any, guard: Any) -> bool:
        if type(guard) is AtRevision:
            found = self._facts.versions.get(guard.key)
            return (
                found is not None and found.value is not None and found.revision in guard.revisions
            )
        return right(self, guard)

    yield evaluation._Group, "_holds", holds


@bug("INV-1")
def value_guard_blind_in_group() -> Patches:
    """A guard on a value looks at the store, not at what the group did before."""

    def hashed(self: Any, key: bytes) -> bytes | None:
        found: bytes | None = self._facts.hashes.get(key)
        return found

    yield evaluation._Group, "_hash", hashed


@bug("INV-1")
def absent_blind_to_tombstones() -> Patches:
    """A deleted key does not count as absent: its tombstone has a revision."""

    def revision(self: Any, key: bytes) -> int:
        version: Version | None = self._own.get(key) or self._facts.versions.get(key)
        return version.revision if version is not None else 0

    yield evaluation._Group, "_revision", revision


@bug("INV-2")
def transaction_loses_its_last_write() -> Patches:
    """Of several writes of a transaction the last one is not made: a bound off by one."""
    right = evaluation._Group._write

    def write(self: Any, writes: Sequence[Any], pending: Any) -> tuple[bytes, ...]:
        return right(self, writes[:-1] if 1 < len(writes) < 4 else writes, pending)

    yield evaluation._Group, "_write", write


@bug("INV-1")
def delete_of_nothing_counts() -> Patches:
    """A delete of an absent key says that there was one."""

    def write(self: Any, writes: Sequence[Any], pending: Any) -> tuple[bytes, ...]:
        for each in writes:
            deleted = Version(each.key, pending.revision, None)
            version = deleted if type(each) is Delete else self._put(each, pending.revision)
            self._own[each.key] = version
            self.versions.append(version)
        return tuple(each.key for each in writes)

    yield evaluation._Group, "_write", write


@bug("INV-2")
def answer_before_commit() -> Patches:
    """Clients hear of an outcome before the COMMIT that makes it true."""
    yield from protocol.answer_committed.patches()


@bug("INV-1")
def answer_revision_off_by_one() -> Patches:
    """An answer carries the revision after its own, for all but the first of a group."""
    right = Waits.answer_records

    def answer_records(self: Waits, first: int, records: Sequence[Recorded]) -> None:
        right(self, first, records[:1])
        right(self, first + 2, records[1:])

    yield Waits, "answer_records", answer_records


# ----------------------------------------------------------------------------------------- watching


@bug("INV-6")
def watch_resumes_one_late() -> Patches:
    """A watch goes on one revision behind the position that it is given."""
    right = Watches.open

    def late(self: Watches, prefix: bytes, after: int | None) -> Any:
        return right(self, prefix, None if after is None else after + 1)

    yield Watches, "open", late


@bug("INV-6")
def watch_forgets_deletes() -> Patches:
    """A watch of a prefix is not told of deletes."""
    right = watching.under

    def under(change: Change, prefix: bytes) -> Change | None:
        found = right(change, prefix)
        if found is None:
            return None
        versions = tuple(v for v in found.versions if v.value is not None)
        return (
            Change(found.revision, found.op_id, found.log_time_ms, versions) if versions else None
        )

    yield watching, "under", under


@bug("INV-6")
def watch_splits_a_transaction() -> Patches:
    """Of a revision that changed several keys, the last is not told."""
    right = watching.under

    def under(change: Change, prefix: bytes) -> Change | None:
        found = right(change, prefix)
        if found is None or len(found.versions) < 2:
            return found
        return Change(found.revision, found.op_id, found.log_time_ms, found.versions[:-1])

    yield watching, "under", under


@bug("INV-6")
def watch_position_ordered() -> Patches:
    """A watcher without news moves on to what is ordered, past what will settle there."""
    right = Watches.at_hand

    def at_hand(self: Watches, watcher: Any) -> Portion | None:
        portion = right(self, watcher)
        if portion is None or portion.changes:
            return portion
        return Portion((), max(portion.position, self.gaps._consensus.ordered))

    yield Watches, "at_hand", at_hand


@bug("INV-6")
def watch_takes_a_change_for_nobodys() -> Patches:
    """Of each seven groups, one wakes who watches its keys, but is taken for a change that lies
    under no prefix.
    """
    right = Views.touch

    def touch(self: Views[Any], event: Any, *, continues: bool) -> list[Any]:
        found = right(self, event, continues=continues)
        for view in found if event.last % 7 == 0 else ():
            view.touched = min(view.touched, event.previous)
        return found

    yield Views, "touch", touch


@bug("INV-6")
def ring_loses_its_oldest() -> Patches:
    """A watcher behind the ring is served from it all the same: a comparison left out."""
    right = ChangeRing._append

    def append(self: ChangeRing, event: Any) -> None:
        right(self, event)
        while len(self._changes) > 20:
            self._changes.popleft()

    yield ChangeRing, "_append", append


@bug("Lease")
def new_leader_ends_leases() -> Patches:
    """A new leader takes the leases that it finds for old, and ends them at once."""
    right = Deadlines.keep_only

    def keep_only(self: Deadlines, leases: Mapping[int, Granted], now_s: float) -> None:
        right(self, leases, now_s - FAR_S)

    yield Deadlines, "keep_only", keep_only
