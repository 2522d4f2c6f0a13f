"""Put real nodes on a simulated machine: disk, network, clock, store, cache and broker, all decided
by one seed.

A node is the product's own Member, Coordinator, Reads, Writes and Lookups. The world can crash it
at any await, cut its power, and start it again. It never reads real time and never draws chance
that does not come from the seed.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any, Final, Self, TypeVar

from backends.memory import Fails, Fate, Lands, Lost, MemoryDatabase, MemoryStore
from backends.seal import seal, unseal
from coordinator.consensus import Coordinator
from coordinator.log import Log, PeerAddress, Position, RaftStatus, Replica
from coordinator.logtime import LogTime
from coordinator.machine.commands import Rebase, Settle, decode
from coordinator.machine.limits import Limits
from coordinator.raft.core.state import MEMBERSHIP
from coordinator.raft.member import Member, MemberCore
from coordinator.raft.member import Settings as RaftSettings
from coordinator.raft.storage.journal import Journal
from coordinator.rules import PROTOCOL, Rules
from coordinator.settings import Settings as CoordinatorSettings
from kv.errors import BackendUnavailable, BadRequest, NotApplied, OutcomeUnknown
from kv.model import Entry, Group, LedgerRow, Version
from kv.ports import Appended, Change, Fenced, Outranked, Settled, Space, TakenOver
from node.reads.reads import Reads
from node.settings import ServerSettings
from node.writes.lookups import Lookups
from node.writes.writes import Writes
from tests.simulation.disk import SimDisk
from tests.simulation.loop import Process
from tests.simulation.network import Network, Wire
from tests.simulation.timekeeping import SWEEP_S, Timekeeper
from tests.soundness import broken

T = TypeVar("T")
EPOCH_S: Final = 1_700_000_000.0
"""Wall clock at the start of every world."""


class Violation(Exception):
    """A promise was broken. `name` begins with what was broken: INV-n, Raft, or Liveness."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(f"{name}: {detail}")
        self.name, self.detail = name, detail


@dataclass(frozen=True)
class Plan:
    """What a seed chose. A planted fault changes some of it."""

    seed: int
    nodes: int
    fsync: str
    ghosts: bool
    faults: tuple[str, ...]
    clients: int
    chaos_s: float
    compact_entries: int
    window_max: int
    recent_max: int
    group_max: int
    restores: bool
    """The store loses its newest rows once; then only what a restore leaves of the promises is
    checked.
    """
    hostile: bool = False
    """The shared cache may give any old entry at any time, not only now and then."""
    others: bool = False
    """Another cluster, or a forger, puts entries into the shared cache under the same names; one
    tries the store.
    """
    apart: bool = False
    """Members are set to different retentions and bounds."""
    memory_bytes: int = 1 << 20
    """Of each node's own cache: next to nothing sends every read to the shared one."""
    reads_apart: bool = False
    """What followers ask of the leader for a read does not wait behind log entries."""
    slow_orders: bool = False
    """What a committer orders may be held back on its way to the log, past the end of its
    leadership.
    """
    upgrades: bool = False
    """Members start in this version or the next one, as in a rolling upgrade that is not over."""
    segment_bytes: int = 16 << 20
    """Of the journal's segments: with small ones entries, cuts and hints lie in several files."""
    writes: float = 1.0
    """How much clients write, compared to the usual."""
    again: float = 1.0
    """How often a queue brings a write once more, compared to the usual."""

    @property
    def raft_keeps(self) -> bool:
        """Say whether Raft's own promises hold: not when it was told to lose what it had
        acknowledged.
        """
        return self.fsync == "always" or not LOSING & set(self.faults)

    @property
    def harmless(self) -> bool:
        """Say whether only cache and broker may fail: then no operation does (INV-7)."""
        return (
            not self.restores and not self.slow_orders and set(self.faults) <= {"cache", "broker"}
        )


LARGE_SEGMENT_BYTES: Final = 16 << 20
FAULTS: Final = (
    "crash", "power", "partition", "one_way", "slow", "loss", "store_slow", "store_down", "ambiguous", "cache",
    "broker", "clock", "disk", "transfer", "membership",
)  # fmt: skip
"""What a plan draws from. `slow_disk` is added to a third of the plans.

Not drawn alone: `amnesia` (a majority loses what it had acknowledged, without fsync).
"""
AIMED: Final = (
    "deaf_leader", "split_power", "rivals", "old_answers", "late_commit", "left_behind", "slow_successor",
    "comes_back", "long_outage", "late_order", "late_takeover", "lost_disk",
)  # fmt: skip
"""Drawn more rarely: each takes its time, and what it is aimed at."""
CLASSICS: Final = ("overtaken", "cut_off_change", "forgets_promise")
"""Drawn apart from those above, with `figure_8` where there are five voters."""
CLASSIC_PLANS: Final = 0.2
"""Share of the plans that are of one classic alone: other harm nearly always spoils its moment."""
FIVES: Final = ("late_ballot",)
"""Those that take five voters; drawn for these alone, and more often."""
CUTS: Final = frozenset({"partition", "one_way", *AIMED, *FIVES})
"""Those that cut links: a `stranger` is added to half of the plans without them."""
LOSING: Final = frozenset(
    {
        "power",
        "disk",
        "amnesia",
        "split_power",
        "late_commit",
        "left_behind",
        "comes_back",
        "slow_successor",
        "late_order",
        "lost_disk",
        "forgets_promise",
    }
)
"""Those that lose what was not synced: power cuts, and syncs that fail."""


def plan_of(seed: int) -> Plan:
    """Draw a plan. Every kind of fault comes up in a good part of the seeds."""
    plan, classic = _mixed(seed), random.Random(f"classic plan {seed}")
    if classic.random() >= CLASSIC_PLANS or plan.harmless:
        return plan
    kind = classic.choice((*CLASSICS, "figure_8"))
    return replace(
        plan,
        faults=(kind,),
        chaos_s=max(plan.chaos_s, 12.0) if kind == "forgets_promise" else plan.chaos_s,
        compact_entries=min(plan.compact_entries, 60),
        nodes=5 if kind == "figure_8" else 3,
        fsync="always",
        restores=False,
        ghosts=False,
        slow_orders=False,
        clients=6 if kind in {"figure_8", "cut_off_change"} else 16,
        writes=1.0 if kind in {"figure_8", "cut_off_change"} else 0.3,
        memory_bytes=1 << 20,
    )


def _mixed(seed: int) -> Plan:
    rng = random.Random(f"plan {seed}")
    faults = [fault for fault in FAULTS if rng.random() < 0.45]
    if not faults:
        faults = ["crash", "partition"]
    if rng.random() < 0.05:
        faults = ["cache", "broker"]
    restores = rng.random() < 0.06
    if restores:
        faults = [fault for fault in faults if fault not in {"membership", "store_down"}] or [
            "crash"
        ]
    fsync = rng.choices(("always", "interval", "off"), (0.7, 0.1, 0.2))[0]
    if fsync != "always" and rng.random() < 0.7 and not set(faults) <= {"cache", "broker"}:
        faults += [fault for fault in ("power", "amnesia") if fault not in faults]
    aimed, fives = random.Random(f"aimed {seed}"), random.Random(f"fives {seed}")
    nodes = rng.choices((3, 5, 1), (0.7, 0.25, 0.05))[0]
    if not set(faults) <= {"cache", "broker"}:
        faults += [fault for fault in AIMED if aimed.random() < 0.12]
        faults += [fault for fault in FIVES if nodes == 5 and fives.random() < 0.4]
        classic = random.Random(f"classics {seed}")
        faults += [fault for fault in CLASSICS if classic.random() < 0.15]
        faults += ["figure_8"] if nodes == 5 and classic.random() < 0.4 else []
        faults += ["slow_disk"] if random.Random(f"disks {seed}").random() < 0.3 else []
        if not CUTS & set(faults) and random.Random(f"strangers {seed}").random() < 0.5:
            faults.append("stranger")
    others = random.Random(f"others {seed}").random() < 0.3
    if others and not set(faults) <= {"cache", "broker"}:
        faults.append("rival_cluster")
    return Plan(
        seed=seed,
        nodes=nodes,
        fsync=fsync,
        ghosts=rng.random() < 0.4,
        faults=tuple(faults),
        clients=rng.randint(3, 6),
        chaos_s=rng.uniform(6.0, 14.0),
        compact_entries=rng.choice((25, 60, 100_000)),
        window_max=rng.choice((8, 64, 10_000)),
        recent_max=rng.choice((2, 3, 10_000)),
        group_max=rng.choice((1, 3, 512)),
        restores=restores,
        hostile=aimed.random() < 0.3,
        others=others,
        apart=fsync == "always" and random.Random(f"limits {seed}").random() < 0.3,
        memory_bytes=aimed.choice((1, 1 << 20)),
        slow_orders=aimed.random() < 0.2,
        reads_apart=random.Random(f"apart {seed}").random() < 0.3,
        segment_bytes=_segment_bytes(seed) if fsync == "always" else LARGE_SEGMENT_BYTES,
        upgrades=random.Random(f"upgrades {seed}").random() < 0.2,
        writes=aimed.choice((0.3, 1.0, 1.0)),
    )


def changed(plan: Plan, **to: Any) -> Plan:
    """Return a plan with other choices, and, if its logs are no longer synced, without what takes
    that.
    """
    made = replace(plan, **to)
    if made.fsync == "always":
        return made
    return replace(made, segment_bytes=LARGE_SEGMENT_BYTES, apart=bool(to.get("apart")))


def _segment_bytes(seed: int) -> int:
    """Small ones only where each is promised: else a power cut tears several at once, and the
    member is refused.
    """
    return random.Random(f"segments {seed}").choice((500, 5_000, LARGE_SEGMENT_BYTES))


@dataclass(frozen=True)
class Plant:
    """A fault planted in the product by a test (teeth)."""

    name: str = "none"
    rules: Rules = PROTOCOL
    core: type[MemberCore] = MemberCore
    database: type[SimDatabase] | None = None
    reads: type[Reads] = Reads
    cache: type[SimCache] | None = None
    journal: Callable[..., Any] | None = None
    time: type[LogTime] = LogTime
    raft: dict[str, Any] = field(default_factory=dict)


class SimClock:
    """One machine's clock; its wall time may jump."""

    def __init__(self) -> None:
        self.skew_s = 0.0

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def wall_ms(self) -> int:
        return self.right_ms() + int(self.skew_s * 1000)

    @staticmethod
    def right_ms() -> int:
        """Return what it would say were it right."""
        return int((EPOCH_S + asyncio.get_running_loop().time()) * 1000)


# -------------------------------------------------------------------------------------------- store


class SimDatabase(MemoryDatabase):
    """The shared store. It remembers all that ever landed, also what pruning or a restore took
    away.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self.landed: dict[int, LedgerRow] = {}
        """The row of each revision."""
        self.landed_s: dict[int, float] = {}
        """When it came there."""
        self.history: dict[bytes, list[Version]] = {}
        self.rows_ever: list[LedgerRow] = []

    def append(self, group: Group) -> Appended | Fenced:
        before = self.head()
        result = super().append(group)
        if isinstance(result, Appended):
            self.note(before.last, before.digest, group)
        return result

    def note(self, last: int, digest: bytes, group: Group) -> None:
        """Keep what landed; check that it continues what was there."""
        row = group.row
        if row.first != last + 1 or group.base.digest != digest:
            self._world.violate(
                "INV-6 (ledger)",
                f"row {row.first}..{row.last} lands on a ledger that ends at {last}",
            )
        now = asyncio.get_running_loop().time()
        for revision in range(row.first, row.last + 1):
            self.landed[revision] = row
            self.landed_s[revision] = now
        for version in group.versions:
            self.history.setdefault(version.key, []).append(version)
        self._world.times.landed(group)
        self.rows_ever.append(row)
        self._world.say("landed", first=row.first, last=row.last, term=row.term, by=row.committer)

    def take_over(
        self, term: int, committer: str, log_time_ms: int, adopt_last: int | None
    ) -> TakenOver | Outranked:
        result = super().take_over(term, committer, log_time_ms, adopt_last)
        if isinstance(result, TakenOver):
            self.rows_ever.append(self._rows[-1])
            self._world.say(
                "took over", seq=result.own.seq, last=result.own.last, term=term, by=committer
            )
        return result

    def newest(self, key: bytes, at: int) -> Version | None:
        """Return the newest version ≤ `at` that ever landed."""
        found = None
        for version in self.history.get(key, []):
            if version.revision <= at:
                found = version
        return found

    def restore(self, rows: int) -> None:
        self.lose_rows(rows)
        last = self.head().last
        self.landed = {revision: row for revision, row in self.landed.items() if revision <= last}
        self.history = {
            k: [v for v in versions if v.revision <= last] for k, versions in self.history.items()
        }


class StoreFaults:
    """How slow the store is, how it ends transactions, whether it is there."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.delay_s = (0.0002, 0.003)
        self.down = False
        self.far_s: dict[str, float] = {}
        """How much longer the way to the store takes for a node."""
        self.ambiguous = 0.0
        self.fails = 0.0
        self._losing: tuple[float | None, asyncio.Event] | None = None
        self.counts = {"ambiguous": 0, "late": 0, "down": 0}

    def heal(self) -> None:
        self.delay_s, self.down, self.ambiguous, self.fails = (0.0002, 0.003), False, 0.0, 0.0
        self._losing = None
        self.far_s.clear()

    def lose_next(self, lands_after_s: float | None) -> asyncio.Event:
        """Lose the answer to the next append, which lands only then (None: never); set once it is
        sent.
        """
        sent = asyncio.Event()
        self._losing = lands_after_s, sent
        return sent

    def lose_none(self) -> None:
        """Do not, after all."""
        self._losing = None

    async def before(self, session: str, call: str) -> None:
        await asyncio.sleep(self.rng.uniform(*self.delay_s) + self.far_s.get(session, 0.0))
        if self.down:
            self.counts["down"] += 1
            raise BackendUnavailable("store", "down")

    def fate(self, session: str, call: str) -> Fate:
        if call == "append" and self._losing is not None:
            (lands_after_s, sent), self._losing = self._losing, None
            sent.set()
            self.counts["ambiguous"] += 1
            self.counts["late"] += lands_after_s is not None
            return Lost(lands_after_s)
        if call in {"append", "take_over"} and self.rng.random() < self.ambiguous:
            self.counts["ambiguous"] += 1
            if self.rng.random() < 0.4:
                return Lost(None)
            self.counts["late"] += 1
            return Lost(self.rng.choice((0.0, 0.002, 0.05, 0.6)))
        if self.rng.random() < self.fails:
            return Fails()
        return Lands()

    async def after(self, session: str, call: str) -> None:
        await asyncio.sleep(self.rng.uniform(*self.delay_s))


class SimStore(MemoryStore):
    """One node's session, that says when its groups were made."""

    def __init__(self, world: World, session: str) -> None:
        super().__init__(world.database, faults=world.store_faults, session=session)
        self._times = world.times

    async def append(self, group: Group, *, timeout_s: float) -> Appended | Fenced:
        self._times.built(group)
        return await super().append(group, timeout_s=timeout_s)


class SimCache:
    """The worst shared cache there can be: any entry that was ever put may come back at any time
    (INV-5), and so may what another cluster, or a forger, has put under the very same names.
    """

    def __init__(self, rng: random.Random, *, others: bool = False) -> None:
        self.rng = rng
        self.others = others
        """Others put entries of their own into it."""
        self.hostile = False
        self.dead = False
        self.entries: dict[tuple[int, bytes], list[bytes]] = {}
        """By namespace and key, as a cache sees them."""
        self.hits = 0
        self.newest = 1
        """Newest `as_of` that was put: what others put is of about then."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return

    def healthy(self) -> bool:
        return not self.dead

    def taken(self, space: Space, key: bytes, raw: bytes) -> Entry | None:
        """Return what an adapter makes of the bytes under a name."""
        return unseal(space, key, raw)

    async def get(self, space: Space, keys: Sequence[bytes]) -> tuple[Entry | None, ...]:
        await asyncio.sleep(self.rng.uniform(0.0001, 0.002))
        return tuple(self._one(space, key) for key in keys)

    def _one(self, space: Space, key: bytes) -> Entry | None:
        held = self.entries.get((space.namespace, key))
        if self.dead or not held:
            return None
        if self.others and self.rng.random() < 0.3:
            return self.taken(space, key, self._of_another(space, key))
        self.hits += 1
        found = [self.taken(space, key, raw) for raw in held]
        if self.hostile:
            return self.rng.choice((*found, None))
        return max(
            (entry for entry in found if entry is not None),
            key=lambda entry: entry.as_of,
            default=None,
        )

    def _of_another(self, space: Space, key: bytes) -> bytes:
        as_of = self.newest + self.rng.choice((-1, 0, 0, 1, 1000))
        version = self.rng.choice((None, Version(key, max(1, as_of - 1), b"of another cluster")))
        return seal(
            Space(space.namespace, b"of another cluster".ljust(32)),
            Entry(key, version, max(1, as_of)),
        )

    async def put(self, space: Space, entries: Sequence[Entry]) -> None:
        await asyncio.sleep(self.rng.uniform(0.0001, 0.002))
        for entry in () if self.dead else entries:
            self.newest = max(self.newest, entry.as_of)
            held, raw = (
                self.entries.setdefault((space.namespace, entry.key), []),
                seal(space, entry),
            )
            if raw not in held:
                held.append(raw)
            del held[:-12]

    def wipe(self) -> None:
        self.entries.clear()


class SimBroker:
    """Remember what was published, in order; fail before, in the middle of, or after a batch."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.dead = False
        self.flaky = 0.0
        self.told: list[Change] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return

    def healthy(self) -> bool:
        return not self.dead

    async def publish(self, changes: Sequence[Change], *, timeout_s: float) -> None:
        await asyncio.sleep(self.rng.uniform(0.0002, 0.004))
        if self.dead:
            raise BackendUnavailable("broker", "down")
        if self.rng.random() < self.flaky:
            self.told += changes[: self.rng.randint(0, len(changes))]
            raise BackendUnavailable("broker", "not confirmed")
        self.told += changes


# -------------------------------------------------------------------------------------------- nodes


HELD_S: Final = 3.0
"""For so long an aimed harm may keep a Rebase from the log."""


class SlowOrders(Member):
    """A member on whose way to the log some of the committer's commands are held back."""

    world: World

    def propose(self, command: bytes) -> asyncio.Future[Position]:
        loop, kind = asyncio.get_running_loop(), type(decode(command))
        held_s = self.world.holds_rebases_s if kind is Rebase else None
        share = 1.0 if held_s is not None else {Rebase: 0.5, Settle: 0.02}.get(kind, 0.0)
        if self._chance.random() >= share:
            return super().propose(command)
        through: asyncio.Future[Position] = loop.create_future()
        ends_s = loop.time() + HELD_S

        def go_on() -> None:
            status = self.status()
            if held_s is None or status.leader not in {None, status.id} or loop.time() > ends_s:
                loop.call_later(held_s or 0.0, send)
            else:
                # until it hears that another leads: sent before, it is lost
                loop.call_later(0.005, go_on)

        def send() -> None:
            asyncio.ensure_future(super(SlowOrders, self).propose(command)).add_done_callback(told)

        def told(ended: asyncio.Future[Position]) -> None:
            if through.done():
                ended.cancelled() or ended.exception()
            elif ended.cancelled():
                through.cancel()
            elif (exc := ended.exception()) is not None:
                through.set_exception(exc)
            else:
                through.set_result(ended.result())

        loop.call_later(self._chance.uniform(0.1, 2.5) if held_s is None else 0.005, go_on)
        return through


class WatchedCoordinator(Coordinator):
    """The product's Coordinator, looked at from outside after every step of its log."""

    sim: SimNode

    def apply(self, position: Position, stamp_ms: int, command: bytes) -> None:
        world = self.sim.world
        super().apply(position, stamp_ms, command)
        world.applied(self.sim, position, command)
        if world.steps % 16 == 0:
            wrong = broken(self.machine)
            if wrong and world.plant.rules == PROTOCOL:
                world.violate("Machine", f"{self.node}: {'; '.join(wrong)}")

    def _look_at_clocks(self, raft: RaftStatus) -> None:
        knew = self.time.kept
        super()._look_at_clocks(raft)
        self.sim.world.times.looked(self.sim, knew=knew)

    def led(self, term: int) -> None:
        self.sim.world.led(self.sim, term)
        super().led(term)

    def deposed(self, term: int) -> None:
        self.sim.world.say("deposed", node=self.node, term=term)
        super().deposed(term)

    def reset(self) -> None:
        self.sim.world.say("reset", node=self.node)
        self.sim.world.counts["resets"] += 1
        super().reset()


class SimNode:
    """One node: a machine that outlives its processes."""

    def __init__(self, world: World, name: str, members: tuple[PeerAddress, ...]) -> None:
        self.world, self.name, self.members = world, name, members
        self.disk = SimDisk(world.rng_of(f"disk {name}"), directory=f"/{name}")
        self.clock = SimClock()
        self.process: Process | None = None
        self.gone: asyncio.Future[None] | None = None
        self.member: Member
        self.coordinator: WatchedCoordinator
        self.reads: Reads
        self.writes: Writes
        self.lookups: Lookups
        self.serving = False
        self.wanted = True
        """The supervisor starts it again when it ends."""
        self.lives = 0
        self._main: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None

    def _limits(self, life: int) -> Limits:
        """Return what this process is set to; with `apart` any may be set otherwise once the
        history is founded.
        """
        plan = self.world.plan
        given = Limits(
            plan.window_max, recent_max=plan.recent_max, retention_revisions=200, retention_ms=2_000
        )
        if not plan.apart or life == 1:
            return given
        rng = self.world.rng_of(f"limits {self.name} {life}")
        return Limits(
            rng.choice((given.window_max, 8, 64)),
            rng.choice((given.window_ms, 1_000)),
            rng.choice((given.recent_max, 2, 100)),
            rng.choice((0, 200)),
            2_000,
        )

    def entries(self) -> dict[int, tuple[int, bytes]]:
        """Return the live log: index -> (term, command). The base may stand for what was compacted:
        it is left out.
        """
        journal = self.member._journal
        return {index: (term, command) for command, index, term in journal[1:]}

    @property
    def up(self) -> bool:
        return self.process is not None and self.process.alive

    def start(self) -> None:
        """Start a process, unless one runs."""
        if self.up or not self.wanted or self.world.over:
            return
        self.lives += 1
        loop = asyncio.get_running_loop()
        process = self.process = Process(self.name)
        self.gone = loop.create_future()
        self._choose_version()
        self.world.say("starts", node=self.name, life=self.lives)
        self._main = loop.create_task(
            self._live(process, self.lives), context=process.context.copy()
        )

    def _choose_version(self) -> None:
        world, upgraded = self.world, self.world.network.upgraded
        if world.plan.upgrades:
            upgraded.pop(self.name, None)
            # neighbours differ, and each start changes one
            if (int(self.name[1:]) + self.lives) % 2:
                upgraded[self.name] = None
                world.counts["upgrades"] += 1

    async def _live(self, process: Process, life: int) -> None:
        failure: BaseException | None = None
        try:
            await self._serve(process, life)
        except asyncio.CancelledError:
            pass
        except BaseException as exc:  # noqa: BLE001 - sorted below
            failure = exc
        if process.alive:  # it ended by itself
            self._ended(process, failure)

    def fail(self, failure: Exception) -> None:
        """End as when a task of it raises; it starts again soon."""
        if self.process is not None and self.process.alive:
            self._ended(self.process, failure)

    def _ended(self, process: Process, failure: BaseException | None) -> None:
        causes = list(_leaves(failure))
        self.world.say(
            "ended", node=self.name, why=";".join(f"{type(c).__name__}({c})" for c in causes)
        )
        for cause in causes:
            # not: its disk fails
            refused = isinstance(cause, BadRequest) and not isinstance(cause.__cause__, OSError)
            if refused and self.world.plan.raft_keeps and self.name not in self.world.strangers:
                self.world.violate(
                    "Durability", f"{self.name} refuses to start after a crash: {cause}"
                )
            if not isinstance(cause, OSError | BadRequest | asyncio.CancelledError):
                self.world.violate("Crash", f"{self.name}: {cause!r}")
        self.crash(power=False)
        if self._again is not None:
            self._again.cancel()
        self._again = asyncio.get_running_loop().call_later(0.2, self.start)

    async def _serve(self, process: Process, life: int) -> None:
        world, plan, plant = self.world, self.world.plan, self.world.plant
        loop = asyncio.get_running_loop()
        died: asyncio.Future[None] = loop.create_future()

        def fatal(exc: BaseException) -> None:
            if not died.done():
                died.set_exception(exc)

        more: dict[str, Any] = {
            "journal": plant.journal or partial(Journal, segment_bytes_max=plan.segment_bytes),
        }

        slow = type("SlowOrders", (SlowOrders,), {"world": world})

        def log(replica: Replica) -> Log:
            self.member = (slow if plan.slow_orders else Member)(
                self.name,
                self.members,
                cluster="sim",
                replica=replica,
                disk=self.disk,
                transport=lambda node, kick, fatal: Wire(world.network, node, process),
                clock=self.clock,
                chance=world.rng_of(f"raft {self.name} {life}"),
                on_fatal=fatal,
                settings=RaftSettings(
                    fsync=plan.fsync,  # type: ignore[arg-type]
                    propose_timeout_s=3.0,
                    compact_entries=plan.compact_entries,
                    chunk_bytes=700,
                    batch_bytes=4000,
                    **plant.raft,
                ),
                core=plant.core,
                **more,
            )
            return self.member

        store = SimStore(world, self.name)
        async with AsyncExitStack() as stack:
            coordinator = WatchedCoordinator(
                node=self.name,
                url=f"http://{self.name}",
                cluster="sim",
                log=log,
                store=store,
                broadcast=world.broker,
                clock=self.clock,
                chance=world.rng_of(f"coordinator {self.name} {life}"),
                settings=CoordinatorSettings(
                    limits=self._limits(life),
                    group_intents_max=plan.group_max,
                    store_timeout_s=0.8,
                    propose_timeout_s=2.0,
                    sweep_interval_s=SWEEP_S,
                    prune_interval_s=2.0,
                    refused_check_s=0.3,
                ),
                rules=plant.rules,
            )
            coordinator.sim = self
            coordinator.time = plant.time(self.clock.monotonic())
            self.coordinator = coordinator
            await stack.enter_async_context(coordinator)
            self._watch_log()
            settings = ServerSettings(
                node_id=self.name,
                advertised_url=f"http://{self.name}",
                incarnation=f"{life}",
                store_timeout_s=0.8,
                read_index_timeout_s=0.5,
                memory_cache_bytes=plan.memory_bytes,
            )
            feed = _Feed(self)
            stack.callback(coordinator.listen(feed))
            self.reads = plant.reads(coordinator, store, world.cache, self.clock, settings)
            await stack.enter_async_context(self.reads)
            self.writes = Writes(coordinator, store, self.clock, settings)
            self.lookups = Lookups(
                coordinator, store, self.clock, settings, reads=self.reads, writes=self.writes
            )
            self.serving = True
            world.say("serves", node=self.name)
            try:
                await died
            finally:
                self.serving = False  # the door is shut before the rooms close, as a node does it

    def _watch_log(self) -> None:
        journal = self.member._journal
        cut = journal.deleteEntriesFrom

        def watched(position: int) -> None:
            self.world.cutting(self, journal[position:])
            cut(position)

        journal.deleteEntriesFrom = watched
        core = self.member._core
        took = core._on_took_leadership

        def elected() -> None:
            self.world.elected(self, core._term)
            took()

        core._on_took_leadership = elected  # type: ignore[method-assign]

    def crash(self, *, power: bool) -> None:
        """End the process now, at whatever await each of its tasks stands."""
        process = self.process
        if process is None or not process.alive:
            if power:
                self.disk.power_cut()
            return
        self.serving = False
        self._count()
        process.alive = False
        self.world.network.down(self.name)
        if power:
            self.disk.power_cut()
        else:
            self.disk.crash()
        process.kill()
        if self.gone is not None and not self.gone.done():
            self.gone.set_result(None)
        self.world.say("power cut" if power else "crash", node=self.name)

    def _count(self) -> None:
        """Take over what the ending process counted."""
        counts = self.world.counts
        if hasattr(self, "member") and self.lives == getattr(self, "_counted", 0) + 1:
            self._counted = self.lives
            for name, number in self.member.counts.items() if hasattr(self.member, "_core") else ():
                counts[f"raft {name}"] = counts.get(f"raft {name}", 0) + number
            committer = self.coordinator.committer
            counts["rebases"] += committer.rebases
            counts["unknown commits"] += committer.unknown_commits
            counts["takeovers"] += committer.takeovers
            if hasattr(self, "reads"):
                for (level, source), number in self.reads.served.items():
                    if source != "store":
                        counts["cache hits"] += number
                    counts[f"reads {level}"] = counts.get(f"reads {level}", 0) + number
        self._counted = self.lives

    async def call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a request in the node's process; OutcomeUnknown when the process ends first.

        Raises NotApplied("refused") when nobody listens there.
        """
        process, gone = self.process, self.gone
        if process is None or gone is None or not process.alive or not self.serving:
            raise NotApplied("refused", f"{self.name} is down")
        task = asyncio.get_running_loop().create_task(make(), context=process.context.copy())
        waited: list[asyncio.Future[Any]] = [task, gone]
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if not task.done() or task.cancelled():
            raise OutcomeUnknown(f"{self.name} went away")
        return task.result()


class _Feed:
    """Watch what a node tells its watchers: exactly the ledger's rows, without gap or repeat
    (INV-6).
    """

    def __init__(self, node: SimNode) -> None:
        self._node = node
        self._last: int | None = None

    def __call__(self, settled: Settled) -> None:
        world = self._node.world
        if self._last is not None and settled.previous != self._last:
            world.violate(
                "INV-6 (watch)", f"{self._node.name} jumps from {self._last} to {settled.previous}"
            )
        self._last = settled.last
        world.counts["watched"] += len(settled.records)
        for revision, record in enumerate(settled.records, settled.previous + 1):
            known = world.settled_as.setdefault(revision, record.op_id)
            if known != record.op_id and (world.plan.raft_keeps or not world.plan.restores):
                # Else the store was taken back behind it, and a majority of the logs has lost it as
                # well: nobody knows.
                world.violate(
                    "INV-6 (revisions)", f"{revision} was {known}, and is {record.op_id} now"
                )
        if world.plan.restores:
            return
        for revision, record in enumerate(settled.records, settled.previous + 1):
            row = world.database.landed.get(revision)
            if row is None or row.body[revision - row.first] != record:
                world.violate(
                    "INV-6 (watch)",
                    f"{self._node.name} tells {record.op_id}@{revision}, not in the ledger",
                )
        for version in settled.versions or ():
            if world.database.newest(version.key, version.revision) != version:
                world.violate(
                    "INV-6 (watch)", f"{self._node.name} tells {version}, not in the store"
                )
        if settled.records and len(settled.records) != settled.last - settled.previous:
            world.violate(
                "INV-6 (watch)", f"{self._node.name} leaves out records up to {settled.last}"
            )


def _digest(command: bytes) -> bytes:
    return hashlib.blake2b(command, digest_size=8).digest()


def _leaves(failure: BaseException | None) -> Sequence[BaseException]:
    if failure is None:
        return ()
    if isinstance(failure, BaseExceptionGroup):
        return [leaf for each in failure.exceptions for leaf in _leaves(each)]
    return [failure]


# -------------------------------------------------------------------------------------------- world


class World:
    """Everything of one seed."""

    def __init__(self, plan: Plan, plant: Plant | None = None) -> None:
        self.plan, self.plant = plan, plant or Plant()
        self.trace: list[str] = []
        self.violations: list[Violation] = []
        self.failed: asyncio.Event | None = None
        """Set by the first violation, when the story is to end there."""
        self.counts: dict[str, int] = {
            "crashes": 0, "power cuts": 0, "partitions": 0, "membership changes": 0, "rebases": 0, "resets": 0,
            "unknown commits": 0, "takeovers": 0, "cache hits": 0, "elections": 0, "operations": 0, "unknown": 0,
            "disk faults": 0, "clock jumps": 0, "transfers": 0, "restores": 0, "store outages": 0, "log checks": 0,
            "expired keys": 0, "sessions": 0, "watched": 0, "redelivered": 0, "disks lost": 0, "slow disks": 0,
            "upgrades": 0, "times lost": 0, "lives judged": 0, "strangers": 0,
        }  # fmt: skip
        self.settled_as: dict[int, str] = {}
        """What each revision was told to be: no restore and no adoption gives one twice."""
        self.over = False
        self.bursts = 0
        self.holds_rebases_s: float | None = None
        """A Rebase is sent to the log only so long after it is heard that another leads (with
        `slow_orders`).
        """
        self.popular: SimNode | None = None
        """Where most clients read just now."""
        self.impatient: list[asyncio.Task[None]] = []
        """Writes whose outcome nobody looks at."""
        self.steps = 0
        self.network = Network(
            self.rng_of("network"), self.say, ghosts=plan.ghosts, reads_apart=plan.reads_apart
        )
        self.times = Timekeeper(self)
        self.database = (self.plant.database or SimDatabase)(self)
        self.store_faults = StoreFaults(self.rng_of("store"))
        self.cache = (self.plant.cache or SimCache)(self.rng_of("cache"), others=plan.others)
        self.cache.hostile = plan.hostile
        self.broker = SimBroker(self.rng_of("broker"))
        first = tuple(PeerAddress(f"n{i}", f"n{i}:1") for i in range(1, plan.nodes + 1))
        self.nodes: dict[str, SimNode] = {peer.id: SimNode(self, peer.id, first) for peer in first}
        self.newcomers = count(1)
        self.disks_lost: dict[str, None] = {}
        """Members whose disks were replaced by empty ones: they never count again, and have to be
        removed.
        """
        self.strangers: dict[str, None] = {}
        """Those that were told of other first members just now: they are to stop by themselves."""
        self._leaders: dict[int, str] = {}
        self._applied: dict[int, tuple[int, bytes]] = {}
        self._highest: dict[int, int] = {}
        """Term -> highest index applied anywhere of an entry of that term."""

    def rng_of(self, what: str) -> random.Random:
        return random.Random(f"{self.plan.seed} {what}")

    def say(self, event: str, **fields: Any) -> None:
        """Write one line of the trace."""
        text = " ".join(f"{name}={value}" for name, value in fields.items())
        self.trace.append(f"{asyncio.get_running_loop().time():10.6f} {event} {text}".rstrip())

    def violate(self, name: str, detail: str) -> None:
        self.say("VIOLATION", name=name, detail=detail)
        self.violations.append(Violation(name, detail))
        if self.failed is not None:
            self.failed.set()

    # ------------------------------------------------------------------------------ Raft's promises

    def applied(self, node: SimNode, position: Position, command: bytes) -> None:
        """State machine safety: every member applies the same entry at the same place."""
        self.steps += 1
        entry = (position.term, _digest(command))
        known = self._applied.setdefault(position.index, entry)
        if known != entry:
            if self.plan.raft_keeps:
                self.violate(
                    "Raft: state machine safety", f"{node.name} applies another entry at {position}"
                )
            self._applied[position.index] = entry
        self.check_configuration(node)
        if position.index > self._highest.get(position.term, 0):
            self._highest[position.term] = position.index

    def check_configuration(self, node: SimNode) -> None:
        """What is in force is the newest configuration that the log holds, if it is not a
        snapshot's or the first.
        """
        core, journal = node.member._core, node.member._journal
        index, first = core._history.newest_index, journal[0][1]
        if index <= first or len(core._history._held) == 1:
            return
        held = journal[index - first] if index - first < len(journal) else None
        if held is None or held[0][:1] != MEMBERSHIP:
            self.violate(
                "Raft: configuration in force",
                f"{node.name} goes by one of {index}, which its log has not",
            )

    def elected(self, node: SimNode, term: int) -> None:
        """Election safety: at most one leader in a term."""
        known = self._leaders.setdefault(term, node.name)
        if known != node.name and self.plan.raft_keeps:
            self.violate(
                "Raft: one leader per term", f"{known} and {node.name} are elected in term {term}"
            )

    def led(self, node: SimNode, term: int) -> None:
        self.say("leads", node=node.name, term=term)
        self.counts["elections"] += 1
        self.check_logs()
        if not self.plan.raft_keeps:
            return
        older = max((index for other, index in self._highest.items() if other < term), default=0)
        if node.member.applied.index <= older:
            self.violate(
                "Raft: leader completeness",
                f"{node.name} leads term {term} without the entry at {older}",
            )

    def check_logs(self) -> None:
        """Log matching: where two logs agree in index and term, they agree in that entry and all
        before it.
        """
        if not self.plan.raft_keeps:
            return
        logs = {node.name: node.entries() for node in self.serving}
        self.counts["log checks"] += 1
        names = list(logs)
        for position, one in enumerate(names):
            for other in names[position + 1 :]:
                a, b = logs[one], logs[other]
                shared = [index for index in a if index in b]
                same = [index for index in shared if a[index][0] == b[index][0]]
                if same and any(a[i] != b[i] for i in shared if i <= same[-1]):
                    self.violate(
                        "Raft: log matching",
                        f"{one} and {other} agree at {same[-1]}, not before it",
                    )

    def cutting(self, node: SimNode, entries: Sequence[tuple[bytes, int, int]]) -> None:
        """Watch a log being cut: what was committed never leaves it (it is in every later leader's
        log).
        """
        if not self.plan.raft_keeps:
            return
        for command, index, term in entries:
            known = self._applied.get(index)
            if known is not None and known == (term, _digest(command[9:])):
                self.violate(
                    "Raft: committed entries stay",
                    f"{node.name} cuts {index} of term {term}, applied already",
                )
                return

    # -------------------------------------------------------------------------------------- helpers

    @property
    def serving(self) -> list[SimNode]:
        return [node for node in self.nodes.values() if node.up and node.serving]

    def leader(self) -> SimNode | None:
        """Return the node that leads the newest term, if one does."""
        leading = [n for n in self.serving if n.member.status().role == "leader"]
        return max(leading, key=lambda n: n.member.status().term) if leading else None

    async def until(
        self, holds: Callable[[], bool], within_s: float, what: Callable[[], str]
    ) -> bool:
        """Wait for a condition; a violation of liveness, told as things stand then, when it does
        not come in time.
        """
        ends = asyncio.get_running_loop().time() + within_s
        while not holds():
            if asyncio.get_running_loop().time() > ends:
                self.violate("Liveness", f"{what()} within {within_s:g} s")
                return False
            await asyncio.sleep(0.02)
        return True


Step = Callable[[World], Awaitable[None]]
