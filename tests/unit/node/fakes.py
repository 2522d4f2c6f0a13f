"""Stand in for the coordinator: order, evaluate and commit at once to a MemoryDatabase, with faults
on demand.

One process, no Raft. What it settles goes through the same ledger rows as the real one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from backends.fence import bounds_of
from backends.memory.database import MemoryDatabase
from coordinator.machine.comparing import stands
from kv.branches import within
from kv.errors import BadRequest, NotApplied, OutcomeUnknown, Pruned
from kv.leases import NO_LEASE, lease_key, ttl_of
from kv.model import (
    Absent,
    Again,
    Answer,
    Applied,
    AtRevision,
    Cancel,
    Compare,
    Delete,
    DeleteRange,
    EndLease,
    Equals,
    Exists,
    Expired,
    Group,
    Guard,
    Head,
    Intent,
    LedgerRow,
    Mismatch,
    Outcome,
    Put,
    PutWith,
    Recorded,
    RecordedOperation,
    Reference,
    Refused,
    Version,
    Write,
    roll,
    value_hash,
)
from kv.ports import Appended, LeaseTime, Listener, Member, Settled, Space, Status, UndoneRange
from tests.contract.groups import numbered


class FakeClock:
    """The loop's own time, and a wall clock that stands at a fixed distance from it."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def wall_ms(self) -> int:
        return 1_700_000_000_000 + int(self.monotonic() * 1000)


class FakeConsensus:
    """The Consensus port in one process. Public fields may be set by tests to make it misbehave."""

    def __init__(
        self, database: MemoryDatabase, *, node: str = "n1", url: str = "http://n1.example:8001"
    ) -> None:
        self.database, self.node, self.url = database, node, url
        self.no_leader: str | None = None
        """Reason with which submits and ReadIndex are refused."""
        self.moves = 0
        """How many more submits meet a leader that gives way."""
        self.hides = False
        """What is against a write is known only once it is submitted."""
        self.shown: dict[str, object] = {}
        """Fields of the status that are shown instead of the true ones."""
        self.leader: tuple[str, str] | None = None
        """Who leads, and its URL, if it is another node."""
        self.hold = False
        """Take intents and keep them: they are ordered, and nobody hears of them."""
        self.lose = False
        """Fail futures as OutcomeUnknown after the intent took effect."""
        self.hang = False
        """ReadIndex never ends within its time-out."""
        self.quiet = False
        """Do not tell listeners of what settles (a machine that lags)."""
        self.without_versions = False
        self.refusal: str | None = None
        self.namespace = 0
        self.undone = UndoneRange()
        self.terms: dict[int, int] = {}
        """Of the rows that gave revisions."""
        self.pruned_window: set[str] = set()
        """Op_ids that the machine's window has forgotten."""
        self.read_indexes = 0
        self.renewed: list[int] = []
        """The leases that were kept alive."""
        self.compacts = False
        """History can be given up on demand, as where each member has its own store."""
        self.ending: dict[int, int] = {}
        """Leases whose end is ordered, and how many questions see it so."""
        self.submits: list[tuple[Intent | Cancel, ...]] = []
        self.held: list[tuple[Intent | Cancel, asyncio.Future[Answer]]] = []
        self.broadcast_lag = 0
        self.transfers: list[str | None] = []
        self.members: list[Member] = []
        self._listeners: list[Listener] = []
        self._last: dict[bytes, int] = {}
        self.floor = 0
        head = database.head()
        self.ordered = head.last
        self._settled = head
        self._answers: dict[str, Answer] = {}
        self._pending: set[str] = set()
        self._moved = asyncio.Event()
        self.now_offset_ms = 1_700_000_000_000

    @property
    def space(self) -> Space | None:
        return Space(self.namespace)

    # -- the port
    # ----------------------------------------------------------------------------------------------

    def submit(self, intents: Sequence[Intent | Cancel]) -> list[asyncio.Future[Answer]]:
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Answer]] = [loop.create_future() for _ in intents]
        self.submits.append(tuple(intents))
        if self.moves or self.no_leader is not None:
            reason = "not_leader" if self.moves else self.no_leader or ""
            self.moves = max(0, self.moves - 1)
            for future in futures:
                future.set_exception(NotApplied(reason))
                future.exception()
            return futures
        if self.hold:
            for intent, future in zip(intents, futures, strict=True):
                self.order(intent)
                self._pending.add(intent.op_id)
                self.held.append((intent, future))
            return futures
        loop.call_soon(self.commit, list(zip(intents, futures, strict=True)))
        return futures

    def refuses(self, intents: Sequence[Intent | Cancel]) -> NotApplied | None:
        return None if self.no_leader is None or self.hides else NotApplied(self.no_leader)

    async def read_index(self, *, timeout_s: float) -> None:
        self.read_indexes += 1
        if self.hang:
            await asyncio.sleep(timeout_s)
            raise NotApplied("no_quorum")
        await asyncio.sleep(0)
        if self.no_leader is not None:
            raise NotApplied(self.no_leader)

    async def lease_time(self, lease: int, *, renew: bool, timeout_s: float) -> LeaseTime | None:
        await self.read_index(timeout_s=timeout_s)
        if self.ending.get(lease):
            self.ending[lease] -= 1
            raise NotApplied("lease_ending", "it is about to end")
        version = self._newest(lease_key(lease), {})
        if version is None or not isinstance(version.value, bytes):
            return None
        self.renewed += [lease] if renew else []
        return LeaseTime(ttl_of(version.value), ttl_of(version.value))

    @property
    def settled(self) -> Head:
        return self._settled

    def term_of(self, revision: int) -> int:
        return self.terms.get(revision, 0)

    def holds_to(self, revision: int, term: int) -> int:
        known = self.term_of(revision)
        return revision - 1 if term and known and known != term else revision

    def touched(self, key: bytes) -> int:
        return max(self._last.get(key, 0), self.floor)

    operation_retention_ms = 86_400_000

    def now_ms(self) -> int:
        return self._log_time_ms()

    def _log_time_ms(self) -> int:
        return self.now_offset_ms + int(asyncio.get_running_loop().time() * 1000)

    def recorded(self, op_id: str) -> Answer | Literal["pending"] | None:
        if op_id in self._pending:
            return "pending"
        return None if op_id in self.pruned_window else self._answers.get(op_id)

    async def wait_settled(self, revision: int, *, timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            while self._settled.last < revision:
                self._moved.clear()
                await self._moved.wait()

    def tell(self, settled: Settled) -> None:
        """Tell the listeners of something that did not happen."""
        for listener in list(self._listeners):
            listener(settled)

    def listen(self, listener: Listener) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    conflicts: tuple[str, ...] = ()

    @property
    def leads(self) -> bool:
        return self.no_leader is None

    def status(self) -> Status:
        leads = self.leads
        own = Member(
            self.node,
            self.url,
            "127.0.0.1:9001",
            True,
            "leader" if leads else "follower",
            1,
            self.ordered,
            self._settled.last,
            self._settled.digest.hex(),
            0,
            0.0,
        )
        status = Status(
            node=self.node,
            role="leader" if leads else "follower",
            term=1,
            leader=self.leader[0] if self.leader else self.node if leads else None,
            leader_url=self.leader[1] if self.leader else self.url if leads else None,
            leader_since_ms=1_700_000_000_000 if leads else None,
            quorum=leads,
            taken_over=leads,
            ordered=self.ordered,
            settled=self._settled.last,
            digest=self._settled.digest.hex(),
            pending=len(self.held),
            floor=self.floor,
            namespace=self.namespace,
            log_time_ms=self._log_time_ms(),
            refusal=self.refusal,
            fsync="always",
            members=(own, *self.members),
            broadcast_lag=self.broadcast_lag,
            conflicts=self.conflicts,
            counts={"groups_committed": len(self.submits)},
        )
        return msgspec.structs.replace(status, **self.shown)

    async def transfer(self, to: str | None, *, timeout_s: float) -> str:
        self.transfers.append(to)
        if to not in (None, self.node, *(m.id for m in self.members)):
            raise BadRequest("unknown_member", f"{to} is no member")
        return to or self.node

    async def add_member(
        self, member: str, raft_address: str, url: str, *, voter: bool, timeout_s: float
    ) -> str:
        if member == self.node:
            raise BadRequest("unsafe", f"{member} is a member already")
        if any(m.id == member and m.voter for m in self.members):
            return f"{member} is a voter already: there was nothing to do"
        self.members = [m for m in self.members if m.id != member]
        self.members.append(
            Member(member, url, raft_address, voter, "follower" if voter else "observer")
        )
        return ""

    async def remove_member(self, member: str, *, timeout_s: float) -> str:
        if all(m.id != member for m in self.members):
            raise BadRequest("unknown_member", f"{member} is no member")
        self.members = [m for m in self.members if m.id != member]
        return ""

    async def amend(self, *, timeout_s: float) -> tuple[str, ...]:
        return ("window_ms",)

    async def compact(self, revision: int, *, timeout_s: float) -> bool:
        if not self.compacts:
            return False
        if revision <= self.database.floor():
            raise Pruned(self.database.floor())
        self.database._floor = revision
        return True

    async def adopt(self, *, gives_up: int | None = None, timeout_s: float) -> int:
        self.refusal = None
        self.namespace += 1
        return self._settled.last

    # -- the inside
    # ----------------------------------------------------------------------------------------------

    def order(self, intent: Intent | Cancel) -> int:
        """Give the next revision and note what it touches."""
        self.ordered += 1
        for key in intent.touched:
            self._last[key] = self.ordered
        return self.ordered

    def commit_held(self) -> None:
        """Let what was held take effect."""
        held, self.held = self.held, []
        self.commit(held)

    def commit(self, batch: list[tuple[Intent | Cancel, asyncio.Future[Answer]]]) -> None:
        """Evaluate intents, append one ledger row, settle, answer."""
        head = self.database.head()
        self.ordered = head.last  # what was held and overtaken is lost, as with a dead leader
        now = self.now_ms()
        records: list[Recorded] = []
        versions: dict[bytes, Version] = {}
        made: list[Version] = []
        operations: list[RecordedOperation] = []
        answers: list[Answer] = []
        digest = head.digest
        for intent, _ in batch:
            revision = self.order(intent)
            digest = roll(digest, intent.op_id, intent.body_hash)
            outcome = self._evaluate(intent, versions, operations, now)
            keys: tuple[bytes, ...] = ()
            if isinstance(outcome, Applied) and isinstance(intent, Intent):
                writes = intent.writes if outcome.branch == "then" else intent.otherwise or ()
                for write in self._expanded(writes, versions):
                    if isinstance(write, EndLease):
                        keys = (*self.database.attached(write.lease, 100), write.key)
                        made += [Version(key, revision, None) for key in keys]
                        continue
                    assert isinstance(write, Put | PutWith | Delete)
                    version = self._version(write, revision, versions, now)
                    if version is not None:
                        versions[write.key] = version
                        made.append(version)
                        keys = (*keys, write.key)
            if isinstance(outcome, Applied | Refused | Expired) and not intent.op_id.startswith(
                "~"
            ):
                operations.append(
                    RecordedOperation(intent.op_id, intent.body_hash, revision, outcome, now)
                )
            records.append(Recorded(intent.op_id, intent.body_hash, outcome, keys))
            answers.append(Answer(revision, outcome))
            self._pending.discard(intent.op_id)
            if isinstance(outcome, Applied | Refused | Expired):
                self._answers[intent.op_id] = answers[-1]
        row = LedgerRow(
            head.seq + 1,
            1,
            self.node,
            head.last + 1,
            head.last + len(batch),
            digest,
            now,
            tuple(records),
        )
        whole = Group(head, row, tuple(made), tuple(operations))
        appended = self.database.append(whole)
        assert isinstance(appended, Appended)
        if not self.quiet:
            self.settle(row, numbered(whole, appended))
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if self.lose:
                future.set_exception(OutcomeUnknown("the answer was lost"))
            else:
                future.set_result(answer)

    def settle(self, row: LedgerRow, versions: tuple[Version, ...] | None) -> None:
        previous, self._settled = self._settled.last, row.head
        self.ordered = max(self.ordered, row.last)
        event = Settled(
            previous,
            row.last,
            row.digest,
            row.body,
            None if self.without_versions else versions,
            row.log_time_ms,
        )
        for listener in list(self._listeners):
            listener(event)
        self._moved.set()

    def jump(self) -> None:
        """Settle at the store's head as after a snapshot: without records."""
        head = self.database.head()
        previous, self._settled = self._settled.last, head
        self.ordered = max(self.ordered, head.last)
        self.floor = max(self.floor, head.last)
        for listener in list(self._listeners):
            listener(Settled(previous, head.last, head.digest, (), None, self.now_ms()))
        self._moved.set()

    def _newest(self, key: bytes, versions: dict[bytes, Version]) -> Version | None:
        found = versions.get(key) or self.database.read((key,), None, 0).versions[0]
        return found if found is not None and found.present else None

    def _version(
        self, write: Put | PutWith | Delete, revision: int, versions: dict[bytes, Version], now: int
    ) -> Version | None:
        if isinstance(write, Delete):
            return Version(write.key, revision, None) if self._newest(write.key, versions) else None
        expires_ms = None if write.ttl_ms is None else now + write.ttl_ms
        lease = write.lease if isinstance(write, PutWith) else 0
        return Version(write.key, revision, write.value, expires_ms, lease=lease)

    def _evaluate(
        self,
        intent: Intent | Cancel,
        versions: dict[bytes, Version],
        operations: list[RecordedOperation],
        now: int,
    ) -> Outcome:
        known = next((o for o in operations if o.op_id == intent.op_id), None)
        known = known or self.database.operations((intent.op_id,))[0]
        if known is not None:
            # b"": it was cancelled
            if isinstance(intent, Cancel) or known.body_hash in (b"", intent.body_hash):
                return Again(known.revision, known.outcome)
            return Mismatch()
        if isinstance(intent, Cancel) or intent.deadline_ms < now:
            return Expired()
        seen = tuple(
            v.revision if (v := self._newest(key, versions)) else 0 for key in intent.reads
        )
        for place, guard in enumerate(intent.guards):
            version = self._newest(guard.key, versions)
            holds = _holds(guard, version)
            if isinstance(guard, Compare) and guard.end:
                there = self._within(guard.key, guard.end, versions)
                found = [self._newest(key, versions) for key in there]
                holds = all(stands(guard, each) for each in found or (None,))
            if not holds:
                if intent.otherwise is not None:
                    return Applied("otherwise", seen)
                return Refused(place, version.revision if version else 0, seen)
        for write in intent.writes:
            lease = write.lease if isinstance(write, PutWith) else 0
            if lease and self._newest(lease_key(lease), versions) is None:
                return Refused(-1, 0, seen, NO_LEASE)
        return Applied("then", seen)

    def _within(self, key: bytes, end: bytes, versions: dict[bytes, Version]) -> list[bytes]:
        """Return the present keys of a range."""
        listing = self.database.list(bounds_of(key, end), 10_000, None, 0, keys_only=True)
        keys = {each.key for each in listing.versions} | set(versions)
        return [
            each for each in sorted(keys) if within(each, key, end) and self._newest(each, versions)
        ]

    def _expanded(self, writes: Sequence[Write], versions: dict[bytes, Version]) -> list[Write]:
        """Return the writes with a delete for each key of a range."""
        found: list[Write] = []
        for write in writes:
            if isinstance(write, DeleteRange):
                found += [Delete(key) for key in self._within(write.key, write.end, versions)]
            else:
                found.append(write)
        return found


def _holds(guard: Guard, version: Version | None) -> bool:
    match guard:
        case Absent():
            return version is None
        case Exists():
            return version is not None
        case AtRevision(revisions=revisions):
            return version is not None and version.revision in revisions
        case Compare():
            return stands(guard, version)
        case Equals(hash=wanted):
            if version is None or version.value is None:
                return False
            value = version.value
            return (value.hash if isinstance(value, Reference) else value_hash(value)) == wanted
