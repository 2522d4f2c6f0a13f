"""Know what time it really is in a simulated log, and watch what nodes take it for and how long
keys live.

It trusts no stamp: real time is the loop's. Log time may be lost only while nobody who is reached
has kept it.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from coordinator.logtime import SLEW
from kv.errors import KvError, NotApplied, OutcomeUnknown
from kv.model import Applied, Group, Intent, Put
from tests.simulation import nemesis

if TYPE_CHECKING:
    from tests.simulation.node import SimNode
    from tests.simulation.world import World

AHEAD_MS: Final = 20
"""What a member that keeps the time may be ahead of it, besides what was slewed."""
BEHIND_MS: Final = 500
BEHIND_S: Final = 1.0
"""… and behind, for so long: the first word that it heard may have been long on its way."""
GHOST_MS: Final = 3_000
"""… or where messages of connections that are gone come late: who has just started may take such a
leader's word.
"""
LEAP_MS: Final = 20 * 3_600_000
"""A time that was lost for so much forgets op_ids before their retention is over: nobody can know
better.
"""
HEARD_S: Final = 0.5
"""After a cut is mended a connection is made, and its first word says, within this."""
WRONG_MS: Final = 1_000
"""A wall clock that is off by no more is right."""
LIVES: Final = 3
"""Keys that are watched to their end after everything is mended."""
EARLY_S: Final = 0.2
LATE_S: Final = 0.5
"""A key lives its ttl, less by the first at most, or more by a sweep interval and the second."""
TTL_MS: Final = 700
SWEEP_S: Final = 0.5
"""What a simulated client asks for, and how often a simulated leader sweeps."""


class Timekeeper:
    """One world's."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._found: dict[int, tuple[int, float]] = {}
        """By the term in which a time was found: what it is ahead of the loop's, and when
        that was.
        """
        self._disturbed_s = -HEARD_S
        """When some could last not reach others in good time."""
        self._newest_row_ms = 0
        """The latest log time of any row that is in the ledger."""
        self._rows_ms: dict[int, int] = {}
        """… and what that was when a time was found, by the term in which it was."""
        self._blocked_s: dict[str, float] = {}
        """When a node was last seen blocked by its disk: it tells nobody the time then."""
        self._behind_s: dict[str, float] = {}
        """Since when a node that keeps the time is behind it."""
        self._lost: list[tuple[float, int]] = []
        """When time was found anew, as nobody had kept it, and by how much it then was ahead of
        what it had been.
        """
        self._built_s: dict[tuple[str, int, int], float] = {}
        self._stamped_s: dict[tuple[int, int], float] = {}
        """When the leader of a term first gave an entry a stamp."""
        self._given_s: dict[bytes, tuple[float, int]] = {}
        """By key: when the row of its newest put with a ttl was made, and that ttl."""

    # ------------------------------------------------------------------------------------- the time

    def looked(self, node: SimNode, *, knew: bool) -> None:
        """Judge a node's time after a look at the others' clocks."""
        time, world, now_s = node.coordinator.time, self._world, asyncio.get_running_loop().time()
        if world.network.disturbed:
            self._disturbed_s = now_s
        for other in world.serving:
            if other.process is not None and other.process.blocked(now_s):
                self._blocked_s[other.name] = now_s
        if not time.kept:
            self._behind_s.pop(node.name, None)
            return
        now_ms = node.coordinator.now_ms()
        off_ms = now_ms - int(now_s * 1000)
        found = self._found.get(time.found_in)
        if found is None:
            last = self._found[max(self._found)][0] if self._found else off_ms
            self._found[time.found_in] = off_ms, now_s
            self._rows_ms[time.found_in] = self._newest_row_ms
            if not self._nobody_kept(node):
                world.violate(
                    "Time (kept)", f"{node.name} finds the time anew, though others kept it"
                )
            self._judge_clocks(node, now_ms)
            self._lost.append((now_s, off_ms - last))
            world.counts["times lost"] += 1
            world.say("time found", node=node.name, ahead_ms=off_ms - last)
            return
        slewed_ms = (now_s - found[1]) * 1000 * SLEW
        behind_ms = BEHIND_MS + slewed_ms + (GHOST_MS if world.plan.ghosts else 0)
        wrong_ms = off_ms - found[0]
        # words may be as long on their way
        if wrong_ms >= -behind_ms or now_s - self._disturbed_s < HEARD_S:
            self._behind_s.pop(node.name, None)
        behind_s = (
            now_s - self._behind_s.setdefault(node.name, now_s) if wrong_ms < -behind_ms else 0.0
        )
        # When it was found no log that was left had the newest rows, and the clocks said less than
        # they: the Rebase that brings them raises log time to theirs.
        since_found_ms = (now_s - found[1]) * 1000
        rebased_ms = self._rows_ms[time.found_in] + since_found_ms + AHEAD_MS
        if wrong_ms > AHEAD_MS + slewed_ms and now_ms <= rebased_ms:
            self._found[time.found_in] = off_ms, now_s
            return
        if wrong_ms > AHEAD_MS + slewed_ms or (wrong_ms < -behind_ms and behind_s > BEHIND_S):
            what = f"{node.name} takes it for {wrong_ms} ms later than it is"
            world.violate(
                "Time (kept)", f"{what}, {'which it kept' if knew else 'though others kept it'}"
            )
            self._found[time.found_in] = off_ms, now_s

    @property
    def lost_s(self) -> float:
        """Return how much passed that log time knows nothing of: nobody had kept it, and clocks
        said less.
        """
        return sum(max(0, -by_ms) for _, by_ms in self._lost) / 1000

    @property
    def leapt(self) -> bool:
        """Say whether so much time was lost that retentions are over."""
        return any(by_ms > LEAP_MS for _, by_ms in self._lost)

    def _nobody_kept(self, node: SimNode) -> bool:
        """Say whether no other voter that runs kept the time, or may not have been reached.

        A member that does not vote is believed when it is heard, and not waited for: nobody
        promises that it is there.
        """
        voters = {member.id for member in node.coordinator.status().members if member.voter}
        others = [
            other for other in self._world.serving if other is not node and other.name in voters
        ]
        now_s = asyncio.get_running_loop().time()
        kept = [
            other
            for other in others
            if other.coordinator.time.kept
            and now_s - self._blocked_s.get(other.name, -HEARD_S) >= HEARD_S
        ]
        cut_off = now_s - self._disturbed_s < HEARD_S
        return not kept or cut_off or self._world.plan.ghosts

    def _judge_clocks(self, node: SimNode, now_ms: int) -> None:
        """As long as most clocks are right, those of all and those of the voters, what is found is
        no later than they say, and no earlier when all answer. Nobody waits for another.
        """
        world = self._world
        right_ms = node.clock.right_ms()
        off = {
            name: abs(other.clock.wall_ms() - right_ms) > WRONG_MS
            for name, other in world.nodes.items()
        }
        voters = {member.id for member in node.coordinator.status().members if member.voter}
        of_voters = [wrong for name, wrong in off.items() if name in voters]
        log_ms = node.coordinator.machine.log_time_ms
        most_right = sum(off.values()) * 2 < len(off) and sum(of_voters) * 2 < len(of_voters)
        if most_right and now_ms > max(right_ms, log_ms) + WRONG_MS:
            # One of two that were heard, of three, may be ahead: the lower of the two is taken.
            world.violate(
                "Time (found)",
                f"{node.name} begins {now_ms - right_ms} ms ahead, most clocks are right",
            )
        all_answer = len(world.serving) == len(world.nodes) and not world.network.disturbed
        if most_right and all_answer and now_ms < right_ms - 2 * WRONG_MS:
            world.violate(
                "Time (found)",
                f"{node.name} begins {right_ms - now_ms} ms behind, most clocks are right",
            )

    # ------------------------------------------------------------------------------------- the keys

    def built(self, group: Group) -> None:
        """Take note of when a group was made: what it says of its log time is not believed."""
        row = group.row
        self._built_s.setdefault(
            (row.committer, row.first, row.log_time_ms), asyncio.get_running_loop().time()
        )

    def stamped(self, term: int, stamp_ms: int) -> None:
        """Take note of when a leader stamped an entry: the stamp is only a name here."""
        self._stamped_s.setdefault((term, stamp_ms), asyncio.get_running_loop().time())

    def stamped_s(self, term: int, stamp_ms: int) -> float | None:
        """Return when an entry got its stamp."""
        return self._stamped_s.get((term, stamp_ms))

    def landed(self, group: Group, stamped_s: float | None = None) -> None:
        """Judge how long the keys lived that the group's deletes end; only sweeps delete keys with
        a ttl. `stamped_s`: when the leader of a replicated log ordered the group.
        """
        row, now_s = group.row, asyncio.get_running_loop().time()
        self._newest_row_ms = max(self._newest_row_ms, row.log_time_ms)
        built_s = self._built_s.get((row.committer, row.first, row.log_time_ms), now_s)
        built_s = built_s if stamped_s is None else stamped_s
        for version in group.versions:
            given = self._given_s.pop(version.key, None)
            if version.expires_ms is not None:
                self._given_s[version.key] = built_s, TTL_MS
            elif given is not None and not version.present:
                self._judge_life(version.key, given[0], given[1], built_s)

    def given_s(self, key: str) -> float | None:
        """Return when the row was made that gave a key its time to live; None where there
        is none.
        """
        given = self._given_s.get(key.encode())
        return None if given is None else given[0]

    def _judge_life(self, key: bytes, given_s: float, ttl_ms: int, ended_s: float) -> None:
        lost_ms = sum(max(0, by_ms) for at_s, by_ms in self._lost if given_s < at_s <= ended_s)
        lived_s = ended_s - given_s
        self._world.counts["lives judged"] += 1
        if lived_s * 1000 + lost_ms < ttl_ms - EARLY_S * 1000:
            self._world.violate(
                "TTL", f"{key.decode()} lives {lived_s:.3f} s of {ttl_ms / 1000:g} s"
            )


# ----------------------------------------------------------------------------------------- the calm


async def lives(world: World) -> None:
    """Let keys live while clocks step and leaders hand on, and nothing else is broken: they end in
    time.
    """
    rng = world.rng_of("lives")
    for number in range(LIVES):
        await _live(world, rng, f"life{number}")
        if world.violations:
            return


async def _live(world: World, rng: random.Random, key: str) -> None:
    loop, node = asyncio.get_running_loop(), rng.choice(world.serving)
    intent = Intent(node.writes.new_op_id(), 0, writes=(Put(key.encode(), b"alive", TTL_MS),))
    try:
        answer = await node.call(
            lambda: node.writes.one(intent, deadline=loop.time() + TTL_MS / 1000)
        )
    except (NotApplied, OutcomeUnknown):
        return  # its fate is judged like any other
    if not isinstance(answer.outcome, Applied):
        world.violate("Liveness", f"a write in the calm is {answer.outcome}")
        return
    given_s = world.times.given_s(key)
    if given_s is None:
        world.violate("INV-2", f"{key} is acknowledged, and no row of the ledger made it")
        return
    await asyncio.sleep(rng.uniform(0.0, TTL_MS / 1000))
    if "clock" in world.plan.faults:
        some = rng.sample(list(world.nodes.values()), rng.randint(1, len(world.nodes)))
        nemesis.step_clocks(world, some, rng.choice(nemesis.STEPS_S))
    leader = world.leader()
    if leader is not None and len(world.nodes) > 1 and rng.random() < 0.4:
        with suppress(KvError, TimeoutError):
            await leader.call(lambda: leader.coordinator.transfer(None, timeout_s=0.3))
    ends_s = given_s + TTL_MS / 1000 + SWEEP_S + LATE_S
    while world.landed.newest(key.encode(), 1 << 53).present:  # type: ignore[union-attr]
        if loop.time() > ends_s:
            world.violate(
                "TTL",
                f"{key} is still there {loop.time() - given_s:.3f} s after it was given "
                f"{TTL_MS} ms",
            )
            return
        await asyncio.sleep(0.01)
    world.counts["expired keys"] += 1
