"""Plant bugs that a programmer could have made: a check left out, an order swapped, a bound off by
one.

Each function replaces one function of the product before the node is put together. None touches a
file or a wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from backends.sqlite import SqliteStore
from coordinator.consensus import Coordinator
from coordinator.logtime import LogTime, Reading
from coordinator.machine import evaluate as evaluation
from coordinator.machine.window import Known, Window
from coordinator.rules import Rules
from kv.model import Again, Answer, AtRevision, Recorded, Version
from kv.ports import Change, Read
from node.reads import reads as reading
from node.reads.memory import Memory
from node.reads.reads import ReadRequest, Reads
from node.watching import ring as watching
from node.watching.ring import Portion, Ring, Views
from node.watching.watches import Watches

BUGS: Final[dict[str, Callable[[], None]]] = {}


def bug(plant: Callable[[], None]) -> Callable[[], None]:
    """Enter a bug under its name."""
    BUGS[plant.__name__.replace("_", "-")] = plant
    return plant


def _with(**rules: Any) -> None:
    """Take away rules of the protocol."""
    defaults = Coordinator.__init__.__kwdefaults__
    assert defaults is not None
    defaults["rules"] = Rules(**rules)


def _confirmed() -> asyncio.Future[str | None]:
    future: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future


# --------------------------------------------------------------------------------------------- time


@bug
def log_time_takes_the_wall_clock() -> None:
    """A leader takes its own wall clock whole whenever it is ahead, also while it keeps the
    time.
    """
    right = LogTime.lead

    def lead(self: LogTime, readings: Sequence[Reading], voters: int, *moments: Any) -> int:
        jump_ms = right(self, readings, voters, *moments)
        for own in readings:
            if self.kept and own.age_s == 0.0:
                self.raise_to(own.wall_ms, moments[1])
        return jump_ms

    LogTime.lead = lead  # type: ignore[method-assign, assignment]


# ------------------------------------------------------------------------------------------ reading


@bug
def reads_without_a_round() -> None:
    """A linearizable read asks no quorum: what this node knows is taken for the newest."""
    Reads.confirm = lambda self: _confirmed()  # type: ignore[method-assign]


@bug
def leader_trusts_itself() -> None:
    """A leader asks nobody whether it still leads."""
    asked = Reads.confirm

    def confirm(self: Reads) -> asyncio.Future[str | None]:
        return _confirmed() if self._consensus.status().role == "leader" else asked(self)

    Reads.confirm = confirm  # type: ignore[method-assign]


@bug
def late_reads_join_a_round() -> None:
    """A read shares the round that is already under way when it arrives."""
    joined = Reads._join_round

    def join(self: Reads) -> asyncio.Future[str | None]:
        under_way: asyncio.Future[str | None] | None = getattr(self, "_under_way", None)
        if under_way is None or under_way.done():
            under_way = joined(self)
            self._under_way = under_way  # type: ignore[attr-defined]
        return under_way

    Reads._join_round = join  # type: ignore[method-assign]


@bug
def no_quorum_reads_memory() -> None:
    """Without a quorum a read is answered from memory instead of from the store."""
    right = Reads.linearizable

    async def linearizable(self: Reads, key: bytes, deadline: float) -> reading.Reading:
        if (
            await self.confirm() is not None
            and (held := self._judged(key, "linearizable")) is not None
        ):
            return held
        return await right(self, key, deadline)

    Reads.linearizable = linearizable  # type: ignore[method-assign]


@bug
def judge_off_by_one() -> None:
    """A cached entry is good although the key was touched at the very next revision."""
    vars(reading)["entry_holds"] = lambda entry, touched: touched <= entry.as_of + 1


@bug
def touch_at_settle() -> None:
    """A key counts as touched when its write settles, not when it is ordered."""
    _with(touch="settle")


@bug
def as_of_ordered() -> None:
    """What was read from the store is dated by what is ordered, not by what the store held."""
    right = Reads.snapshot

    async def snapshot(self: Reads, keys: Sequence[bytes], **more: Any) -> Read:
        read = await right(self, keys, **more)
        head = msgspec.structs.replace(read.head, last=max(read.head.last, self._consensus.ordered))
        return msgspec.structs.replace(read, head=head)

    Reads.snapshot = snapshot  # type: ignore[method-assign]


@bug
def session_position_ignored() -> None:
    """A session's read does not wait for what the session has seen."""
    right = Reads.get

    async def get(self: Reads, key: bytes, ask: ReadRequest, *, deadline: float) -> reading.Reading:
        return await right(self, key, ask._replace(min_revision=0), deadline=deadline)

    Reads.get = get  # type: ignore[method-assign]


@bug
def stale_age_from_now() -> None:
    """A stale read takes what is at hand for as young as the newest round, whether or not
    it holds.
    """
    right = vars(reading)["age_s"]
    vars(reading)["age_s"] = lambda now, holds, confirmed_at, proved_at: right(
        now, True, now, proved_at
    )


@bug
def snapshot_in_two_reads() -> None:
    """Many keys are read in two transactions of the store instead of one."""
    right = SqliteStore.read

    async def read(self: SqliteStore, keys: Sequence[bytes], **more: Any) -> Read:
        if len(keys) < 2:
            return await right(self, keys, **more)
        half = len(keys) // 2
        first = await right(self, keys[:half], **more)
        rest = await right(self, keys[half:], **more)
        return msgspec.structs.replace(first, versions=first.versions + rest.versions)

    SqliteStore.read = read  # type: ignore[method-assign]


@bug
def first_version_of_a_group_kept() -> None:
    """Of two versions that a group makes of a key, the cache keeps the first."""
    right = Memory.settled

    def settled(self: Memory, event: Any, proved_at: float | None) -> Any:
        if event.versions is not None:
            event = msgspec.structs.replace(event, versions=tuple(reversed(event.versions)))
        return right(self, event, proved_at)

    Memory.settled = settled  # type: ignore[method-assign]


# ------------------------------------------------------------------------------------------ writing


@bug
def op_id_forgotten() -> None:
    """A repeated op_id is a new operation."""
    _with(dedupe=False, store_dedupe=False)


@bug
def repeated_op_id_off_by_one() -> None:
    """A repeated op_id is told the revision after its own."""

    def meet(self: Window, known: Known, body_hash: bytes) -> Answer:
        return Answer(known.revision + 1, Again(known.revision + 1, known.outcome))

    Window.meet = meet  # type: ignore[method-assign]


@bug
def revision_guard_blind_in_group() -> None:
    """A guard on a revision looks at the store, not at what the group did before."""
    right = evaluation._Group._holds

    def holds(self: Any, guard: Any) -> bool:
        if type(guard) is AtRevision:
            found = self._facts.versions.get(guard.key)
            return (
                found is not None and found.value is not None and found.revision in guard.revisions
            )
        return right(self, guard)

    evaluation._Group._holds = holds  # type: ignore[method-assign]


@bug
def value_guard_blind_in_group() -> None:
    """A guard on a value looks at the store, not at what the group did before."""

    def hashed(self: Any, key: bytes) -> bytes | None:
        found: bytes | None = self._facts.hashes.get(key)
        return found

    evaluation._Group._hash = hashed  # type: ignore[method-assign]


@bug
def absent_blind_to_tombstones() -> None:
    """A deleted key does not count as absent: its tombstone has a revision."""

    def revision(self: Any, key: bytes) -> int:
        version: Version | None = self._own.get(key) or self._facts.versions.get(key)
        return version.revision if version is not None else 0

    evaluation._Group._revision = revision  # type: ignore[method-assign]


@bug
def transaction_loses_its_last_write() -> None:
    """Of several writes of a transaction the last one is not made: a bound off by one."""
    right = evaluation._Group._write

    def write(self: Any, writes: Sequence[Any], pending: Any) -> tuple[bytes, ...]:
        return right(self, writes[:-1] if 1 < len(writes) < 4 else writes, pending)

    evaluation._Group._write = write  # type: ignore[method-assign]


@bug
def delete_of_nothing_counts() -> None:
    """A delete of an absent key says that there was one."""

    def write(self: Any, writes: Sequence[Any], pending: Any) -> tuple[bytes, ...]:
        keys = tuple(w.key for w in writes)
        before = len(self.versions)
        evaluation.made(writes, keys, pending.revision, pending.ordered_ms, self.versions)
        for version in self.versions[before:]:
            self._own[version.key] = version
        return keys

    evaluation._Group._write = write  # type: ignore[method-assign]


@bug
def answer_before_commit() -> None:
    """Clients hear of an outcome before the COMMIT that makes it true."""
    _with(answer_committed=False)


@bug
def answer_revision_off_by_one() -> None:
    """An answer carries the revision after its own, for all but the first of a group."""
    right = Coordinator.committed

    def committed(self: Coordinator, first: int, records: Sequence[Recorded]) -> None:
        right(self, first, records[:1])
        right(self, first + 2, records[1:])

    Coordinator.committed = committed  # type: ignore[method-assign]


# ----------------------------------------------------------------------------------------- watching


@bug
def watch_resumes_one_late() -> None:
    """A watch goes on one revision behind the position that it is given."""
    right = Watches.open

    def late(self: Watches, prefix: bytes, after: int | None) -> Any:
        return right(self, prefix, None if after is None else after + 1)

    Watches.open = late  # type: ignore[method-assign]


@bug
def watch_forgets_deletes() -> None:
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

    watching.under = under


@bug
def watch_splits_a_transaction() -> None:
    """Of a revision that changed several keys, the last is not told."""
    right = watching.under

    def under(change: Change, prefix: bytes) -> Change | None:
        found = right(change, prefix)
        if found is None or len(found.versions) < 2:
            return found
        return Change(found.revision, found.op_id, found.log_time_ms, found.versions[:-1])

    watching.under = under


@bug
def watch_position_ordered() -> None:
    """A watcher without news moves on to what is ordered, past what will settle there."""
    right = Watches.at_hand

    def at_hand(self: Watches, watcher: Any) -> Portion | None:
        portion = right(self, watcher)
        if portion is None or portion.changes:
            return portion
        return Portion((), max(portion.position, self.fills._consensus.ordered))

    Watches.at_hand = at_hand  # type: ignore[method-assign]


@bug
def watch_takes_a_change_for_nobodys() -> None:
    """Of each seven groups, one wakes who watches its keys, but is taken for a change that lies
    under no prefix.
    """
    right = Views.touch

    def touch(self: Views[Any], event: Any, *, continues: bool) -> list[Any]:
        found = right(self, event, continues=continues)
        for view in found if event.last % 7 == 0 else ():
            view.touched = min(view.touched, event.previous)
        return found

    Views.touch = touch  # type: ignore[method-assign]


@bug
def ring_loses_its_oldest() -> None:
    """A watcher behind the ring is served from it all the same: a comparison left out."""
    right = Ring._append

    def append(self: Ring, event: Any) -> None:
        right(self, event)
        while len(self._changes) > 20:
            self._changes.popleft()

    Ring._append = append  # type: ignore[method-assign]
