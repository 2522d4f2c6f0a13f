"""Drive the library's own classes, as they are, in the same simulated world: the control of
everything found in ours.

Stock protocol code and stock log, on the simulated network and disk, judged by the very checks that
ours have to pass: what it is published to lose, it loses here by itself. Only its clock, its random
numbers and its threads are replaced.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, NamedTuple

import msgspec
import pysyncobj.syncobj as library
from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.journal import MemoryJournal
from pysyncobj.node import Node

from chaos.checkers.registers import register
from chaos.checkers.verdict import Verdict
from chaos.records.history import ClientOperation
from coordinator.log import Position
from coordinator.raft.core.pysyncobj_library import NullPoller
from tests.simulation import nemesis
from tests.simulation.disk import SimDisk, SimFile
from tests.simulation.loop import OrderedTaskGroup, Process, SimLoop
from tests.simulation.network import Network, Wire
from tests.simulation.node import SimNode
from tests.simulation.plans import Plan, plan_of
from tests.simulation.world import Violation, World

KEYS: Final = ("k0", "k1", "k2")
LOG: Final = "log"
TICK_S: Final = 0.02
LOOK_S: Final = 0.0001
ANSWER_S: Final = 2.0
SUCCESS: Final = 0
REFUSED: Final = frozenset({1, 2, 4, 6})
"""Reasons that mean: it is in no log."""
HEAL_S: Final = 6.0


class Hazard(NamedTuple):
    """What the library is published to do, the harm in which it does so, and the promise that
    breaks.
    """

    name: str
    faults: tuple[str, ...]
    promises: tuple[str, ...]
    batched: bool
    """As the library is by default: entries leave with the heartbeat only."""


HAZARDS: Final = (
    Hazard(
        "control: stock truncation",
        ("slow", "loss", "crash"),
        ("Raft: committed entries stay",),
        False,
    ),
    Hazard(
        "control: stock acknowledges before its disk has it",
        ("amnesia", "power"),
        ("Raft: leader completeness", "Raft: state machine safety"),
        True,
    ),
    Hazard("control: stock leader reads when deposed", ("partition",), ("INV-1",), True),
)


class _Seat(Node):
    """A member of the library's sets, whose order must not depend on this process."""

    def __hash__(self) -> int:
        return int(self.id[1:])


class _Codec:
    """Messages of the library, which ours does not let through."""

    def encode(self, message: dict[str, Any]) -> bytes:
        return msgspec.msgpack.encode(message)

    def decode(self, raw: bytes) -> dict[str, Any]:
        message: dict[str, Any] = msgspec.msgpack.decode(raw)
        return message


class _Moments:
    """The library's clock: this loop's, and a little more for each look, for loops that only time
    ends.
    """

    def __init__(self, loop: SimLoop) -> None:
        self._loop, self._last = loop, 0.0

    def __call__(self) -> float:
        self._last = max(self._loop.time(), self._last + LOOK_S)
        return self._last


class StockLog(MemoryJournal):
    """The library's log, its changes written to the simulated disk and never synced, as its file
    journal does.
    """

    def __init__(self, disk: SimDisk) -> None:
        super().__init__()
        self._file: SimFile | None = None
        if disk.exists(LOG):
            content, whole = disk.load_now(LOG, sync=False), 0
            for end, method, arguments in _changes(content):
                getattr(self, method)(*arguments)
                whole = end
            self._file = disk.open(LOG)
            if whole < len(content):
                self._file.truncate_now(whole)
        else:
            self._file = disk.create(LOG)
            disk.sync_directory_now()

    def _write(self, *change: Any) -> None:
        if self._file is not None:
            record = msgspec.msgpack.encode(change)
            self._file.append_now(len(record).to_bytes(4, "big") + record)

    def add(self, command: bytes, idx: int, term: int) -> None:
        self._write("add", command, idx, term)
        super().add(command, idx, term)

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        self._write("deleteEntriesFrom", entryFrom)
        super().deleteEntriesFrom(entryFrom)

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        self._write("setCurrentTerm", term, votedForNodeId)
        super().setCurrentTerm(term, votedForNodeId)


def _changes(content: bytes) -> Iterator[tuple[int, str, list[Any]]]:
    """Return what is whole: where it ends, and the change."""
    place = 0
    while place + 4 <= len(content):
        end = place + 4 + int.from_bytes(content[place : place + 4], "big")
        if end > len(content):
            return
        method, *arguments = msgspec.msgpack.decode(content[place + 4 : end])
        yield end, method, arguments
        place = end


class Registers(SyncObj):
    """A small replicated machine on the library, as its own examples write one."""

    def __init__(self, node: StockNode, others: list[Node], wire: Wire, conf: SyncObjConf) -> None:
        self.values: dict[str, str] = {}
        self._seat = node
        super().__init__(_Seat(node.name), others, conf, nodeClass=_Seat, transport=wire)
        self._poller = NullPoller()

    @replicated
    def put(self, key: str, value: str) -> None:
        self.values[key] = value
        self._seat.applies(self.raftLastApplied + 1)


class _Seen(NamedTuple):
    role: str
    term: int


class StockMember:
    """What the world looks at."""

    def __init__(self, raft: Registers) -> None:
        self._raft = raft

    def status(self) -> _Seen:
        return _Seen("leader" if self._raft._isLeader() else "follower", self._raft.raftCurrentTerm)

    @property
    def applied(self) -> Position:
        return Position(self._raft.raftLastApplied, 0)


class StockNode(SimNode):
    """A machine on which the library runs."""

    world: StockWorld
    _pending = False

    async def _serve(self, process: Process, life: int) -> None:
        world = self.world
        wire = Wire(world.network, _Seat(self.name), process)
        others: list[Node] = [_Seat(peer.id) for peer in self.members if peer.id != self.name]
        for other in others:
            wire.addNode(other)
        self._log = StockLog(self.disk)
        setattr(library, "createJournal", lambda path: self._log)  # noqa: B010 no part of its typed face
        self.raft = Registers(self, others, wire, world.conf(self._on_state))
        self.member = StockMember(self.raft)  # type: ignore[assignment]
        self._told = 0
        cut = self._log.deleteEntriesFrom

        def watched(position: int) -> None:
            world.cutting(self, self._log[position:])
            cut(position)

        self._log.deleteEntriesFrom = watched  # type: ignore[method-assign,assignment]
        received, loop = wire.received, asyncio.get_running_loop()

        def taken(node: Node, message: dict[str, Any]) -> None:
            received(node, message)
            if not self._pending:
                self._pending = True
                loop.call_soon(wire.enter, self._tick)

        wire.received = taken  # type: ignore[method-assign]
        await wire.start()
        self.serving = True
        world.say("serves", node=self.name)
        while True:
            self._tick()
            await asyncio.sleep(TICK_S)

    def _on_state(self, old: int, new: int) -> None:
        if new == library._RAFT_STATE.LEADER:
            self.world.elected(self, self.raft.raftCurrentTerm)

    def _tick(self) -> None:
        self._pending = False
        raft = self.raft
        raft.doTick(0.0)
        term = raft.raftCurrentTerm
        if (
            raft._isLeader()
            and term > self._told
            and raft.raftLastApplied >= (raft._SyncObj__noopIDx or 1 << 60)
        ):
            self._told = term
            self.world.led(self, term)

    def applies(self, index: int) -> None:
        """Tell the world what is being applied."""
        first = self._log[0][1]
        command, _, term = self._log[index - first]
        self.world.applied(self, Position(index, term), command[9:])

    def entries(self) -> dict[int, tuple[int, bytes]]:
        return {index: (term, command) for command, index, term in self._log[1:]}

    def _count(self) -> None: ...


class StockWorld(World):
    """The same world, with the library in it."""

    def __init__(self, plan: Plan, hazard: Hazard) -> None:
        super().__init__(plan)
        self._hazard = hazard
        self.failed = asyncio.Event()
        self.network = Network(self.rng_of("network"), self.say, ghosts=False)
        self.network.codec = _Codec()  # type: ignore[assignment]
        members = next(iter(self.nodes.values())).members
        self.nodes = {name: StockNode(self, name, members) for name in self.nodes}
        self.history: list[ClientOperation] = []

    def check_configuration(self, node: SimNode) -> None:
        """The library's log holds no configurations."""

    def conf(self, on_state: Callable[[int, int], None]) -> SyncObjConf:
        return SyncObjConf(
            autoTick=False,
            appendEntriesUseBatch=self._hazard.batched,
            appendEntriesPeriod=0.05,
            appendEntriesBatchSizeBytes=600,
            raftMinTimeout=0.3,
            raftMaxTimeout=0.6,
            commandsWaitLeader=False,
            logCompactionMinEntries=10**9,
            logCompactionMinTime=10**9,
            onStateChanged=on_state,
        )

    def violate(self, name: str, detail: str) -> None:
        """The story goes on until the promise is broken that it is about."""
        if name in self._hazard.promises:
            super().violate(name, detail)
        else:
            self.say("also", name=name, detail=detail)


class StockResult(NamedTuple):
    violations: tuple[Violation, ...]
    trace: tuple[str, ...]


def run(hazard: Hazard, seed: int) -> StockResult:
    """Simulate one seed with the library's classes; the same seed gives the same trace."""
    plan = replace(
        plan_of(seed, "shared"),
        nodes=3,
        fsync="always",
        ghosts=False,
        restores=False,
        chaos_s=12.0,
        clients=6,
        faults=hazard.faults,
        upgrades=False,
    )
    loop = SimLoop()
    asyncio.set_event_loop(loop)
    saved, asyncio.TaskGroup = asyncio.TaskGroup, OrderedTaskGroup  # type: ignore[misc]
    try:
        with _at_home(loop, seed):
            return loop.run_until_complete(_told(StockWorld(plan, hazard)))
    finally:
        asyncio.TaskGroup = saved  # type: ignore[misc]
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.set_exception_handler(lambda loop, context: None)
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
        asyncio.set_event_loop(None)


@contextmanager
def _at_home(loop: SimLoop, seed: int) -> Iterator[None]:
    """Give the library this loop's time, this seed's numbers and no pipe, for as long as it runs
    here.
    """
    names = ("monotonicTime", "random", "createJournal", "PIPE_NOTIFIER_ENABLED")
    kept = {name: getattr(library, name) for name in names}
    changed = {
        "monotonicTime": _Moments(loop),
        "random": random.Random(f"library {seed}"),
        "PIPE_NOTIFIER_ENABLED": False,
    }
    logging.disable()  # of what it stumbles over it would tell at every tick
    try:
        for name, value in changed.items():
            setattr(library, name, value)
        yield
    finally:
        logging.disable(logging.NOTSET)
        for name, value in kept.items():
            setattr(library, name, value)


async def _told(world: StockWorld) -> StockResult:
    assert world.failed is not None
    loop = asyncio.get_running_loop()
    story, failed = loop.create_task(_story(world)), loop.create_task(world.failed.wait())
    await asyncio.wait([story, failed], return_when=asyncio.FIRST_COMPLETED)
    failed.cancel()
    if not story.done():
        story.cancel()
        await asyncio.wait([story])
    else:
        story.result()
    world.over = True
    for node in world.nodes.values():
        node.crash(power=False)
    return StockResult(tuple(world.violations), tuple(world.trace))


async def _story(world: StockWorld) -> None:
    loop = asyncio.get_running_loop()
    for node in world.nodes.values():
        node.start()
    await world.until(lambda: world.leader() is not None, 5.0, lambda: "a first leader")
    until_s = loop.time() + world.plan.chaos_s
    async with asyncio.TaskGroup() as group:
        for number in range(world.plan.clients):
            group.create_task(_client(world, number, until_s))
        group.create_task(nemesis.torment(world, until_s))
    nemesis.heal(world)
    await asyncio.sleep(HEAL_S)
    world.check_logs()
    judged = register.check(world.history, initial=None)
    if judged.verdict is Verdict.ILLEGAL:
        world.violate("INV-1", judged.findings[0].message)


async def _client(world: StockWorld, number: int, until_s: float) -> None:
    """Write through any node, read from whoever calls itself the leader, as one has to with this
    library.
    """
    loop, rng = asyncio.get_running_loop(), world.rng_of(f"client {number}")
    written = 0
    while loop.time() < until_s:
        node: Any = rng.choice(world.serving) if world.serving else None
        key, began, client = rng.choice(KEYS), loop.time(), f"c{number}.{written}"
        if node is not None and rng.random() < 0.5:
            written += 1
            value = f"{client}" + "x" * rng.choice((0, 0, 300))
            outcome = await _put(node, key, value)
            world.say(f"c{number} put {key} {value[:12]}: {outcome}", node=node.name)
            world.history.append(
                ClientOperation(
                    client, "put", outcome, _ns(began), _ns(loop.time()), key, value, node=node.name
                )
            )
        elif node is not None and node.raft._isLeader():
            seen = node.raft.values.get(key)
            world.say(f"c{number} get {key}: {seen and seen[:12]}", node=node.name)
            world.history.append(
                ClientOperation(
                    client,
                    "get",
                    "ok",
                    _ns(began),
                    _ns(began) + 1,
                    key,
                    result=seen,
                    node=node.name,
                )
            )
        await asyncio.sleep(rng.expovariate(1 / 0.03))


async def _put(node: StockNode, key: str, value: str) -> Any:
    answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def told(result: object, reason: int) -> None:
        if not answered.done():
            answered.set_result(reason)

    put: Any = node.raft.put  # the library's decorator takes the callback
    put(key, value, callback=told)
    try:
        async with asyncio.timeout(ANSWER_S):
            reason = await answered
    except TimeoutError:
        return "info"
    return "ok" if reason == SUCCESS else "fail" if reason in REFUSED else "info"


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
