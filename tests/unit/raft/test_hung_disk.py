"""A disk that hangs costs its member the lead, not the cluster its writes; what nobody can store is
refused in time.
"""

from __future__ import annotations

import asyncio

import pytest
from pysyncobj.node import Node

from coordinator.raft.core.rules.tail import (
    DISK_PATIENCE,
    MARKS_MAX,
    UNCOMMITTED_BYTES_MAX,
    Uncommitted,
    Unsynced,
    steps_aside,
)
from coordinator.raft.member import Member, Settings
from kv.errors import KvError, NotApplied
from tests.unit.raft.cluster import Cluster, eventually, virtual

HANGS_S = 150.0
MIB = 1 << 20


async def release(cluster: Cluster) -> None:
    """Let every disk go on: what hung is done at last."""
    for disk in cluster.disks.values():
        disk.slow_s = 0.0
    await asyncio.sleep(HANGS_S + 1)


def unsynced_s(member: Member) -> float:
    return member.status().unsynced_age_s


@virtual
async def test_a_leader_whose_disk_hangs_steps_aside_and_is_not_elected_while_it_does() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        await cluster.agree()
        assert unsynced_s(leader) == 0.0
        cluster.disks[leader.id].slow_s = HANGS_S
        term = leader.status().term
        await leader.propose(b"a majority has it")
        others = "".join(name for name in "ABC" if name != leader.id)
        new = await cluster.leader(among=others, after=term)
        assert leader._core.environment.counts["disk_resignations"] == 1
        assert unsynced_s(leader) > DISK_PATIENCE * Settings().election_max_s
        for origin in (leader, new):
            await origin.propose(b"through " + origin.id.encode())
        # now the two are left, and nothing commits without the one that hangs
        await cluster.stop(new.id)
        last = cluster.members[next(name for name in others if name != new.id)]
        await eventually(lambda: last.status().role == "leader")
        await asyncio.sleep(5.0)
        assert leader._core.environment.counts.get("leaderships") == 1
        await release(cluster)
        assert unsynced_s(leader) == 0.0
        await leader.transfer(leader.id, timeout_s=10)
        assert leader.status().role == "leader"


@virtual
async def test_a_member_whose_disk_hangs_does_not_stand_when_it_is_told_to() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        await cluster.agree()
        other = next(member for member in cluster.members.values() if member is not leader)
        cluster.disks[other.id].slow_s = HANGS_S
        await leader.propose(b"the others have it")
        await eventually(lambda: unsynced_s(other) > DISK_PATIENCE * Settings().election_max_s)
        term = leader.status().term
        message = {"type": "timeout_now", "term": term}
        other._core.on_message(Node(leader.id), message)
        other.outrank(term)
        await asyncio.sleep(2.0)
        assert leader.status().role == "leader"
        assert leader.status().term == term
        await release(cluster)


@virtual
async def test_a_leader_stays_while_no_majority_syncs_and_its_tail_is_bounded() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        await cluster.agree()
        for name in "ABC":
            cluster.disks[name].slow_s = HANGS_S if name != leader.id else 0.0
        futures = []
        for _ in range(5):
            futures += [leader.propose(b"y" * MIB) for _ in range(40)]
            # those that wait are unknown after ten seconds, and others may come
            await asyncio.sleep(10.5)
        core = leader._core
        tail = [core.pysyncobj.journal[n] for n in range(len(core.pysyncobj.journal))]
        held = sum(
            len(command) for command, index, _ in tail if index > core.pysyncobj.commit_index
        )
        assert UNCOMMITTED_BYTES_MAX < held <= UNCOMMITTED_BYTES_MAX + 2 * MIB
        assert leader.status().role == "leader"
        refused = [future for future in futures if isinstance(future.exception(), NotApplied)]
        unknown = [future for future in futures if not isinstance(future.exception(), NotApplied)]
        assert {future.exception().reason for future in refused} == {"overloaded"}  # type: ignore[union-attr]
        await release(cluster)
        said = await cluster.agree()
        assert len(said) == len(unknown), "what was refused is in no log"
        await leader.propose(b"there is room again")


@virtual
async def test_who_has_stepped_aside_passes_commands_on_whatever_waits_for_its_own_disk() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        await cluster.agree()
        cluster.disks[leader.id].slow_s = HANGS_S
        await leader.propose(b"this is what hangs, and all that comes now waits behind it")
        futures = [leader.propose(b"y" * MIB) for _ in range(63)]
        await asyncio.gather(*futures, return_exceptions=True)
        others = "".join(name for name in "ABC" if name != leader.id)
        await cluster.leader(among=others)
        done = 0
        for _ in range(8):
            try:
                await leader.propose(b"z" * MIB)
                done += 1
            except KvError:
                await asyncio.sleep(0.5)
        assert done >= 7
        await release(cluster)


def test_the_oldest_mark_is_that_of_the_oldest_entry() -> None:
    unsynced = Unsynced()
    unsynced.note(synced=5, last=5, now=0.0)
    assert (unsynced.oldest, unsynced.age_s(9.0)) == (None, 0.0)
    unsynced.note(5, 7, 10.0)
    unsynced.note(5, 9, 11.0)
    assert (unsynced.oldest, unsynced.age_s(12.0)) == (7, 2.0)
    unsynced.note(7, 9, 12.0)
    assert (unsynced.oldest, unsynced.age_s(12.0)) == (9, 1.0)
    unsynced.note(7, 8, 13.0)  # cut
    assert (unsynced.oldest, unsynced.age_s(13.0)) == (8, 2.0)
    unsynced.note(7, 7, 14.0)
    assert unsynced.oldest is None
    for index in range(8, 3 * MARKS_MAX):
        unsynced.note(7, index, float(index))
    unsynced.note(3 * MARKS_MAX - 2, 3 * MARKS_MAX - 1, 9e9)
    assert unsynced.age_s(9e9) > 9e9 - 3 * MARKS_MAX  # too old rather than too young


@pytest.mark.parametrize(
    ("committed", "age_s", "goes"), [(8, 2.0, True), (8, 1.7, False), (7, 99.0, False)]
)
def test_steps_aside(committed: int, age_s: float, goes: bool) -> None:
    unsynced = Unsynced()
    unsynced.note(7, 8, 100.0)
    assert steps_aside(unsynced, committed, 0.6, 100.0 + age_s) is goes


def test_uncommitted_bytes() -> None:
    tail = Uncommitted()
    tail.begin([(b"abc", 4, 1), (b"de", 5, 1)])
    tail.add(6, 10)
    assert tail.bytes == 15
    tail.commit(5)
    assert tail.bytes == 10
    tail.begin([])
    assert tail.bytes == 0
