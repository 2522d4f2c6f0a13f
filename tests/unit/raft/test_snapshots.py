"""Compaction, restart from snapshot and log, transfer to a member that is far behind, overwritten
logs.
"""

from __future__ import annotations

import asyncio
import copy
import errno
import itertools

import msgspec
import pytest

from coordinator.raft.core.compaction import SAVE_AGAIN_S
from coordinator.raft.core.leading.snapshot_sender import CHUNK_BEATS_MAX
from coordinator.raft.member import Member, Settings
from coordinator.raft.storage.snapshot_format import DIGEST_BYTES
from coordinator.raft.storage.snapshot_stream import Chunk
from kv.errors import BadRequest
from tests.simulation.disk import SimFile
from tests.unit.raft.cluster import FAST, Cluster, eventually, virtual

SMALL = msgspec.structs.replace(FAST, compact_entries=50)


@pytest.fixture(autouse=True)
def _keep_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.raft.core.compaction.KEEP_ENTRIES", 5)


async def fill(cluster: Cluster, count: int, start: int = 0) -> list[bytes]:
    leader = await cluster.leader()
    commands = [b"command %d" % i for i in range(start, start + count)]
    for command in commands:
        await leader.propose(command)
    return commands


async def lose_what_follows(
    cluster: Cluster, count: int, settings: Settings = FAST, joins: str | None = None
) -> list[bytes]:
    """Let an observer join, fill on, stop all, start B and C as they were before, under a later
    term.

    Return what A alone holds.
    """
    await cluster.agree()
    for name in "ABC":
        await cluster.stop(name)
    old = {name: copy.deepcopy(cluster.disks[name]) for name in "BC"}
    for name in "ABC":
        await cluster.start(name)
    if joins is not None:
        await (await cluster.leader()).add_member(joins, f"{joins}:1", voter=False, timeout_s=10)
    lost = await fill(cluster, count, 10)
    await cluster.agree()
    for name in "ABC":
        await cluster.stop(name)
    cluster.disks.update(old)
    cluster.settings = settings
    for name in "BC":
        await cluster.start(name)
    # votes are never lost with the log: a term is not used twice
    (await cluster.leader()).outrank(50)
    await cluster.leader(after=50)
    return lost


@virtual
async def test_a_member_far_behind_gets_a_snapshot_and_what_follows() -> None:
    async with Cluster(settings=SMALL) as cluster:
        leader = await cluster.leader()
        behind = next(n for n in "ABC" if n != leader.id)
        await cluster.stop(behind)
        expected = await fill(cluster, 200)
        await eventually(lambda: leader.counts.get("snapshots_saved", 0) > 0)
        member = await cluster.start(behind)
        assert await cluster.agree() == expected
        assert member.counts["snapshots_installed"] >= 1


@virtual
async def test_all_restart_from_snapshot_and_log() -> None:
    async with Cluster(settings=SMALL) as cluster:
        expected = await fill(cluster, 120)
        await eventually(
            lambda: all(m.counts.get("snapshots_saved", 0) > 0 for m in cluster.members.values())
        )
        expected += await fill(cluster, 7, 120)
        await cluster.agree()
        for name in "ABC":
            await cluster.stop(name)
        for name in "ABC":
            await cluster.start(name)
        await cluster.leader()
        assert await cluster.agree() == expected


@virtual
async def test_a_transfer_goes_on_over_broken_connections() -> None:
    async with Cluster(settings=SMALL) as cluster:
        leader = await cluster.leader()
        behind = next(n for n in "ABC" if n != leader.id)
        await cluster.stop(behind)
        expected = await fill(cluster, 300)
        await eventually(lambda: leader.counts.get("snapshots_saved", 0) > 0)
        broken = 0

        def break_often(src: str, dst: str, message: dict[str, object]) -> None:
            nonlocal broken
            if (
                message["type"] == "install_snapshot"
                and broken < 3
                and int(str(message["offset"])) > 1000
            ):
                broken += 1
                cluster.net.down(frozenset((src, dst)))
                cluster.net.settle()

        cluster.net.watch = break_often
        member = await cluster.start(behind)
        assert await cluster.agree() == expected
        assert broken == 3
        assert member.counts["snapshots_installed"] >= 1


@virtual
async def test_a_snapshot_that_does_not_load_is_not_acknowledged() -> None:
    async with Cluster(settings=SMALL) as cluster:
        leader = await cluster.leader()
        behind = next(n for n in "ABC" if n != leader.id)
        await cluster.stop(behind)
        expected = await fill(cluster, 200)
        await eventually(lambda: leader.counts.get("snapshots_saved", 0) > 0)
        member = await cluster.start(behind)
        tape, refused = cluster.tapes[behind], 0
        restore = tape.restore

        def fail_twice(snapshot: bytes) -> None:
            nonlocal refused
            if refused < 2:
                refused += 1
                raise ValueError("cannot decode")
            restore(snapshot)

        tape.restore = fail_twice  # type: ignore[method-assign]
        await eventually(lambda: member.counts.get("snapshots_refused", 0) == 2)
        assert await cluster.agree() == expected


@virtual
@pytest.mark.parametrize("part", [0, 700])
async def test_a_snapshot_that_finds_no_room_at_its_receiver_is_sent_again_after_a_pause(
    part: int,
) -> None:
    """Whether it has room for the beginning or not."""
    async with Cluster(settings=SMALL) as cluster:
        leader = await cluster.leader()
        loop, sent = asyncio.get_running_loop(), list[float]()
        behind = next(n for n in "ABC" if n != leader.id)
        await cluster.stop(behind)
        expected = await fill(cluster, 200)
        await eventually(lambda: leader.counts.get("snapshots_saved", 0) > 0)

        def note(source: str, target: str, message: dict[str, object]) -> None:
            if message["type"] == "install_snapshot" and message["offset"] == 0:
                sent.append(loop.time())

        cluster.net.watch = note
        member = await cluster.start(behind)
        disk = cluster.disks[behind]
        disk.capacity_bytes = sum(disk.size(name) for name in disk.names()) + part
        await eventually(lambda: len(sent) >= 4)
        pause_s = CHUNK_BEATS_MAX * SMALL.heartbeat_s
        assert min(b - a for a, b in itertools.pairwise(sent)) >= 0.9 * pause_s
        disk.capacity_bytes = None
        assert await cluster.agree() == expected
        assert member.counts["snapshots_installed"] == 1


@virtual
@pytest.mark.parametrize("by", ["entries", "bytes"])
async def test_a_log_waits_for_a_transfer_only_so_long(by: str) -> None:
    """Else a peer that takes nothing lets the log grow without bound."""
    async with Cluster(settings=SMALL) as cluster:
        leader = await cluster.leader()
        behind = next(n for n in "ABC" if n != leader.id)
        await cluster.stop(behind)
        await fill(cluster, 200)
        await eventually(lambda: leader.counts.get("snapshots_saved", 0) > 0)
        await cluster.start(behind)
        await eventually(lambda: leader._core.leader.progress[behind].snapshot is not None)
        cluster.net.hold(behind, leader.id)
        core, saved, size = leader._core, leader.counts["snapshots_saved"], 1
        if by == "bytes":
            core.pysyncobj.conf.logCompactionMinEntries, core.compaction._compact_bytes, size = (
                10**6,
                10_000,
                1000,
            )
        else:
            core.compaction._compact_bytes = 10**9
        written = 0
        while leader.counts["snapshots_saved"] == saved:
            await leader.propose(b"x" * size)
            written += 1
            assert written < 300
        assert core.leader.progress[behind].snapshot is not None
        assert written > (20 if by == "bytes" else 50)  # it does wait
        cluster.net.release(behind, leader.id)
        await cluster.agree()


@virtual
async def test_a_bad_snapshot_is_refused_by_name_at_start() -> None:
    async with Cluster("A", settings=SMALL) as cluster:
        await fill(cluster, 120)
        await eventually(lambda: cluster.members["A"].counts.get("snapshots_saved", 0) > 0)
        await cluster.stop("A")
        disk = cluster.disks["A"]
        disk.damage("snapshot", disk.size("snapshot") // 2)
        with pytest.raises(BadRequest) as refused:
            await cluster.start("A")
        assert "snapshot" in refused.value.detail
        disk.remove_now("snapshot")
        with pytest.raises(BadRequest, match="no snapshot"):
            await cluster.start("A")


@virtual
async def test_an_overwritten_applied_log_resets_the_machine() -> None:
    """A majority loses its disks' tails: what one member applied is replaced under it (DESIGN
    section 3).
    """
    async with Cluster() as cluster:
        await fill(cluster, 10)
        lost = await lose_what_follows(cluster, 5)
        kept = await fill(cluster, 20, 100)
        member = await cluster.start("A")
        commands = await cluster.agree()
        assert commands[-20:] == kept
        assert not set(lost) & set(commands)
        assert member.counts["overwrites"] == 1


@virtual
async def test_a_snapshot_replaces_what_all_others_have_lost() -> None:
    """It ends before what the member has applied: it is not older, for what the member holds is of
    another log.
    """
    async with Cluster() as cluster:
        common = await fill(cluster, 10)
        await lose_what_follows(cluster, 120, SMALL)
        leader = await cluster.leader(after=50)
        kept = await fill(cluster, 70, 200)
        await eventually(lambda: leader.counts.get("snapshots_saved", 0) > 0)
        cluster.settings = FAST
        member = await cluster.start("A")
        assert member.status().last > leader.status().last
        assert await cluster.agree() == common + kept
        assert (member.counts["wipes"], member.counts["snapshots_installed"]) == (1, 1)


@virtual
async def test_a_snapshot_of_what_was_overwritten_does_not_come_back_at_a_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beside it the log is whole, so the machine was built anew from that; the dump had stayed."""
    monkeypatch.setattr("coordinator.raft.core.compaction.KEEP_ENTRIES", 10**6)
    async with Cluster(settings=SMALL) as cluster:
        common = await fill(cluster, 10)
        lost = await lose_what_follows(cluster, 100, SMALL, joins="D")
        kept = await fill(cluster, 20, 200)
        member = await cluster.start("A")
        assert "snapshot" in cluster.disks["A"].names()
        assert member._core.configuration.seat("D")
        assert await cluster.agree() == common + kept
        assert (member.counts["overwrites"], member.counts.get("wipes", 0)) == (1, 0)
        assert not member._core.configuration.seat("D")
        for name in "ABC":
            await cluster.stop(name)
        alone = await cluster.start("A")
        assert not set(lost) & set(cluster.tapes["A"].commands)
        assert not alone._core.configuration.seat("D")
        for name in "BC":
            await cluster.start(name)
        assert await cluster.agree() == common + kept


@virtual
@pytest.mark.parametrize("wiped", [False, True])
async def test_a_transfer_under_way_ends_when_the_log_is_overwritten(wiped: bool) -> None:
    """Found by the simulation (seed 2002498): its file was cleared away, and dropping it later
    ended the member.
    """
    async with Cluster() as cluster:
        leader = await cluster.leader()
        expected = await fill(cluster, 10)
        await cluster.agree()
        member = next(m for m in cluster.members.values() if m is not leader)
        core, id = member._core, b"i" * DIGEST_BYTES
        transfer = core.transfer
        assert transfer.begin(id).accept(Chunk(id, 0, 100, b"the first part")) == 14
        if wiped:
            core.follower.wipe()
        else:
            core.follower._truncate(core.log.last_index - 2)
        assert transfer.incoming is None
        transfer.drop()
        assert "snapshot.part" not in cluster.disks[member.id].names()
        assert await cluster.agree() == expected
        assert not cluster.faults


@virtual
async def test_a_snapshot_that_finds_no_room_is_tried_again_after_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Cluster(settings=SMALL) as cluster:
        leader = await cluster.leader()
        loop, disk, tries = asyncio.get_running_loop(), cluster.disks[leader.id], list[float]()
        create = disk.create

        def full(name: str) -> SimFile:
            if name.startswith("snapshot"):
                tries.append(loop.time())
                raise OSError(errno.ENOSPC, "No space left on device", name)
            return create(name)

        monkeypatch.setattr(disk, "create", full)
        expected = await fill(cluster, 120)
        await eventually(lambda: len(tries) >= 3)
        assert leader.counts["snapshot_failures"] >= 2
        assert min(b - a for a, b in itertools.pairwise(tries)) >= SAVE_AGAIN_S
        monkeypatch.undo()
        await eventually(lambda: leader.counts.get("snapshots_saved", 0) > 0)
        assert await cluster.agree() == expected


@virtual
async def test_who_puts_a_snapshot_in_place_does_not_lead() -> None:
    """Without fsync the others may have forgotten all: its log would be replaced while it is the
    leader's.
    """
    cluster = Cluster("ABC", msgspec.structs.replace(FAST, fsync="off"))
    async with cluster:
        leader = await cluster.leader()
        late, other = (name for name in "ABC" if name != leader.id)
        await cluster.agree()
        await cluster.stop(late)
        await fill(cluster, 40)
        leader._core.compaction.force()
        await eventually(lambda: leader._core.log.first_index > 30)
        cluster.disks[late].slow_s = 2.0  # it takes so long to put the dump in place
        back = await cluster.start(late)
        await eventually(lambda: back._core.log.frozen)
        for name in (leader.id, other):  # power cuts: votes are there, logs and dumps are not
            await cluster.stop(name)
            disk = cluster.disks[name]
            for file in [file for file in disk.names() if not file.endswith(".vote")]:
                disk.remove_now(file)
        for name in (leader.id, other):
            await cluster.start(name)
        back._core.pysyncobj.election_deadline = float("-inf")
        back.outrank(back.status().term)
        await asyncio.sleep(0.5)
        assert back._core.log.frozen
        assert back.status().role != "leader"
        await (await cluster.leader(among=leader.id + other)).propose(b"instead")
        await eventually(lambda: not back._core.log.frozen)
        assert await cluster.agree() == [b"instead"], (
            "who leads is believed, not who led when the snapshot was sent"
        )


async def one_apart(cluster: Cluster, spoil_dump: bool) -> tuple[Member, list[bytes]]:
    """Let a follower's machine go another way, before or after its newest dump; return it, and what
    is right.
    """
    leader = await cluster.leader()
    apart = next(name for name in "ABC" if name != leader.id)
    expected = await fill(cluster, 70)
    member = cluster.members[apart]
    if spoil_dump:
        cluster.tapes[apart].commands[3] = b"another way"
    saved = member.counts.get("snapshots_saved", 0)
    expected += await fill(cluster, 70, 100)
    await eventually(lambda: member.counts.get("snapshots_saved", 0) > saved)
    expected += await fill(cluster, 20, 200)
    assert leader.counts.get("snapshots_saved", 0)
    await eventually(lambda: member.applied == leader.applied)
    cluster.tapes[apart].commands[4] = b"apart"
    return member, expected


@virtual
async def test_a_machine_that_went_apart_is_built_anew_from_its_own_snapshot_and_log() -> None:
    async with Cluster(settings=SMALL) as cluster:
        member, expected = await one_apart(cluster, spoil_dump=False)
        applied = member.applied
        member.replay()
        assert member.applied < applied
        assert await cluster.agree() == expected
        assert (member.counts["replays"], member.counts.get("snapshots_installed", 0)) == (1, 0)
        expected += await fill(cluster, 5, 300)
        assert await cluster.agree() == expected


@virtual
async def test_a_snapshot_of_a_machine_that_went_apart_gives_way_to_the_leaders() -> None:
    """The log is kept meanwhile, so nothing acknowledged is forgotten; others commit, and it goes
    on afterwards.
    """
    async with Cluster(settings=SMALL) as cluster:
        member, expected = await one_apart(cluster, spoil_dump=True)
        member.replay()
        await eventually(
            lambda: member.applied == cluster.members[(member.status().leader or "")].applied
        )
        assert cluster.tapes[member.id].commands[3] == b"another way"
        held = member.status().last
        member.fetch_snapshot()
        assert member.status().last == held
        expected += await fill(cluster, 5, 300)
        await eventually(lambda: member.counts.get("snapshots_fetched", 0) == 1)
        assert await cluster.agree() == expected
        expected += await fill(cluster, 100, 400)
        assert await cluster.agree() == expected
        for name in "ABC":
            await cluster.stop(name)
        for name in "ABC":
            await cluster.start(name)
        await cluster.leader()
        assert await cluster.agree() == expected


@virtual
async def test_a_leader_without_a_snapshot_makes_one_for_who_asks_and_both_go_on_committing() -> (
    None
):
    """Two of three serve: were the one that asks to lack what it holds, nothing could be committed
    meanwhile.
    """
    async with Cluster() as cluster:
        leader = await cluster.leader()
        expected = await fill(cluster, 20)
        asks, away = [name for name in "ABC" if name != leader.id]
        await cluster.agree()
        await cluster.stop(away)
        cluster.members[asks].fetch_snapshot()
        expected += await fill(cluster, 20, 100)
        assert await cluster.agree() == expected
        await eventually(lambda: cluster.members[asks].counts.get("snapshots_fetched", 0) == 1)
        assert await cluster.agree() == expected


@virtual
async def test_a_damaged_snapshot_does_not_empty_a_machine_that_is_built_anew() -> None:
    async with Cluster(settings=SMALL) as cluster:
        member, expected = await one_apart(cluster, spoil_dump=False)
        cluster.tapes[member.id].poison_restore = 1
        member.replay()
        await eventually(lambda: member.counts.get("snapshots_fetched", 0) == 1)
        assert await cluster.agree() == expected
