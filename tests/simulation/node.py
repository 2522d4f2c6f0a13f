"""Put the product's own Member, Coordinator, Reads, Writes and Lookups on a simulated machine.

The machine outlives its processes: the world may end one at any await, cut the power, and start the
next on what the disk has kept. What a node tells is watched from outside.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from coordinator.log import Log, PeerAddress, Position, Replica
from coordinator.machine.commands import Rebase, Settle, Submit, decode
from coordinator.machine.limits import Limits
from coordinator.raft.member import Member
from coordinator.raft.member import Settings as RaftSettings
from coordinator.raft.storage.journal import Journal
from coordinator.settings import CoordinatorSettings
from kv.errors import (
    BackendUnavailable,
    BadRequest,
    NewerCommand,
    NotApplied,
    OutcomeUnknown,
)
from kv.model import EndLease, Intent
from node.reads.reads import Reads
from node.settings import ServerSettings
from node.writes.lookups import Lookups
from node.writes.writes import Writes
from tests.simulation.clock import SimClock
from tests.simulation.disk import SimDisk
from tests.simulation.levels import NEXT, SpokenLevel, ordering
from tests.simulation.loop import Process
from tests.simulation.network import Wire
from tests.simulation.own import SimFile, SimOwnStore
from tests.simulation.stores import SimStore
from tests.simulation.timekeeping import SWEEP_S
from tests.simulation.watching import WatchedCoordinator, WatchedFeed

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")

HELD_S: Final = 3.0
"""For so long an aimed harm may keep a Rebase from the log."""


class SimMember(Member):
    """A member whose journal has small segments."""

    world: World

    def _make_journal(self) -> Journal:
        return Journal(
            disk=self._disk,
            cluster=self._cluster,
            member=self.id,
            fsync=self._settings.fsync,
            segment_bytes_max=self.world.plan.segment_bytes,
        )

    def propose(self, command: bytes) -> asyncio.Future[Position]:
        if self.id in self.world.nodes:  # else it is removed, and goes on for a moment
            ordering(self.world.nodes[self.id], command)
        held = self.world.held_ends
        if held is None or held.of != self.id or not _ends_leases(command):
            return super().propose(command)
        held.count += 1
        loop = asyncio.get_running_loop()
        through: asyncio.Future[Position] = loop.create_future()

        def go_on() -> None:
            if held.released:
                _follow(super(SimMember, self).propose(command), through)
            else:
                loop.call_later(0.005, go_on)

        go_on()
        return through


def _ends_leases(command: bytes) -> bool:
    submitted = decode(command)
    return isinstance(submitted, Submit) and any(
        isinstance(write, EndLease) and write.term
        for intent in submitted.intents
        if isinstance(intent, Intent)
        for write in intent.writes
    )


def _follow(ended: asyncio.Future[Position], through: asyncio.Future[Position]) -> None:
    """Let one future end as another does."""

    def told(ended: asyncio.Future[Position]) -> None:
        if through.done():
            ended.cancelled() or ended.exception()
        elif ended.cancelled():
            through.cancel()
        elif (exc := ended.exception()) is not None:
            through.set_exception(exc)
        else:
            through.set_result(ended.result())

    asyncio.ensure_future(ended).add_done_callback(told)


class SlowOrders(SimMember):
    """A member on whose way to the log some of the committer's commands are held back."""

    def propose(self, command: bytes) -> asyncio.Future[Position]:
        loop, kind = asyncio.get_running_loop(), type(decode(command))
        held_s = self.world.holds_rebases_s if kind is Rebase else None
        share = 1.0 if held_s is not None else {Rebase: 0.5, Settle: 0.02}.get(kind, 0.0)
        if self._rng.random() >= share:
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
            _follow(super(SlowOrders, self).propose(command), through)

        loop.call_later(self._rng.uniform(0.1, 2.5) if held_s is None else 0.005, go_on)
        return through


class SimNode:
    """One node: a machine that outlives its processes."""

    def __init__(self, world: World, name: str, members: tuple[PeerAddress, ...]) -> None:
        self.world, self.name, self.members = world, name, members
        self.disk = SimDisk(world.rng_of(f"disk {name}"), directory=f"/{name}")
        self.file = SimFile(world.rng_of(f"file {name}"))
        """Of its own store, in the replicated world."""
        self.own: SimOwnStore | None = None
        """What its present process has open of it."""
        self.shared: SimStore | None = None
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
        self.level = SpokenLevel(world, name)
        self.led_s = 0.0
        """When it was elected last."""
        self._main: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None

    def _limits(self, life: int) -> Limits:
        """Return what this process is set to; with `apart` any may be set otherwise once the
        history is founded, and who joins from the beginning.
        """
        plan = self.world.plan
        given = Limits(
            plan.window_max,
            plan.window_ms,
            recent_max=plan.recent_max,
            retention_revisions=200,
            retention_ms=2_000,
        )
        if not plan.apart or (life == 1 and not self.name.startswith("m")):
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
        causes = list(leaves(failure))
        if self.level.refuses and any(isinstance(cause, NewerCommand) for cause in causes):
            self.world.counts["levels refused"] += 1
            self.level.install(NEXT)  # as it says
            causes = [cause for cause in causes if not isinstance(cause, NewerCommand)]
        self.world.say(
            "ended", node=self.name, why=";".join(f"{type(c).__name__}({c})" for c in causes)
        )
        for cause in causes:
            # not: its disk fails
            refused = isinstance(cause, BadRequest) and not isinstance(cause.__cause__, OSError)
            if refused and self.world.plan.raft_keeps and self.name not in self.world.founded_alone:
                self.world.violate(
                    "Durability", f"{self.name} refuses to start after a crash: {cause}"
                )
            if not isinstance(cause, OSError | BadRequest | asyncio.CancelledError) and not (
                isinstance(cause.__cause__, BackendUnavailable) and self.file.trouble
            ):
                self.world.violate("Crash", f"{self.name}: {cause!r}")
        self.crash(power=False)
        if self._again is not None:
            self._again.cancel()
        self._again = asyncio.get_running_loop().call_later(0.2, self.start)

    async def _serve(self, process: Process, life: int) -> None:
        world, loop = self.world, asyncio.get_running_loop()
        died: asyncio.Future[None] = loop.create_future()

        def fatal(exc: BaseException) -> None:
            if not died.done():
                died.set_exception(exc)

        async with AsyncExitStack() as stack:
            coordinator = await self._join(stack, process, life, fatal)
            self._watch_log()
            await self._open_door(stack, coordinator, life)
            world.say("serves", node=self.name)
            try:
                await died
            finally:
                # nothing is let in any more before the parts close, as a node does it
                self.serving = False

    async def _join(
        self,
        stack: AsyncExitStack,
        process: Process,
        life: int,
        fatal: Callable[[BaseException], None],
    ) -> WatchedCoordinator:
        """Open the store and the log, and become a member."""
        world, plan = self.world, self.world.plan
        self.own = SimOwnStore(self, self.file) if plan.replicated else None
        self.shared = None if plan.replicated else SimStore(world, self.name)
        if self.own is not None:
            await stack.enter_async_context(self.own)
        coordinator = self.coordinator = WatchedCoordinator(
            node=self.name,
            url=f"http://{self.name}",
            cluster="sim",
            log=partial(self._make_log, process, life, fatal),
            store=self.shared,
            own=self.own,
            broadcast=world.broker,
            clock=self.clock,
            rng=world.rng_of(f"coordinator {self.name} {life}"),
            settings=CoordinatorSettings(
                limits=self._limits(life),
                group_intents_max=plan.group_max,
                store_timeout_s=0.8,
                propose_timeout_s=2.0,
                sweep_interval_s=SWEEP_S,
                prune_interval_s=2.0,
                refused_check_s=0.3,
                level=self.level.speaks,
                level_look_s=0.3,
                **({"unwritten_bytes_max": plan.unwritten_bytes} if plan.unwritten_bytes else {}),
            ),
        )
        coordinator.sim = self
        coordinator.watch_clocks()
        coordinator.watch_publisher()
        await stack.enter_async_context(coordinator)
        return coordinator

    def _make_log(
        self,
        process: Process,
        life: int,
        fatal: Callable[[BaseException], None],
        replica: Replica,
    ) -> Log:
        world, plan = self.world, self.world.plan
        kind = SlowOrders if plan.slow_orders else SimMember
        make = type(kind.__name__, (kind,), {"world": world})
        self.member = make(
            self.name,
            self.members,
            cluster="sim",
            replica=replica,
            disk=self.disk,
            transport=lambda node, wake, fatal: Wire(world.network, node, process),
            clock=self.clock,
            rng=world.rng_of(f"raft {self.name} {life}"),
            on_fatal=fatal,
            settings=RaftSettings(
                fsync=plan.fsync,  # type: ignore[arg-type]
                propose_timeout_s=3.0,
                compact_entries=plan.compact_entries,
                chunk_bytes=700,
                batch_bytes=4000,
                **world.plant.raft,
            ),
        )
        return self.member

    async def _open_door(
        self, stack: AsyncExitStack, coordinator: WatchedCoordinator, life: int
    ) -> None:
        """Make what serves clients, and let them in."""
        world, plan, own, store = self.world, self.world.plan, self.own, self.shared
        settings = ServerSettings(
            node_id=self.name,
            advertised_url=f"http://{self.name}",
            incarnation=f"{life}",
            store_timeout_s=0.8,
            read_index_timeout_s=0.5,
            memory_cache_bytes=plan.memory_bytes,
        )
        self.feed = WatchedFeed(self)
        stack.callback(coordinator.listen(self.feed))
        self.reads = Reads(coordinator, store, world.cache, self.clock, settings, own=own)
        await stack.enter_async_context(self.reads)
        self.writes = Writes(coordinator, store, self.clock, settings)
        self.lookups = Lookups(
            coordinator, store, self.clock, settings, reads=self.reads, writes=self.writes, own=own
        )
        for opener in world.openers:
            await opener(self, stack)
        self.serving = True

    def _watch_log(self) -> None:
        compaction, keep_max = self.member._core.compaction, self.world.plan.keep_entries
        save = compaction._save

        def save_keeping(size: int, keep: int) -> None:
            save(size, min(keep, keep_max))

        compaction._save = save_keeping  # type: ignore[method-assign]
        journal = self.member._journal
        cut = journal.deleteEntriesFrom

        def watched(position: int) -> None:
            self.world.cutting(self, journal[position:])
            cut(position)

        journal.deleteEntriesFrom = watched
        rebuild = self.member._core.rebuild
        begin_at = rebuild.begin_at

        def replaced(base: Position, *more: Any) -> None:
            self.world.cutting(self, [entry for entry in journal[:] if entry[1] > base.index])
            begin_at(base, *more)

        rebuild.begin_at = replaced  # type: ignore[method-assign, assignment]
        leader, library = self.member._core.leader, self.member._core.pysyncobj
        take_over = leader.take_over

        def elected() -> None:
            self.world.elected(self, library.term)
            take_over()

        leader.take_over = elected  # type: ignore[method-assign]

    def crash(self, *, power: bool) -> None:
        """End the process now, at whatever await each of its tasks stands."""
        process = self.process
        if process is None or not process.alive:
            if power:
                self._lose_power()
            return
        self.serving = False
        self._count()
        process.alive = False
        self.world.network.down(self.name)
        if self.own is not None:
            self.own.crash()
            self.own = None
        if power:
            self._lose_power()
        else:
            self.disk.crash()
        process.kill()
        if self.gone is not None and not self.gone.done():
            self.gone.set_result(None)
        self.world.say("power cut" if power else "crash", node=self.name)

    def _lose_power(self) -> None:
        self.disk.power_cut()
        self.world.counts["prefix losses"] += self.file.lose_power() > 0

    def empty(self) -> None:
        """Put an empty disk in the place of its own: log, votes and file are gone."""
        self.disk.replace()
        self.file.wipe()

    def _count(self) -> None:
        """Take over what the ending process counted."""
        counts = self.world.counts
        if hasattr(self, "member") and self.lives == getattr(self, "_counted", 0) + 1:
            self._counted = self.lives
            for name, number in self.member.counts.items() if hasattr(self.member, "_core") else ():
                counts[f"raft {name}"] = counts.get(f"raft {name}", 0) + number
            for name, number in self.coordinator._counts().items():
                counts[f"coordinator {name}"] = counts.get(f"coordinator {name}", 0) + number
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


def leaves(failure: BaseException | None) -> Sequence[BaseException]:
    """Return what a process ended of, without the groups around it."""
    if failure is None:
        return ()
    if isinstance(failure, BaseExceptionGroup):
        return [leaf for each in failure.exceptions for leaf in leaves(each)]
    return [failure]
