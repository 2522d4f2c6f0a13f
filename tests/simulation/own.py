"""Be a member's own store on a simulated machine, and hold what it keeps against what the log made.

The file outlives processes. It is written behind, with delays that the seed decides; a power cut
takes any of its newest transactions that were not made durable.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from backends.memory.member_file import MemoryFile
from backends.memory.member_store import MemoryMemberStore
from tests.simulation.reference import SAME, Made, sorted_versions

if TYPE_CHECKING:
    from kv.model import LedgerRow
    from kv.ports import Read, StateCopy, Step
    from tests.simulation.node import SimNode
    from tests.simulation.world import World

Applying: TypeAlias = tuple[tuple[int, int], tuple[int, int], tuple[int, bytes]]
"""The position of the command before, its own, and its stamp and bytes."""
SERVES: Final = "Replica: serves only what it holds"
BOUNDED: Final = "Replica: bounded"
DISKS: Final = "INV-2 (disks)"
SURE: Final = "Replica: gives only what is sure"


class SimFile(MemoryFile):
    """The file of one member: how slow it is, and how it came to be as it is."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.rng = rng
        self.delay_s = (0.0003, 0.004)
        self.hurt = ""
        """What was done to it and is not mended yet; a member says so itself, or need not."""
        self.older: bytes | None = None
        """An image from some time ago, as a backup of the machine would have it."""

    async def pause(self) -> None:
        """Take the time of a transaction, or of a page of a copy."""
        await asyncio.sleep(self.rng.uniform(*self.delay_s))

    def lose_power(self) -> int:
        """Keep any number of what was written and not made durable; return how many are gone."""
        at_risk = self.at_risk
        kept = self.rng.randint(0, at_risk)
        self.power_cut(kept)
        return at_risk - kept

    def heal(self) -> None:
        """Be as fast as at first, with room."""
        self.delay_s = (0.0003, 0.004)
        if self.trouble:
            self.refuse_writes("")


class SimOwnStore(MemoryMemberStore):
    """One process's store on the file of its machine, looked at from outside."""

    chunk_bytes = 2_000

    def __init__(self, node: SimNode, file: SimFile) -> None:
        super().__init__(file, pause=file.pause, session=node.name)
        self._node, self._sim_file = node, file
        self.applying: Applying | None = None
        """What its machine applies just now, until that was judged."""

    def settle(self, step: Step) -> None:
        bound = self._node.world.plan.unwritten_bytes
        if bound and self.unwritten_bytes > bound:
            self._node.world.violate(
                BOUNDED, f"{self._node.name} goes on with {self.unwritten_bytes} bytes unwritten"
            )
        self._judge(step, None)  # before anybody is told of it
        super().settle(step)

    def replayed(self) -> None:
        """Judge a command that was applied once more, and not evaluated: the file has its row."""
        if self.applying is not None:
            self._judge(None, self.row_at(self.applying[1][0]))

    def _judge(self, step: Step | None, row: LedgerRow | None) -> None:
        applying, self.applying = self.applying, None
        if applying is not None:
            before, at, entry = applying
            self._node.world.reference.applied(self._node, (before, at), entry, step=step, row=row)

    async def read(
        self, keys: Sequence[bytes], *, at: int | None = None, settled: int = 0, timeout_s: float
    ) -> Read:
        found = await super().read(keys, at=at, settled=settled, timeout_s=timeout_s)
        applied = self._node.coordinator.machine.book.index
        if self.note.index != applied and self._node.own is self:
            self._node.world.violate(
                SERVES,
                f"{self._node.name} reads a file of {self.note.index}, its machine is at {applied}",
            )
        return found

    def cut_back(self, index: int) -> None:
        self._count("files cut back", at=index)
        super().cut_back(index)

    async def set_aside(self, why: str) -> str:
        self._count("files set aside", why=why)
        return await super().set_aside(why)

    async def copy(self) -> StateCopy:
        own = self._node.coordinator.own
        refusal = own.condition.refusal if own is not None else None
        if refusal is not None:
            self._node.world.violate(
                SURE, f"{self._node.name} gives its state away, and serves nothing: {refusal}"
            )
        copied = await super().copy()
        self._count("copies made")
        self._node.world.gave_state.append(self._node.name)
        if self._sim_file.hurt == "diverged" and self.newest is not None:
            self._node.world.astray[self.newest.content] = None  # nobody may have noticed it yet
        return copied

    async def install(self, state: StateCopy) -> None:
        await super().install(state)
        newest = self.newest
        astray = newest is not None and newest.content in self._node.world.astray
        self._sim_file.hurt = "diverged" if astray else ""
        self._count("installs", at=self.note.index)
        compare(self._node, whole=True)

    def _count(self, what: str, **fields: Any) -> None:
        world = self._node.world
        world.counts[what] = world.counts.get(what, 0) + 1
        world.say(what, node=self._node.name, **fields)


# ------------------------------------------------------------------------------------- the contents


async def samples(world: World, until_s: float) -> None:
    """Look at all own stores now and then: by digest often, row by row more rarely."""
    loop, rng = asyncio.get_running_loop(), world.rng_of("samples")
    while world.plan.replicated and loop.time() < until_s:
        await asyncio.sleep(rng.expovariate(1 / 0.3))
        for node in world.serving:
            compare(node, whole=rng.random() < 0.1)
            check_disks(node)


def compare(node: SimNode, *, whole: bool) -> None:
    """Hold what a member's store holds, settled and not yet written too, against what the log made
    up to its note; `whole`: row by row.
    """
    store, world = node.own, node.world
    if store is None or store.condition != "sound" or node.file.hurt == "diverged":
        return
    member = node.coordinator.own
    if member is not None and member.condition.spoilt is not None:
        return  # it serves nothing of this file, and is about to set it aside
    note, reference = store.note, world.reference
    made = reference.at(note.index, note.term)
    world.counts["stores compared"] += 1
    if made is None:
        world.violate(SAME, f"{node.name} holds a command {note.index}/{note.term} of no log")
        return
    newest = store.newest
    if newest is not None and (newest.seq, newest.content) != (made.seq, made.content):
        world.violate(
            SAME, f"{node.name} at {note.index} ends with row {newest.seq} of other content"
        )
    if whole:
        _compare_whole(node, made, note.index)


def _compare_whole(node: SimNode, made: Made, index: int) -> None:
    world, store = node.world, node.own
    assert store is not None
    world.counts["stores compared row by row"] += 1
    path, image = made.path(), store.tables.image()
    rows = {each.row.seq: each.row for each in path if each.row is not None}
    found = {row.seq: row for row in image.rows}
    wrong: list[str] = [
        f"row {seq} is {row}, to be {rows.get(seq)}"
        for seq, row in found.items()
        if rows.get(seq) != row
    ]
    kept = list(found)
    if kept != list(range(kept[0] if kept else 1, made.seq + 1)):
        wrong.append(f"rows {kept[:1]}..{kept[-1:]} with a gap, the log has {made.seq}")
    if kept and rows[kept[0]].first > made.floor + 1 and kept[0] > 1:
        wrong.append(f"rows before {rows[kept[0]].first} are gone, the floor is {made.floor}")
    newest = node.member._core.environment.snapshots.newest
    replacing = node.coordinator.own is not None and node.coordinator.own.condition.replacing
    is_settled = not replacing and not node.member._core.log.resting  # both parts are in place
    pruned = rows[kept[0] - 1].index if kept and kept[0] > 1 else 0
    if is_settled and not node.file.hurt and pruned > (newest.index if newest else 0):
        wrong.append(f"rows before {rows[kept[0]].first} are gone, its dump is {newest}")
    if store.tables.floor() != made.floor:
        wrong.append(f"its floor is {store.tables.floor()}, to be {made.floor}")
    wrong += _versions(path, made.floor, sorted_versions(image.versions))
    wrong += _operations(path, made, list(image.operations))
    if wrong:
        world.violate(SAME, f"{node.name} at {index}: {'; '.join(wrong)[:600]}")


def _versions(path: list[Made], floor: int, found: list[Any]) -> list[str]:
    """Every version is what the log made; those that are superseded at the floor may be gone."""
    all_made = {
        (version.key, version.revision): version for each in path for version in each.versions
    }
    wrong = [f"{v} is to be {all_made.get((v.key, v.revision))}" for v in found
             if all_made.get((v.key, v.revision)) != v]  # fmt: skip
    there = {(version.key, version.revision) for version in found}
    following: dict[bytes, int] = {}
    for (key, revision), version in reversed(all_made.items()):
        next_revision = following.get(key)
        following[key] = revision
        superseded = next_revision is not None and next_revision <= floor
        buried = not version.present and revision <= floor
        if (key, revision) not in there and not superseded and not buried:
            wrong.append(f"{version} is not there, the floor is {floor}")
    return wrong


def _operations(path: list[Made], made: Made, found: list[Any]) -> list[str]:
    """Every operation is what the log recorded; only those past their retention may be gone."""
    recorded = {(o.op_id, o.revision): o for each in path for o in each.recorded}
    wrong = [f"{o} is to be {recorded.get((o.op_id, o.revision))}" for o in found
             if recorded.get((o.op_id, o.revision)) != o]  # fmt: skip
    there = {(operation.op_id, operation.revision) for operation in found}
    since_ms = max(made.known_since_ms, made.log_time_ms - made.limits.window_ms)
    wrong += [
        f"{o} is not there, op_ids are kept since {since_ms}"
        for place, o in recorded.items()
        if place not in there and o.log_time_ms >= since_ms
    ]
    return wrong


def check_disks(node: SimNode) -> None:
    """What a machine's disk and file keep through a power cut goes together (R4): the dump is not
    above the file's durable rows, and the log begins at the dump or before it.
    """
    if not node.up or not hasattr(node, "member") or not node.serving or node.file.hurt:
        return
    newest = node.member._core.environment.snapshots.newest
    store = node.own
    if newest is None or store is None or store.condition != "sound":
        return
    world, durable = node.world, node.file.durable.note
    world.counts["disks checked"] += 1
    made = world.reference.in_force(durable.index)
    ends = world.reference.last_at(newest.index)
    if durable.index < ends and (made is None or world.plan.keeps):
        world.violate(
            DISKS,
            f"{node.name} has a dump of {newest.index}, its durable rows end at {durable.index}",
        )
    first = node.member._journal[0][1]
    if first > newest.index:
        world.violate(DISKS, f"{node.name} has a log from {first} and a dump of {newest.index}")
