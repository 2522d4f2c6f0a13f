"""Run one seed from start to verdict: chaos, healing, convergence, and every promise checked by
name.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
from bisect import bisect_right
from collections.abc import Callable, Coroutine, MutableMapping
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from chaos.checkers.registers import register
from chaos.checkers.verdict import Verdict
from coordinator.machine.chain import recompute
from kv.errors import KvError
from kv.model import Again, Applied, Cancel, Expired, Refused
from tests.planted.registry import planted
from tests.simulation import aimed, levels, moments, nemesis, own, own_harms, ties
from tests.simulation.clients import SHORT_LIVED, Clients
from tests.simulation.leasing import OWNERS
from tests.simulation.loop import OrderedTaskGroup, SimLoop
from tests.simulation.node import SimNode
from tests.simulation.plans import Plan, Plant, plan_of
from tests.simulation.timekeeping import lives
from tests.simulation.world import Violation, World

T = TypeVar("T")
LATE_S = 3.0
"""How long after its deadline a change may still land: a group that was built in time, and its
transaction's delay.
"""
HEAL_S = 20.0
"""After healing everything has to be answered, led and converged within this."""


@dataclass(frozen=True)
class Result:
    """What came of one seed."""

    plan: Plan
    violations: tuple[Violation, ...]
    counts: dict[str, int]
    trace: tuple[str, ...]
    simulated_s: float

    @property
    def digest(self) -> str:
        """Return a hash of the whole trace: the same seed gives the same."""
        return hashlib.blake2b("\n".join(self.trace).encode(), digest_size=16).hexdigest()


def run(
    seed: int, plant: Plant | None = None, plan: Plan | None = None, *, stop: bool = False
) -> Result:
    """Simulate one seed, to its end or (`stop`) to its first violation.

    Deterministic: no clock, no other generator, no hash order of this process has any part in it.
    """
    with planted(*(plant.faults if plant else ())):
        return on_a_loop(lambda: _simulate(plan or plan_of(seed), plant, stop=stop))


def on_a_loop(story: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a story of a world on a simulated loop, and end all that it leaves."""
    logs = structlog.get_config() if structlog.is_configured() else None
    structlog.configure(processors=[_silent], cache_logger_on_first_use=False)
    saved, asyncio.TaskGroup = asyncio.TaskGroup, OrderedTaskGroup  # type: ignore[misc]
    loop = SimLoop()
    asyncio.set_event_loop(loop)
    collected = gc.isenabled()
    gc.disable()  # what a collection finds it may report, at moments that no seed decides
    try:
        return loop.run_until_complete(story())
    finally:
        asyncio.TaskGroup = saved  # type: ignore[misc]
        _end(loop)
        asyncio.set_event_loop(None)
        if collected:
            gc.enable()
        structlog.reset_defaults()
        if logs is not None:
            structlog.configure(**logs)


def _silent(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    raise structlog.DropEvent


def _end(loop: SimLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.set_exception_handler(lambda loop, context: None)
    for _ in range(50):
        loop.call_soon(loop.stop)
        loop.run_forever()
        if not asyncio.all_tasks(loop):
            break
    loop.close()


async def _simulate(plan: Plan, plant: Plant | None, *, stop: bool) -> Result:
    loop = asyncio.get_running_loop()
    world = World(plan, plant)
    clients = Clients(world)
    if stop:
        world.failed = asyncio.Event()
    world.say("plan", plan=plan)
    for node in world.nodes.values():
        node.start()
    await _told(world, clients)
    if world.serving:
        world.check_logs()
    _check(world, clients)
    world.over = True
    for node in world.nodes.values():
        node.crash(power=False)
    world.counts["ambiguous commits"] = world.store_faults.counts["ambiguous"]
    world.counts["shared cache hits"] = world.cache.hits
    world.counts |= {f"network {name}": number for name, number in world.network.counts.items()}
    for error in getattr(loop, "errors", [])[:3]:
        world.violate("Unhandled", error)
    return Result(plan, tuple(world.violations), world.counts, tuple(world.trace), loop.time())


async def _told(world: World, clients: Clients) -> None:
    """Tell the story, to its end or to the first violation."""
    story = asyncio.get_running_loop().create_task(_story(world, clients))
    failed = asyncio.get_running_loop().create_task((world.failed or asyncio.Event()).wait())
    await asyncio.wait([story, failed], return_when=asyncio.FIRST_COMPLETED)
    failed.cancel()
    if story.done():
        story.result()
    else:
        story.cancel()
        await asyncio.wait([story])


async def _story(world: World, clients: Clients) -> None:
    loop = asyncio.get_running_loop()
    if world.plan.eager:
        for node in world.nodes.values():
            world.impatient.append(loop.create_task(moments.early(world, node)))
    if not await world.until(
        lambda: _writable(world) and _told_the_time(world),
        5.0,
        lambda: "a first leader that takes writes",
    ):
        return
    until_s = loop.time() + world.plan.chaos_s
    async with asyncio.TaskGroup() as group:
        for number in range(world.plan.clients):
            group.create_task(clients.run(number, until_s))
        group.create_task(nemesis.torment(world, until_s))
        for number in range(OWNERS if world.plan.leases else 0):
            group.create_task(world.leasing.own(number + 1, until_s))
        group.create_task(own.samples(world, until_s))
    nemesis.heal(world)
    levels.upgrade_all(world)
    if world.violations:
        return
    if world.plan.restores and not await _adopt(world):
        return
    await _lost_more_than_is_kept(world)
    await ties.settle(world)
    if not await world.until(
        lambda: _writable(world), HEAL_S, lambda: "a leader that takes writes after healing"
    ):
        return
    if not await aimed.replace_lost(world, HEAL_S):
        world.violate("Liveness", "a member whose disk was lost cannot be removed")
        return
    _retire_removed(world)
    if not await world.until(
        lambda: levels.switched(world), HEAL_S, lambda: "the level that all members speak"
    ):
        return
    await clients.look_up_all()
    rng = world.rng_of("final")
    for node in list(world.serving):
        for _ in range(10):
            if not await clients.operation("last", rng, node):
                break
    if not await world.until(
        lambda: _converged(world), HEAL_S, lambda: f"convergence ({_spread(world)})"
    ):
        return
    for node in world.serving:
        own.compare(node, whole=True)
    if not world.plan.restores:
        await clients.read_everywhere()
        await lives(world)
        await world.until(
            lambda: _expired(world), HEAL_S, lambda: "keys with a time to live to be gone"
        )
        await world.until(lambda: _all_told(world), HEAL_S, lambda: "everything broadcast")


def _retire_removed(world: World) -> None:
    """Take away the machines of members whose removal was ordered, also where nobody heard that it
    was.
    """
    leader = world.leader()
    members = (
        {member.id for member in leader.coordinator.status().members}
        if leader is not None
        else set(world.nodes)
    )
    for name in [name for name in world.nodes if name not in members]:
        world.say("retired", node=name)
        node = world.nodes.pop(name)
        node.wanted = False
        node.crash(power=False)


def _writable(world: World) -> bool:
    leader = world.leader()
    return leader is not None and leader.coordinator.leading.taken_over


def _told_the_time(world: World) -> bool:
    """Say whether every node has heard of a leader: it knows no deadline before."""
    return all(node.coordinator.stamped for node in world.serving)


async def _lost_more_than_is_kept(world: World) -> None:
    """Without fsync a log may lose more than the store has rows of: then too the operator has to
    adopt its head.
    """
    loop = asyncio.get_running_loop()
    ends = loop.time() + HEAL_S
    while not world.plan.raft_keeps and loop.time() < ends and not _writable(world):
        leader = world.leader()
        if leader is not None and leader.coordinator.refusal in {"store_pruned", "store_history"}:
            world.counts["pruned past"] = world.counts.get("pruned past", 0) + 1
            await _adopt(world)
            return
        await asyncio.sleep(0.1)


async def _adopt_at(node: SimNode) -> int:
    given = node.coordinator.status().gives_up
    return await node.coordinator.adopt(gives_up=given, timeout_s=3.0)


async def _write_once(node: SimNode) -> None:
    for waits in node.coordinator.submit([Cancel("notice")]):
        waits.add_done_callback(lambda done: done.cancelled() or done.exception())
    await asyncio.sleep(0.5)


async def _adopt(world: World) -> bool:
    """Be the operator: adopt the head of a restored store, if the cluster refuses it."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + HEAL_S
    while loop.time() < ends:
        leader = world.leader()
        if leader is not None and leader.coordinator.refusal is not None:
            try:
                adopted = await leader.call(lambda n=leader: _adopt_at(n))  # type: ignore[misc]
                world.say("adopted", revision=adopted)
            except (KvError, TimeoutError) as exc:
                world.say("not adopted", why=exc)
        elif (
            leader is not None
            and world.landed.head().last < leader.coordinator.machine.settled.revision
        ):
            await leader.call(lambda n=leader: _write_once(n))  # type: ignore[misc]  # else nobody notices
        elif _writable(world):
            await asyncio.sleep(1.0)
            if leader is not None and leader.coordinator.refusal is None and _writable(world):
                return True
        await asyncio.sleep(0.1)
    world.violate("Liveness", "the head of a restored store is not adopted")
    return False


def _converged(world: World) -> bool:
    machines = [
        node.coordinator.machine for node in world.nodes.values() if node.up and node.serving
    ]
    if len(machines) < len(world.nodes):
        return False
    if world.plan.replicated and not all(own_harms.is_sound(node) for node in world.serving):
        return False
    head = world.landed.head()
    places = {(m.revision, m.digest, m.settled.revision, m.settled.digest) for m in machines}
    return len(places) == 1 and next(iter(places)) == (
        head.last,
        head.digest,
        head.last,
        head.digest,
    )


def _spread(world: World) -> str:
    return " ".join(
        f"{n.name}:{n.coordinator.machine.settled.revision}/{n.coordinator.machine.revision}"
        for n in world.serving
    )


def _expired(world: World) -> bool:
    newest = [world.landed.newest(key.encode(), 1 << 53) for key in SHORT_LIVED]
    gone = [version for version in newest if version is not None and not version.present]
    world.counts["expired keys"] = len(gone)
    return all(version is None or not version.present for version in newest)


def _all_told(world: World) -> bool:
    told = {change.revision for change in world.broker.told}
    undone = [
        (change.undone_after, change.revision)
        for change in world.broker.told
        if change.undone_after is not None
    ]
    made = {version.revision for versions in world.landed.history.values() for version in versions}
    return all(any(after < one <= to for after, to in undone) for one in made - told)


# ------------------------------------------------------------------------------------------- checks


def _check(world: World, clients: Clients) -> None:
    """Check what clients were told against what landed (INV-1 to INV-6)."""
    _check_ledger(world)
    _check_broadcast(world)
    if world.plan.replicated:
        _check_watchers(world)
    if not world.plan.loses and not world.times.leapt:
        _check_answers(world, clients)
        _check_deadlines(world, clients)
        _check_linearizable(world, clients)


def _check_watchers(world: World) -> None:
    """Check what watchers were told, and the positions that they may have kept, also where a quorum
    lost what had been told (R12).
    """
    for node in world.serving:
        for revision, op_id in node.feed.told.items():
            if world.op_id_at(revision) != op_id:
                world.violate(
                    "INV-6 (undone)", f"{node.name} told {op_id}@{revision}, and never took it back"
                )
        for (revision, term), op_id in world.kept.items():
            row = world.landed.landed.get(revision)
            there = row is not None and row.term == term and world.op_id_at(revision) == op_id
            taken = node.coordinator.holds_to(revision, term) == revision
            world.counts["positions undone"] += not taken
            if taken != there:
                found = "in force" if taken else "lost"
                what = f"takes {op_id}@{revision} of term {term} for {found}, and there is {row}"
                world.violate("INV-6 (positions)", f"{node.name} {what}")


def _check_ledger(world: World) -> None:
    rows = world.landed.rows_ever
    if not world.plan.restores:
        found = recompute(rows)
        if found is not None:
            world.violate("INV-6 (ledger)", f"row {found.seq} {found.why}")
    first: dict[str, int] = {}
    dated: dict[str, int] = {}
    for revision in sorted(world.landed.landed):
        row = world.landed.landed[revision]
        record = row.body[revision - row.first]
        if isinstance(record.outcome, Applied | Refused | Expired):
            age_ms = row.log_time_ms - dated.get(record.op_id, 0)
            over = world.plan.replicated and age_ms > world.plan.window_ms
            dated[record.op_id] = row.log_time_ms
            if record.op_id in first and not world.times.leapt and not over:
                world.violate(
                    "INV-3",
                    f"{record.op_id} is recorded at {first[record.op_id]} and at {revision}",
                )
            first[record.op_id] = revision


def _check_broadcast(world: World) -> None:
    """Every message tells of something committed; none is skipped: a repeat goes back, never ahead
    (INV-6).

    An adoption tells of all up to it that was not told: whoever hears of it reads afresh.
    """
    if world.plan.loses:
        return
    made = sorted({v.revision for versions in world.landed.history.values() for v in versions})
    place = {revision: n for n, revision in enumerate(made)}
    reached = -1
    for change in world.broker.told:
        at = place.get(change.revision)
        if change.undone_after is not None:
            at = bisect_right(made, change.revision) - 1
            if reached + 1 <= at and made[reached + 1] <= change.undone_after:
                what = (
                    f"an adoption at {change.revision} undoes what is after {change.undone_after}"
                )
                world.violate("INV-6", f"{what}, {made[reached + 1]} never was broadcast")
            reached = max(reached, at)
            continue
        if at is None:
            if change.versions:
                world.violate(
                    "INV-6", f"revision {change.revision} is broadcast and not in the store"
                )
            continue
        if at > reached + 1:
            world.violate(
                "INV-6", f"revision {change.revision} is broadcast, {made[reached + 1]} never was"
            )
        reached = max(reached, at)
        for version in change.versions:
            if version not in world.landed.history.get(version.key, ()):
                world.violate("INV-6", f"{version} is broadcast and not in the store")


def _check_answers(world: World, clients: Clients) -> None:
    landed: dict[str, dict[int, object]] = {}
    for revision, row in world.landed.landed.items():
        record = row.body[revision - row.first]
        landed.setdefault(record.op_id, {})[revision] = record.outcome
    definite: dict[str, object] = {}
    for told in clients.told:
        answer = told.answer
        if answer is None:
            continue
        at, outcome = answer.revision, answer.outcome
        if isinstance(outcome, Again):
            at, outcome = outcome.revision, outcome.outcome
        if landed.get(told.op_id, {}).get(at) != outcome:
            promise = "INV-2" if isinstance(outcome, Applied) else "INV-4"
            world.violate(
                promise,
                f"{told.op_id} was told {outcome} at {at}, the ledger has {landed.get(told.op_id)}",
            )
        if definite.setdefault(told.op_id, (at, outcome)) != (at, outcome):
            world.violate(
                "INV-3", f"{told.op_id} was told {definite[told.op_id]} and {(at, outcome)}"
            )
    for operation in clients.history:
        if operation.outcome != "fail" or operation.op_id is None:
            continue
        applied = [o for o in landed.get(operation.op_id, {}).values() if isinstance(o, Applied)]
        if applied:
            world.violate(
                "INV-4", f"{operation.op_id} was told not applied, the ledger has {applied}"
            )


def _check_deadlines(world: World, clients: Clients) -> None:
    """Nothing lands long after its last deadline: whoever waited for it was told, or may look it up
    (INV-4).
    """
    for revision, row in world.landed.landed.items():
        record = row.body[revision - row.first]
        deadline_s = clients.deadline_s.get(record.op_id)
        late_s = world.landed.landed_s[revision] - (deadline_s or float("inf"))
        if isinstance(record.outcome, Applied) and late_s > LATE_S + world.times.lost_s:
            world.violate(
                "INV-4 (deadline)", f"{record.op_id} lands {late_s:.1f} s after its deadline"
            )


def _check_linearizable(world: World, clients: Clients) -> None:
    operations = [o for o in clients.history if o.key != "large"]
    judged = register.check(operations, initial=None)
    if judged.verdict is not Verdict.OK:
        finding = judged.findings[0]
        name = "INV-1" if judged.verdict is Verdict.ILLEGAL else "Undecided"
        world.violate(name, finding.message)
        for operation in finding.operations:
            world.say("story", operation=operation)
