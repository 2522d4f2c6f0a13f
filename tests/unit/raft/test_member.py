"""One member after another: order, forward, fail over, restart, read."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from coordinator.log import Position
from coordinator.raft.core.pysyncobj_library import MEMBERSHIP
from coordinator.raft.storage.journal import Journal
from kv.errors import NewerCommand, NotApplied, OutcomeUnknown
from tests.unit.raft.cluster import FAST, Cluster, Tape, eventually, virtual
from tests.virtual import VirtualLoop


@virtual
async def test_a_command_is_applied_everywhere_at_one_position() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        for name, member in cluster.members.items():
            position = await member.propose(name.encode())
            assert member.applied == position or member.applied > position
        assert await cluster.agree() == [b"A", b"B", b"C"]
        assert cluster.tapes["A"].stamps == cluster.tapes["B"].stamps == cluster.tapes["C"].stamps
        assert leader.status().role == "leader"


@virtual
async def test_one_member_alone_works_the_same() -> None:
    async with Cluster("A") as cluster:
        member = await cluster.leader()
        position = await member.propose(b"x")
        member.open_reads(member.status().term)
        assert await member.read_index(timeout_s=5) >= position


@virtual
async def test_where_no_sync_is_promised_one_member_alone_waits_for_no_timer() -> None:
    for fsync in ("interval", "off"):
        async with Cluster("A", msgspec.structs.replace(FAST, fsync=fsync)) as cluster:
            member = await cluster.leader()
            await member.propose(b"first")
            began = asyncio.get_running_loop().time()
            await member.propose(b"second")
            assert asyncio.get_running_loop().time() == began


class HeavyTape(Tape):
    """A replica on which each command takes 0.2 s."""

    def apply(self, position: Position, stamp_ms: int, command: bytes) -> None:
        super().apply(position, stamp_ms, command)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.pass_time(0.2)


@virtual
async def test_a_rest_after_a_heavy_command_is_spent_without_ticks() -> None:
    async with Cluster("A", tape=HeavyTape) as cluster:
        member = await cluster.leader()
        core, ticks = member._core, 0
        tick = core.tick

        def counted() -> None:
            nonlocal ticks
            ticks += 1
            assert ticks < 1000, "one tick asks for the next"
            tick()

        core.tick = counted  # type: ignore[method-assign]
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(member.propose(b"%d" % i) for i in range(5)))
        took = asyncio.get_running_loop().time() - began
        assert cluster.tapes["A"].commands == [b"%d" % i for i in range(5)]
        assert took >= 5 * 0.2 + 4 * 0.2, "as long as the commands"


@virtual
async def test_survivors_elect_and_keep_what_was_acknowledged() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        for i in range(20):
            await leader.propose(b"%d" % i)
        term = leader.status().term
        await cluster.stop(leader.id)
        following = await cluster.leader(after=term)
        await following.propose(b"after")
        assert await cluster.agree() == [*(b"%d" % i for i in range(20)), b"after"]
        await cluster.start(leader.id)
        await cluster.agree()


@virtual
async def test_everything_survives_a_restart_of_all() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        for i in range(20):
            await leader.propose(b"%d" % i)
        for name in "ABC":
            await cluster.stop(name)
        for name in "ABC":
            await cluster.start(name)
        await cluster.leader()
        assert await cluster.agree() == [b"%d" % i for i in range(20)]


@virtual
async def test_without_a_quorum_nothing_is_ordered_and_the_leader_steps_down() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        others = "".join(n for n in "ABC" if n != leader.id)
        cluster.net.partition(leader.id, others)
        lost = leader.propose(b"alone")
        await eventually(lambda: leader.status().role != "leader")
        with pytest.raises(NotApplied):
            await leader.propose(b"no leader")
        following = await cluster.leader(among=others)
        await following.propose(b"kept")
        cluster.net.heal()
        with pytest.raises(NotApplied):
            await lost
        assert await cluster.agree() == [b"kept"]


@virtual
async def test_a_forwarded_command_whose_connection_breaks_is_unknown_and_not_sent_twice() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        follower = next(m for m in cluster.members.values() if m is not leader)
        await eventually(lambda: follower.status().leader == leader.id)
        cluster.net.hold(leader.id, follower.id)
        future = follower.propose(b"once")
        await eventually(lambda: b"once" in cluster.tapes[leader.id].commands)
        cluster.net.down(frozenset((leader.id, follower.id)))
        with pytest.raises(OutcomeUnknown):
            await future
        cluster.net.release(leader.id, follower.id)
        cluster.net.settle()
        assert await cluster.agree() == [b"once"]


@virtual
async def test_a_leader_whose_disk_is_behind_takes_no_more_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        follower = next(m for m in cluster.members.values() if m is not leader)
        monkeypatch.setattr("coordinator.raft.core.commands.queue.FORWARDED_BYTES_MAX", -1)
        with pytest.raises(NotApplied, match="queue") as refused:
            await follower.propose(b"too much")
        assert refused.value.reason == "overloaded"
        monkeypatch.undo()
        await follower.propose(b"room again")
        assert await cluster.agree() == [b"room again"]


@virtual
async def test_reads_are_confirmed_by_a_quorum_from_every_member() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        with pytest.raises(NotApplied) as refused:
            await leader.read_index(timeout_s=5)
        assert refused.value.reason == "not_taken_over"
        leader.open_reads(leader.status().term)
        position = await leader.propose(b"x")
        for member in cluster.members.values():
            read = await member.read_index(timeout_s=5)
            assert read >= position
            await member.wait_applied(read, timeout_s=5)
            assert member.applied >= read
        before = cluster.net.sent["read_ping"]
        answers = await asyncio.gather(*(leader.read_index(timeout_s=5) for _ in range(500)))
        assert all(answer >= position for answer in answers)
        assert cluster.net.sent["read_ping"] - before <= 4


@pytest.mark.parametrize("asked", ["the leader", "a follower"])
@virtual
async def test_reads_wait_a_moment_for_a_leader_that_is_taking_over(asked: str) -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        member = leader
        if asked == "a follower":
            member = next(m for m in cluster.members.values() if m is not leader)
        early = asyncio.ensure_future(member.read_index(timeout_s=5))
        await asyncio.sleep(0.1)
        assert not early.done()
        leader.open_reads(leader.status().term)
        assert await early >= Position(1, leader.status().term)
        assert await leader.propose(b"x") > await early


@virtual
async def test_a_leader_that_does_not_take_over_keeps_reads_waiting_once() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        loop = asyncio.get_running_loop()
        took = []
        for _ in range(2):
            began = loop.time()
            with pytest.raises(NotApplied) as refused:
                await leader.read_index(timeout_s=5)
            assert refused.value.reason == "not_taken_over"
            took.append(loop.time() - began)
        assert took[0] > took[1]
        assert took[1] < FAST.election_min_s / 2


@virtual
async def test_notes_travel() -> None:
    async with Cluster() as cluster:
        await cluster.leader()
        await eventually(
            lambda: all(len(p.note) > 0 for m in cluster.members.values() for p in m.status().peers)
        )


@virtual
async def test_wait_applied_wants_the_very_entry() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        position = await leader.propose(b"x")
        await leader.wait_applied(position, timeout_s=1)
        with pytest.raises(TimeoutError):
            await leader.wait_applied(Position(position.index, position.term + 1), timeout_s=0.05)


class OldTape(Tape):
    """Of a version that does not know one command."""

    def apply(self, position: Position, stamp_ms: int, command: bytes) -> None:
        if command == b"new":
            raise NewerCommand("a command of kind 'new'")
        super().apply(position, stamp_ms, command)


@pytest.mark.parametrize("entry", ["command", "kind"])
@virtual
async def test_a_member_stops_before_what_it_does_not_know_and_goes_on_there_in_the_new_version(
    entry: str,
) -> None:
    cluster = Cluster()
    async with cluster:
        leader = await cluster.leader()
        old = next(name for name in "ABC" if name != leader.id)
        await cluster.stop(old)
        cluster.tape = OldTape
        member = await cluster.start(old)
        await leader.propose(b"both know it")
        await cluster.agree()
        if entry == "kind":  # of an entry of the log itself
            core = member._core
            core.pysyncobj.journal.add(b"\x7fnew", core.log.last_index + 1, core.term)
            core.pysyncobj.commit_index += 1
            core.environment.wake()
        else:
            await leader.propose(b"new")
            await leader.propose(b"and more")
        await eventually(lambda: bool(cluster.faults))
        (fault,) = cluster.faults
        assert isinstance(fault, NewerCommand)
        assert (fault.code, "upgrade" in str(fault.allowed)) == ("log_newer", True)
        await asyncio.sleep(3)
        assert cluster.tapes[old].commands == [b"both know it"], "nothing behind it is applied"
        cluster.faults.clear()
        if entry == "command":
            await cluster.stop(old)
            cluster.tape = Tape
            await cluster.start(old)
            assert await cluster.agree() == [b"both know it", b"new", b"and more"]


@virtual
async def test_a_journal_with_a_later_versions_configuration_is_refused_by_name() -> None:
    """A member that stopped at such an entry may have it on its disk, and is started again before
    it is upgraded.
    """
    async with Cluster() as cluster:
        leader = await cluster.leader()
        old = next(name for name in "ABC" if name != leader.id)
        await cluster.agree()
        await cluster.stop(old)
        journal = Journal(disk=cluster.disks[old], cluster="test", member=old, fsync="always")
        _, index, term = journal[-1]
        journal.add(MEMBERSHIP + b"\xc1", index + 1, term)
        journal.flush()
        await journal.aclose()
        with pytest.raises(NewerCommand) as refused:
            await cluster.start(old)
        assert refused.value.code == "log_newer"
