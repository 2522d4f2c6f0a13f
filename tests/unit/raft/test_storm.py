"""Seeded storms over members on simulated disks and a virtual clock: crashes, power cuts,
partitions, slow links, transfers, snapshots, membership changes; Raft's safety properties hold
throughout, and it recovers at the end.

`python -m tests.unit.raft.test_storm FIRST COUNT` runs more seeds.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import structlog
from pysyncobj.node import Node

import coordinator.raft.core.compaction
from coordinator.log import PeerAddress, Position
from coordinator.raft.member import Member, Settings
from kv.errors import KvError, NotApplied, OutcomeUnknown
from tests.replica import SharedKind
from tests.simulation.disk import SimDisk
from tests.unit.raft.cluster import CODEC, Net, Wire
from tests.virtual import VirtualClock, run, until

SETTINGS = Settings(
    fsync="always", compact_entries=60, chunk_bytes=700, propose_timeout_s=3.0, batch_bytes=2000
)
STEPS = 120


class SlowNet(Net):
    """Every message takes its own time, in order on each link."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.rng = rng
        self.slow_s = 0.002
        self.due: dict[tuple[str, str], float] = {}

    def send(self, src: str, dst: str, message: dict[str, Any]) -> bool:
        pair = frozenset((src, dst))
        if pair not in self.up:
            return False
        loop = asyncio.get_running_loop()
        due = max(self.due.get((src, dst), 0.0), loop.time() + self.rng.random() * self.slow_s)
        self.due[src, dst] = due
        loop.call_at(due, self.arrive, src, dst, self.generation[pair], CODEC.encode(message))
        self.sent[message["type"]] += 1
        return True

    def arrive(self, src: str, dst: str, generation: int, content: bytes) -> None:
        if self.generation[frozenset((src, dst))] == generation and dst in self.wires:
            wire = self.wires[dst]
            wire._onMessageReceived(wire.nodes.get(src, Node(src)), CODEC.decode(content))


class Witness:
    """What all members together must agree on."""

    def __init__(self) -> None:
        self.applied: dict[int, tuple[int, bytes]] = {}
        self.leaders: dict[int, str] = {}
        self.acknowledged: dict[bytes, Position] = {}
        self.refused: set[bytes] = set()
        self.reads = 0

    def apply(self, member: str, position: Position, command: bytes) -> None:
        entry = (position.term, command)
        assert self.applied.setdefault(position.index, entry) == entry, (
            f"state-machine safety: {member} {position}"
        )

    def lead(self, member: str, term: int) -> None:
        assert self.leaders.setdefault(term, member) == member, f"two leaders of term {term}"


class Machine(SharedKind):
    """Keeps (index, term, command) of all that was applied."""

    def __init__(self, name: str, witness: Witness) -> None:
        self.name, self.witness = name, witness
        self.log: list[tuple[int, int, bytes]] = []
        self.member: Member | None = None

    def apply(self, position: Position, stamp_ms: int, command: bytes) -> None:
        assert not self.log or self.log[-1][0] < position.index
        self.witness.apply(self.name, position, command)
        self.log.append((position.index, position.term, command))

    def stamp_ms(self) -> int:
        return 1

    def snapshot(self) -> Callable[[], bytes]:
        log = list(self.log)
        return lambda: msgspec.msgpack.encode(log)

    def restore(self, snapshot: bytes) -> None:
        self.log = msgspec.msgpack.decode(snapshot, type=list[tuple[int, int, bytes]])

    def reset(self) -> None:
        raise AssertionError("an applied log was overwritten although nothing was lost")

    def led(self, term: int) -> None:
        self.witness.lead(self.name, term)
        if self.member is not None:
            self.member.open_reads(term)

    def deposed(self, term: int) -> None: ...

    def note(self) -> bytes:
        return b""


class Storm:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.net, self.witness = SlowNet(self.rng), Witness()
        self.disks: dict[str, SimDisk] = {}
        self.machines: dict[str, Machine] = {}
        self.up: dict[str, Member] = {}
        self.gone: set[str] = set()
        self.faults: list[str] = []
        self.number = self.lives = 0
        size = self.rng.choice([3, 3, 5])
        self.first = tuple(PeerAddress(name, f"{name}:1") for name in "ABCDE"[:size])
        self.names = [peer.id for peer in self.first]
        self.tasks: list[asyncio.Task[None]] = []

    def disk(self) -> SimDisk:
        """A slow one, so that power cuts find something that is not synced."""
        return SimDisk(random.Random(self.rng.random()), sync_s=(0.001, 0.03))

    async def start(self, name: str) -> None:
        self.lives += 1
        life = self.lives
        machine = self.machines[name] = Machine(name, self.witness)
        disk = self.disks.setdefault(name, self.disk())
        members = self.first
        if name not in {peer.id for peer in members}:
            members = (*members, PeerAddress(name, f"{name}:1", voter=False))

        def fatal(exc: BaseException) -> None:
            if self.machines.get(name) is machine and name in self.up:
                self.faults.append(f"{name} life {life}: {exc!r}")

        member = Member(
            name,
            members,
            cluster="storm",
            replica=machine,
            disk=disk,
            transport=lambda node, wake, on_fatal: Wire(self.net, node),
            clock=VirtualClock(asyncio.get_running_loop()),
            rng=random.Random(self.rng.random()),
            on_fatal=fatal,
            settings=SETTINGS,
        )
        machine.member = member
        await member.__aenter__()
        self.up[name] = member

    def crash(self, name: str, *, power: bool) -> None:
        """End a member between two steps, whatever it was doing."""
        member = self.up.pop(name)
        member._running = False
        assert member._timer is not None
        member._timer.cancel()
        for task in list(member._tasks):
            task.cancel()
        for pair in sorted((pair for pair in self.net.up if name in pair), key=sorted):
            self.net.down(pair)
        self.net.wires.pop(name, None)
        disk = self.disks[name]
        (disk.power_cut if power else disk.crash)()

    async def propose(self, name: str) -> None:
        if name not in self.up:
            return
        self.number += 1
        command = b"%d" % self.number
        future = self.up[name].propose(command)
        try:
            async with asyncio.timeout(5):
                position = await future
        except NotApplied:
            self.witness.refused.add(command)
        except (OutcomeUnknown, TimeoutError):
            return
        else:
            self.witness.acknowledged[command] = position

    async def read(self, name: str) -> None:
        if name not in self.up:
            return
        before = max((position.index for position in self.witness.acknowledged.values()), default=0)
        try:
            position = await self.up[name].read_index(timeout_s=1)
        except NotApplied:
            return
        assert position.index >= before, "a read index below what was acknowledged before the read"
        self.witness.reads += 1

    async def change(self, name: str) -> None:
        if name not in self.up:
            return
        member, rng = self.up[name], self.rng
        voters = member._core.configuration.voters
        try:
            if rng.random() < 0.5 and len(self.names) < 7:
                new = f"N{len(self.disks)}"
                self.disks[new] = self.disk()
                self.names.append(new)
                await self.start(new)
                await member.add_member(new, f"{new}:1", voter=rng.random() < 0.7, timeout_s=2)
            elif len(voters) > 3:
                victim = rng.choice([m.id for m in member._core.members])
                await member.remove_member(victim, timeout_s=2)
                self.gone.add(victim)
        except KvError:
            return

    def spawn(self, work: Any) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    async def step(self) -> None:
        rng, net = self.rng, self.net
        await asyncio.sleep(rng.random() * 0.1)
        up = sorted(self.up)
        dice = rng.random()
        if up:
            for _ in range(rng.randrange(6)):
                self.spawn(self.propose(rng.choice(up)))
            self.spawn(self.read(rng.choice(up)))
        if dice < 0.10 and len(up) > 1:
            self.crash(rng.choice(up), power=rng.random() < 0.5)
        elif dice < 0.12:
            for name in up:
                self.crash(name, power=True)
        elif dice < 0.24:
            down = sorted(set(self.names) - set(self.up))
            for name in rng.sample(down, min(len(down), rng.choice([1, 1, 5]))):
                await self.start(name)
        elif dice < 0.32:
            sides: list[list[str]] = [[], []]
            for name in self.names:
                rng.choice(sides).append(name)
            net.cut = {frozenset((a, b)) for a in sides[0] for b in sides[1]}
            net.settle()
        elif dice < 0.36 and len(self.names) > 1:
            net.cut.add(frozenset(rng.sample(self.names, 2)))
            net.settle()
        elif dice < 0.46:
            net.heal()
        elif dice < 0.50 and net.up:
            net.down(rng.choice(sorted(net.up, key=sorted)))
            net.settle()
        elif dice < 0.54:
            net.slow_s = rng.choice([0.001, 0.002, 0.05, 0.3])
        elif dice < 0.57 and up:
            self.spawn(self.quietly(self.up[rng.choice(up)].transfer(None, timeout_s=1)))
        elif dice < 0.59 and up:
            self.up[rng.choice(up)].step_down()
        elif dice < 0.62 and up:
            self.spawn(self.change(rng.choice(up)))
        elif dice < 0.66 and up:
            self.up[rng.choice(up)]._core.compaction.force()

    @staticmethod
    async def quietly(work: Any) -> None:
        try:
            await work
        except KvError:
            return

    async def run(self) -> None:
        for peer in self.first:
            await self.start(peer.id)
        for _ in range(STEPS):
            await self.step()
            assert not self.faults, self.faults
        self.net.heal()
        self.net.slow_s = 0.002
        for name in [n for n in self.names if n not in self.up]:
            await self.start(name)
        await asyncio.gather(*self.tasks)
        await until(
            lambda: any(m.status().role == "leader" and m.status().quorum for m in self.up.values())
        )

        async def settled() -> None:
            while True:
                name = self.rng.choice(sorted(self.up))
                await self.propose(name)
                if b"%d" % self.number in self.witness.acknowledged:
                    return
                await asyncio.sleep(0.05)

        async with asyncio.timeout(30):
            await settled()
        leader = max(
            (m for m in self.up.values() if m.status().role == "leader"),
            key=lambda member: member.status().term,
        )
        members = [p.id for p in leader.status().peers]
        await until(
            lambda: all(
                self.up[n].status().applied == leader.status().last for n in members if self.fit(n)
            ),
        )
        assert not self.faults, self.faults
        logs = [self.machines[n].log for n in members if self.fit(n)]
        assert all(log == logs[0] for log in logs)
        held = {command: Position(index, term) for index, term, command in logs[0]}
        assert len(held) == len(logs[0]), "a command was applied twice"
        for command, position in self.witness.acknowledged.items():
            assert held.get(command) == position, (
                f"{command!r} acknowledged at {position}, held {held.get(command)}"
            )
        assert not self.witness.refused & set(held), "refused, and applied"

    def fit(self, name: str) -> bool:
        core = self.up[name]._core
        return not core.eligibility.disk_lost and not core.eligibility.removed


def _drop(logger: Any, method: str, event: Any) -> Any:
    raise structlog.DropEvent


def storm(seed: int) -> Storm:
    coordinator.raft.core.compaction.KEEP_ENTRIES = 10  # type: ignore[misc]
    made: list[Storm] = []

    async def story() -> None:
        made.append(Storm(seed))
        await made[0].run()

    run(story, limit_s=600)
    return made[0]


@pytest.mark.parametrize("seed", range(12))
def test_a_storm_breaks_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator.raft.core.compaction, "KEEP_ENTRIES", 10)
    done = storm(seed)
    assert done.witness.acknowledged
    assert done.witness.leaders


if __name__ == "__main__":
    structlog.configure(processors=[_drop])
    totals: dict[str, int] = {}
    for number in range(int(sys.argv[1]), int(sys.argv[1]) + int(sys.argv[2])):
        try:
            result = storm(number)
        except Exception as exc:  # noqa: BLE001 whatever a storm shows, with the seed that shows it
            print("seed", number, repr(exc), flush=True)
            continue
        for survivor in result.up.values():
            for event, times in survivor.counts.items():
                totals[event] = totals.get(event, 0) + times
        for event, times in (
            ("acknowledged", len(result.witness.acknowledged)),
            ("reads", result.witness.reads),
        ):
            totals[event] = totals.get(event, 0) + times
    print(totals)
