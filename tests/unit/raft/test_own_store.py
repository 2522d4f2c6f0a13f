"""A replica with a store of its own: the log waits for it, secures it before it cuts, and carries a
copy of it behind a snapshot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from coordinator.log import Position
from coordinator.raft.core.compaction import SAVE_AGAIN_S
from coordinator.raft.core.following.pull import REFUSED_S
from coordinator.raft.core.giving import GIVES_MAX, PARK_S
from coordinator.raft.member import Member
from coordinator.raft.storage.snapshot_format import decode
from coordinator.raft.storage.snapshot_stream import Incoming
from kv.errors import BackendUnavailable
from kv.ports import StateCopy
from tests.planted import own_stores  # noqa: F401 (it fills the registry)
from tests.planted.registry import planted
from tests.unit.raft.cluster import FAST, Cluster, Tape, eventually, virtual

SMALL = msgspec.structs.replace(FAST, compact_entries=50)


@pytest.fixture(autouse=True)
def _keep_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.raft.core.compaction.KEEP_ENTRIES", 5)


class Copy:
    """A copy of a store. It counts those that are not closed yet."""

    held = 0

    def __init__(self, content: bytes) -> None:
        self._content = content
        Copy.held += 1

    @property
    def size(self) -> int:
        return len(self._content)

    def read_now(self, offset: int, length: int) -> bytes:
        assert self._content, "it is closed"
        return self._content[offset : offset + length]

    def close(self) -> None:
        assert self._content, "it is closed twice"
        self._content = b""
        Copy.held -= 1


@pytest.fixture(autouse=True)
def _no_copy_stays() -> None:
    Copy.held = 0


class Keeper(Tape):
    """A tape with a store: what was applied, line by line. It takes as much as it is told to."""

    keeps_store = True

    def __init__(self) -> None:
        super().__init__()
        self.room = 10**9
        self.rows: list[bytes] = []
        self.insecure = False
        self.securing: asyncio.Event | None = None
        self.attaching: asyncio.Event | None = None
        self.attachments = 0
        self.unchecked = False
        """Whether it takes any rows."""
        self.full = 0
        """How many copies find no room."""

    @property
    def takes_more(self) -> bool:
        return self.room > 0

    def apply(self, position: Position, stamp_ms: int, command: bytes) -> None:
        assert self.takes_more
        self.room -= 1
        self.rows.append(command)
        super().apply(position, stamp_ms, command)

    def restore(self, snapshot: bytes) -> None:
        super().restore(snapshot)
        self.rows = list(self.commands)

    def reset(self) -> None:
        super().reset()
        self.rows = []

    async def secure(self, position: Position) -> None:
        if self.securing is not None:
            await self.securing.wait()
        if self.insecure:
            raise BackendUnavailable("store", "the disk is full")

    async def attach(self) -> StateCopy | None:
        self.attachments += 1
        if self.attaching is not None:
            await self.attaching.wait()
        if self.insecure:
            raise BackendUnavailable("store", "the disk is full")
        return Copy(b"rows\n" + b"\n".join(self.rows))

    async def install(self, snapshot: bytes, state: StateCopy | None) -> None:
        assert state is not None
        content, offset = b"", 0
        while piece := state.read_now(offset, 100):
            content, offset = content + piece, offset + len(piece)
            await asyncio.sleep(0)
        assert len(content) == state.size
        head, *rows = content.split(b"\n")
        assert head == b"rows"
        if self.full > 0:
            self.full -= 1
            raise BackendUnavailable("store", "the disk is full")
        self.restore(snapshot)
        assert self.unchecked or rows[: len(self.commands)] == self.commands, (
            "the copy is not older than the dump"
        )
        if self.unchecked:
            self.rows = rows


def keeper(cluster: Cluster, name: str) -> Keeper:
    tape = cluster.tapes[name]
    assert isinstance(tape, Keeper)
    return tape


async def fill(cluster: Cluster, count: int, start: int = 0) -> list[bytes]:
    leader = await cluster.leader()
    commands = [b"command %d" % i for i in range(start, start + count)]
    for command in commands:
        await leader.propose(command)
    return commands


def saved(member: Member) -> int:
    return member.counts.get("snapshots_saved", 0)


async def one_behind(cluster: Cluster) -> tuple[Member, str, list[bytes]]:
    """Stop a follower and fill on until the log does not reach back to it. Return leader and
    follower, and what was ordered.
    """
    leader = await cluster.leader()
    behind = next(name for name in "ABC" if name != leader.id)
    await cluster.stop(behind)
    expected = await fill(cluster, 200)
    await eventually(lambda: saved(leader) > 0)
    return leader, behind, expected


def givers(cluster: Cluster) -> list[str]:
    """Return the members that give their state to another one."""
    return [name for name, member in sorted(cluster.members.items()) if member._core.giving.gives]


async def same_everywhere(cluster: Cluster, expected: list[bytes]) -> None:
    assert await cluster.agree() == expected
    assert all(keeper(cluster, name).rows == expected for name in cluster.members)
    await eventually(lambda: not givers(cluster))
    assert Copy.held == 0


# ---------------------------------------------------------------------------------------- apply


@virtual
async def test_a_log_applies_no_more_than_its_replica_takes_and_goes_on_when_told() -> None:
    async with Cluster(tape=Keeper) as cluster:
        leader = await cluster.leader()
        full = next(name for name in "ABC" if name != leader.id)
        await cluster.agree()
        keeper(cluster, full).room = 2
        expected = [b"%d" % i for i in range(5)]
        for command in expected:
            await leader.propose(command)
        member = cluster.members[full]
        await eventually(lambda: member.status().committed == leader.status().committed)
        await asyncio.sleep(1)
        assert cluster.tapes[full].commands == expected[:2]
        keeper(cluster, full).room = 100
        member.resume()
        await asyncio.sleep(0.01)
        assert cluster.tapes[full].commands == expected


@virtual
@pytest.mark.parametrize("to", [True, False])
async def test_a_leader_that_applies_nothing_replicates_and_hands_on(to: bool) -> None:
    async with Cluster(tape=Keeper) as cluster:
        first = await cluster.leader()
        await cluster.agree()
        stuck = next(name for name in "ABC" if name != first.id)
        keeper(cluster, stuck).room = 0
        assert await first.transfer(stuck, timeout_s=10) == stuck
        leader = cluster.members[stuck]
        waits = leader.propose(b"ordered")
        others = [name for name in "ABC" if name != stuck]
        await eventually(lambda: all(cluster.tapes[n].commands == [b"ordered"] for n in others))
        assert not cluster.tapes[stuck].commands
        assert ("led", leader.status().term) not in cluster.tapes[stuck].events
        term = leader.status().term
        if to:
            assert await leader.transfer(None, timeout_s=10) in others
        else:
            leader.step_down()
            assert (await cluster.leader(after=term, among="".join(others))).id in others
        keeper(cluster, stuck).room = 100
        leader.resume()
        await waits
        assert await cluster.agree() == [b"ordered"]


# ----------------------------------------------------------------------------------------- save


@virtual
async def test_a_log_is_not_cut_before_the_store_is_durable() -> None:
    async with Cluster(settings=SMALL, tape=Keeper) as cluster:
        leader = await cluster.leader()
        tape = keeper(cluster, leader.id)
        tape.insecure = True
        expected = await fill(cluster, 120)
        await eventually(lambda: leader.counts.get("snapshot_failures", 0) >= 2)
        assert leader._core.log.first_index == 1
        assert "snapshot" not in cluster.disks[leader.id].names()
        tape.insecure = False
        await asyncio.sleep(SAVE_AGAIN_S)
        await eventually(lambda: saved(leader) == 1 and leader._core.log.first_index > 1)
        assert await cluster.agree() == expected


@virtual
async def test_a_snapshot_whose_store_is_lost_while_it_is_written_is_not_put_in_place() -> None:
    async with Cluster(settings=SMALL, tape=Keeper) as cluster:
        leader = await cluster.leader()
        tape, disk = keeper(cluster, leader.id), cluster.disks[leader.id]
        snapshot = tape.snapshot

        def losing() -> Callable[[], bytes]:
            encode = snapshot()

            def encoded() -> bytes:
                tape.insecure = True
                return encode()

            return encoded

        tape.snapshot = losing  # type: ignore[method-assign]
        expected = await fill(cluster, 120)
        await eventually(lambda: leader.counts.get("snapshot_failures", 0) >= 1)
        assert leader._core.log.first_index == 1
        assert not {"snapshot", "snapshot.new"} & set(disk.names())
        tape.snapshot, tape.insecure = snapshot, False  # type: ignore[method-assign]
        await asyncio.sleep(SAVE_AGAIN_S)
        await eventually(lambda: saved(leader) == 1)
        assert await cluster.agree() == expected


@virtual
async def test_a_save_that_waits_for_its_store_is_dropped_when_a_snapshot_takes_its_place() -> None:
    async with Cluster(settings=SMALL, tape=Keeper) as cluster:
        leader = await cluster.leader()
        slow = next(name for name in "ABC" if name != leader.id)
        tape, member = keeper(cluster, slow), cluster.members[slow]
        tape.securing = asyncio.Event()
        expected = await fill(cluster, 120)
        await eventually(lambda: member._core.compaction._saving)
        member.fetch_snapshot()
        await eventually(lambda: member.counts.get("snapshots_fetched", 0) == 1)
        tape.securing.set()
        await eventually(lambda: member.counts.get("snapshot_failures", 0) == 1)
        assert saved(member) == 0
        await same_everywhere(cluster, expected)


# ------------------------------------------------------------------------------------- transfer


@virtual
async def test_a_member_far_behind_gets_a_snapshot_and_the_store_behind_it() -> None:
    async with Cluster(settings=SMALL, tape=Keeper) as cluster:
        _, behind, expected = await one_behind(cluster)
        member = await cluster.start(behind)
        expected += await fill(cluster, 100, 500)
        await eventually(lambda: member.counts.get("snapshots_installed", 0) >= 1)
        await same_everywhere(cluster, expected)
        await cluster.stop(behind)
        dump = decode(cluster.disks[behind].load_now("snapshot"))
        assert b"rows" not in dump.body, "the copy was cut off behind it"
        await cluster.start(behind)
        assert await cluster.agree() == expected


@virtual
async def test_a_member_whose_log_is_good_gets_machine_and_store_and_keeps_its_log() -> None:
    async with Cluster(settings=SMALL, tape=Keeper) as cluster:
        leader = await cluster.leader()
        bad = next(name for name in "ABC" if name != leader.id)
        expected = await fill(cluster, 120)
        await cluster.agree()
        tape, member = keeper(cluster, bad), cluster.members[bad]
        first = member._core.log.first_index
        tape.rows, tape.room = [b"nonsense"], 0
        held = member.status().last
        member.fetch_snapshot()
        expected += await fill(cluster, 20, 300)
        tape.room = 10**6
        await eventually(lambda: member.counts.get("snapshots_fetched", 0) == 1)
        assert (member.counts.get("snapshots_installed", 0), member.counts.get("wipes", 0)) == (
            0,
            0,
        )
        assert member._core.log.first_index <= max(first, held)
        assert member.status().last >= held
        await same_everywhere(cluster, expected)


@virtual
async def test_entries_are_taken_and_acknowledged_while_the_store_is_replaced() -> None:
    """Two of three serve: else nothing could be committed for as long as that takes."""
    async with Cluster(settings=SMALL, tape=Keeper) as cluster:
        leader = await cluster.leader()
        bad, away = [name for name in "ABC" if name != leader.id]
        expected = await fill(cluster, 120)
        await cluster.agree()
        await cluster.stop(away)
        member, tape = cluster.members[bad], keeper(cluster, bad)
        install, go_on = tape.install, asyncio.Event()

        async def slow(snapshot: bytes, state: StateCopy | None) -> None:
            await go_on.wait()
            await install(snapshot, state)

        tape.install = slow  # type: ignore[method-assign]
        member.fetch_snapshot()
        await eventually(lambda: member._core.log.resting)
        expected += await fill(cluster, 40, 300)
        assert member._core.log.resting
        assert len(tape.commands) == 120
        go_on.set()
        await eventually(lambda: member.counts.get("snapshots_fetched", 0) == 1)
        await same_everywhere(cluster, expected)


@virtual
@pytest.mark.parametrize("when", ["opening", "sending"])
async def test_a_member_that_fetches_goes_on_taking_entries_until_the_state_is_there(
    when: str,
) -> None:
    """Two of three serve: else nothing could be committed for as long as the transfer takes, or as
    the leader finds no room for a copy.
    """
    async with Cluster(settings=SMALL, tape=Keeper) as cluster:
        leader = await cluster.leader()
        bad, away = [name for name in "ABC" if name != leader.id]
        expected = await fill(cluster, 120)
        await cluster.agree()
        await cluster.stop(away)
        member, tape = cluster.members[bad], keeper(cluster, leader.id)
        if when == "opening":
            tape.insecure = True
        else:

            def spoil(source: str, target: str, message: dict[str, object]) -> None:
                if message["type"] == "state_chunk":
                    message["total"] = 2**50  # more than is ever taken: it begins anew, and again

            cluster.net.watch = spoil
        member.fetch_snapshot()
        await eventually(
            lambda: tape.attachments > 0 if when == "opening" else bool(givers(cluster))
        )
        async with asyncio.timeout(5):
            expected += await fill(cluster, 20, 300)
        assert not member.counts.get("snapshots_fetched", 0)
        tape.insecure = False
        cluster.net.watch = None
        await eventually(lambda: member.counts.get("snapshots_fetched", 0) == 1)
        await same_everywhere(cluster, expected)


@virtual
async def test_a_save_that_ends_while_a_state_is_fetched_does_not_cut_the_log() -> None:
    """What is fetched may end before it: the log would have to begin anew there, and would lose
    what was acknowledged since.
    """
    async with Cluster(settings=SMALL, tape=Keeper) as cluster:
        leader = await cluster.leader()
        bad = next(name for name in "ABC" if name != leader.id)
        expected = await fill(cluster, 60)
        await eventually(lambda: saved(leader) == 1)
        await cluster.agree()
        member, tape = cluster.members[bad], keeper(cluster, bad)
        leader._core.compaction._save_after = float("inf")  # the leader's dump stays where it is
        ends = leader._core.environment.snapshots.newest
        assert ends is not None
        expected += await fill(cluster, 20, 100)
        await cluster.agree()
        install, go_on = tape.install, asyncio.Event()

        async def slow(snapshot: bytes, state: StateCopy | None) -> None:
            await go_on.wait()
            await install(snapshot, state)

        tape.install = slow  # type: ignore[method-assign]
        tape.securing = asyncio.Event()
        member._core.compaction.force()
        await eventually(lambda: member._core.compaction._saving)
        member.fetch_snapshot()
        await eventually(lambda: member._core.log.resting)
        tape.securing.set()
        await eventually(lambda: saved(member) == 2)
        go_on.set()
        await eventually(lambda: not member._core.log.resting)
        assert member._core.log.first_index <= ends.index
        assert member.status().last == leader.status().last
        assert member.counts.get("snapshots_fetched", 0) == 1
        await same_everywhere(cluster, expected)


@virtual
async def test_what_was_applied_before_a_state_came_does_not_count_while_it_is_put_in_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Cluster(settings=SMALL, tape=Keeper) as cluster:
        leader = await cluster.leader()
        bad = next(name for name in "ABC" if name != leader.id)
        expected = await fill(cluster, 60)
        await eventually(lambda: saved(leader) == 1)
        expected += await fill(cluster, 20, 100)
        await cluster.agree()
        member, install, go_on = cluster.members[bad], Incoming.install, asyncio.Event()
        position = member.applied

        async def slow(incoming: Incoming) -> None:
            await go_on.wait()
            await install(incoming)

        monkeypatch.setattr(Incoming, "install", slow)
        restored = keeper(cluster, bad).restore
        behind = asyncio.Event()

        def restore(snapshot: bytes) -> None:
            restored(snapshot)
            behind.set()

        monkeypatch.setattr(keeper(cluster, bad), "restore", restore)
        member.fetch_snapshot()
        await behind.wait()
        await asyncio.sleep(0.1)
        assert len(cluster.tapes[bad].commands) < len(expected)
        with pytest.raises(TimeoutError):
            await member.wait_applied(position, timeout_s=1)
        go_on.set()
        await member.wait_applied(position, timeout_s=10)
        await same_everywhere(cluster, expected)


@virtual
async def test_what_is_asked_for_without_a_leader_comes_when_there_is_one() -> None:
    async with Cluster(settings=SMALL, tape=Keeper) as cluster:
        expected = await fill(cluster, 120)
        await cluster.agree()
        for name in "ABC":
            await cluster.stop(name)
        first = await cluster.start("A")
        first.fetch_snapshot()
        await cluster.start("B")
        await cluster.start("C")
        leader = await cluster.leader()
        keeps = leader is first
        if keeps:
            assert not first._core.transfer.fetching, "a leader fetches nothing"
        else:
            await eventually(lambda: first.counts.get("snapshots_fetched", 0) == 1)
        assert await cluster.agree() == expected


@virtual
async def test_a_copy_that_finds_no_room_is_sent_again_after_a_pause() -> None:
    async with Cluster(settings=SMALL, tape=Keeper) as cluster:
        loop, begun = asyncio.get_running_loop(), list[float]()
        _, behind, expected = await one_behind(cluster)

        def note(source: str, target: str, message: dict[str, object]) -> None:
            if message["type"] == "state_chunk" and message["offset"] == 0:
                begun.append(loop.time())

        cluster.net.watch = note
        member = await cluster.start(behind)
        keeper(cluster, behind).full = 1
        await eventually(lambda: member.counts.get("snapshots_installed", 0) == 1)
        assert member.counts["snapshots_refused"] == 1
        assert len(begun) == 2
        assert begun[1] - begun[0] >= REFUSED_S
        await same_everywhere(cluster, expected)


@virtual
async def test_a_store_that_cannot_be_copied_is_tried_again() -> None:
    async with Cluster(settings=SMALL, tape=Keeper) as cluster:
        _, behind, expected = await one_behind(cluster)
        tapes = [keeper(cluster, name) for name in cluster.members]
        for tape in tapes:
            tape.insecure = True
        await cluster.start(behind)
        await eventually(lambda: all(tape.attachments >= 2 for tape in tapes))
        for tape in tapes:
            tape.insecure = False
        await same_everywhere(cluster, expected)


async def pulling(cluster: Cluster, behind: str, chunks: int = 1) -> Member:
    """Start a member that pulls a state; return its source after so many chunks, when nothing more
    gets through to it.
    """
    seen = list[str]()

    def note(source: str, target: str, message: dict[str, object]) -> None:
        if message["type"] == "state_chunk":
            seen.append(source)
            if len(seen) == chunks:
                cluster.net.hold(behind, source)

    cluster.net.watch = note
    await cluster.start(behind)
    await eventually(lambda: len(seen) >= chunks)
    cluster.net.watch = None
    assert set(seen) == set(givers(cluster))
    return cluster.members[seen[0]]


@virtual
async def test_a_state_comes_from_the_member_that_has_least_to_do() -> None:
    async with Cluster(settings=SMALL, tape=Keeper) as cluster:
        leader, behind, expected = await one_behind(cluster)
        source = await pulling(cluster, behind)
        assert source is not leader
        cluster.net.release(behind, source.id)
        await same_everywhere(cluster, expected)
        assert keeper(cluster, leader.id).attachments == 0


@virtual
async def test_members_that_need_a_state_at_once_ask_those_that_have_less_to_do() -> None:
    async with Cluster("ABCDE", settings=SMALL, tape=Keeper) as cluster:
        leader = await cluster.leader()
        behind = [name for name in "ABCDE" if name != leader.id][:2]
        for name in behind:
            await cluster.stop(name)
        expected = await fill(cluster, 200)
        await cluster.agree()
        await eventually(lambda: all(saved(member) for member in cluster.members.values()))
        first = await pulling(cluster, behind[0])
        await asyncio.sleep(1)  # what it has to do is told with the notes
        await cluster.start(behind[1])
        second = cluster.members[behind[1]]
        await eventually(lambda: second.counts.get("snapshots_installed", 0) == 1)
        given = {
            name: member.counts.get("states_given", 0) for name, member in cluster.members.items()
        }
        assert given[first.id] == 1
        assert given[leader.id] == 0
        cluster.net.release(behind[0], first.id)
        await same_everywhere(cluster, expected)


@virtual
async def test_a_member_gives_its_state_to_two_others_at_once_and_to_the_next_ones_then() -> None:
    async with Cluster("ABCDEFG", settings=SMALL, tape=Keeper) as cluster:
        leader = await cluster.leader()
        behind = [name for name in "ABCDEFG" if name != leader.id][:3]
        for name in behind:
            await cluster.stop(name)
        expected = await fill(cluster, 200)
        await cluster.agree()
        await eventually(lambda: all(saved(member) for member in cluster.members.values()))
        only, *others = cluster.members
        for name in others:
            cluster.members[name]._core.giving._problem = lambda least: "no"  # type: ignore[method-assign]
        tape = keeper(cluster, only)
        go_on = tape.attaching = asyncio.Event()
        for name in behind:
            await cluster.start(name)
        await eventually(lambda: tape.attachments == GIVES_MAX)
        await asyncio.sleep(3)
        assert tape.attachments == GIVES_MAX
        assert givers(cluster) == [only]
        go_on.set()
        await eventually(
            lambda: all(
                cluster.members[name].counts.get("snapshots_installed", 0) for name in behind
            )
        )
        await same_everywhere(cluster, expected)


@virtual
@pytest.mark.parametrize("what", ["lost", "stopped", "in doubt"])
async def test_a_state_comes_from_another_member_when_its_source_is_lost(what: str) -> None:
    async with Cluster(settings=SMALL, tape=Keeper) as cluster:
        leader, behind, expected = await one_behind(cluster)
        source = await pulling(cluster, behind)
        cluster.net.release(behind, source.id)
        match what:
            case "lost":
                others = "ABC".replace(source.id, "")
                cluster.net.partition(source.id, others)
            case "stopped":
                await cluster.stop(source.id)
            case _:
                source._core.giving.close()
                keeper(cluster, source.id).insecure = True
        member = cluster.members[behind]
        await eventually(lambda: member.counts.get("snapshots_installed", 0) == 1)
        if what != "in doubt":  # else it may have had all of it
            assert keeper(cluster, leader.id).attachments == 1
        cluster.net.heal()
        keeper(cluster, source.id).insecure = False
        if what == "stopped":
            await cluster.start(source.id)
        await same_everywhere(cluster, expected)


@virtual
async def test_a_transfer_goes_on_when_the_leader_is_lost() -> None:
    async with Cluster("ABCDE", settings=SMALL, tape=Keeper) as cluster:
        first = await cluster.leader()
        behind = next(name for name in "ABCDE" if name != first.id)
        await cluster.stop(behind)
        expected = await fill(cluster, 200)
        await cluster.agree()
        await eventually(lambda: all(saved(member) for member in cluster.members.values()))
        source = await pulling(cluster, behind, chunks=2)
        await cluster.stop(first.id)
        await cluster.leader(after=first.status().term)
        cluster.net.release(behind, source.id)
        member = cluster.members[behind]
        await eventually(lambda: member.counts.get("snapshots_installed", 0) == 1)
        assert keeper(cluster, source.id).attachments == 1
        await cluster.start(first.id)
        await same_everywhere(cluster, expected)


@virtual
async def test_a_state_that_cannot_be_used_is_wanted_of_another_member_and_that_is_said() -> None:
    async with Cluster(settings=SMALL, tape=Keeper) as cluster:
        _, behind, expected = await one_behind(cluster)
        bad, good = sorted(cluster.members, key=lambda name: cluster.members[name]._core.leads)
        begun = list[str]()

        def spoil(source: str, target: str, message: dict[str, object]) -> None:
            if message["type"] == "state_chunk":
                if message["offset"] == 0:
                    begun.append(source)
                content = message["content"]
                assert isinstance(content, bytes)
                if source == bad:
                    message["content"] = content[:-1] + bytes([content[-1] ^ 1])
                elif not told:
                    told.extend(cluster.members[behind].status().conflicts)

        told = list[str]()
        cluster.net.watch = spoil
        member = await cluster.start(behind)
        await eventually(lambda: member.counts.get("snapshots_installed", 0) == 1)
        assert begun == [bad, good]
        assert f"the state of {bad} could not be used" in told[0]
        assert member.counts["snapshots_refused"] == 1
        assert not member.status().conflicts
        await same_everywhere(cluster, expected)


@virtual
async def test_without_its_digest_a_spoilt_state_would_be_put_in_place() -> None:
    async with Cluster(settings=SMALL, tape=Keeper) as cluster:
        _, behind, expected = await one_behind(cluster)

        def spoil(source: str, target: str, message: dict[str, object]) -> None:
            if message["type"] == "state_chunk" and message["offset"] != 0:
                content = message["content"]
                assert isinstance(content, bytes)
                if message["offset"] == message["dump_bytes"]:
                    message["content"] = content.replace(b"command 1", b"nonsense1")

        cluster.net.watch = spoil
        with planted("r6_unverified"):
            member = await cluster.start(behind)
            keeper(cluster, behind).unchecked = True
            await eventually(lambda: member.counts.get("snapshots_installed", 0) == 1)
        assert await cluster.agree() == expected
        assert keeper(cluster, behind).rows != expected


@virtual
async def test_a_state_that_the_leaders_log_does_not_go_on_from_is_not_put_in_place() -> None:
    async with Cluster(settings=SMALL, tape=Keeper) as cluster:
        _, behind, expected = await one_behind(cluster)
        bad = min(cluster.members, key=lambda name: cluster.members[name]._core.leads)

        def lie(source: str, target: str, message: dict[str, object]) -> None:
            if message["type"] == "state_chunk" and source == bad:
                message["index_term"] = 10**6

        cluster.net.watch = lie
        member = await cluster.start(behind)
        await eventually(lambda: member.counts.get("snapshots_installed", 0) == 1)
        assert keeper(cluster, bad).attachments >= 1
        await same_everywhere(cluster, expected)


@virtual
@pytest.mark.parametrize("what", ["lost", "stopped"])
async def test_a_copy_is_closed_whatever_ends_its_transfer(what: str) -> None:
    async with Cluster(settings=SMALL, tape=Keeper) as cluster:
        _, behind, expected = await one_behind(cluster)
        source = await pulling(cluster, behind)
        assert Copy.held == 1
        if what == "lost":
            await cluster.stop(behind)
            await asyncio.sleep(PARK_S + 1)
        else:
            await cluster.stop(source.id)
        assert Copy.held == 0
        cluster.net.release(behind, source.id)
        await cluster.start(behind if what == "lost" else source.id)
        await same_everywhere(cluster, expected)


@virtual
async def test_a_member_that_begins_anew_while_its_source_copies_is_given_one_copy() -> None:
    async with Cluster(settings=SMALL, tape=Keeper) as cluster:
        _, behind, expected = await one_behind(cluster)
        source = min(cluster.members.values(), key=lambda member: member._core.leads)
        tape = keeper(cluster, source.id)
        go_on = tape.attaching = asyncio.Event()
        await cluster.start(behind)
        await eventually(lambda: tape.attachments == 1)
        await asyncio.sleep(3)
        assert tape.attachments == 1
        go_on.set()
        await same_everywhere(cluster, expected)
        assert tape.attachments == 1


@virtual
@pytest.mark.parametrize("away_s", [1.0, PARK_S + 1.0])
async def test_a_copy_goes_on_where_it_was_after_a_broken_connection(away_s: float) -> None:
    """If it was not broken for too long: else the copy is made anew."""
    async with Cluster("AB", settings=SMALL, tape=Keeper) as cluster:
        leader = await cluster.leader()
        behind = next(name for name in "AB" if name != leader.id)
        expected = await fill(cluster, 400)
        await cluster.agree()
        tape, offsets, member = keeper(cluster, leader.id), list[int](), cluster.members[behind]

        def note(source: str, target: str, message: dict[str, object]) -> None:
            if message["type"] == "state_chunk":
                offsets.append(int(str(message["offset"])))
                if len(offsets) == 6:
                    cluster.net.partition("A", "B")

        cluster.net.watch = note
        member.fetch_snapshot()
        await eventually(lambda: len(offsets) >= 6)
        broken = len(offsets)
        await asyncio.sleep(away_s)
        assert Copy.held == (away_s < PARK_S)
        cluster.net.heal()
        await eventually(lambda: member.counts.get("snapshots_fetched", 0) == 1)
        assert tape.attachments == (1 if away_s < PARK_S else 2)
        assert (0 in offsets[broken:]) == (away_s > PARK_S)
        await same_everywhere(cluster, expected)


@virtual
async def test_while_a_state_is_pulled_the_log_that_its_receiver_needs_stays() -> None:
    async with Cluster(settings=SMALL, tape=Keeper) as cluster:
        leader, behind, expected = await one_behind(cluster)
        source = await pulling(cluster, behind)
        outgoing, before = source._core.giving.gives[behind].outgoing, saved(leader)
        assert outgoing is not None
        expected += await fill_slowly(cluster)
        assert saved(leader) >= before + 2
        assert leader._core.log.first_index <= outgoing.header.index
        cluster.net.release(behind, source.id)
        member = cluster.members[behind]
        await same_everywhere(cluster, expected)
        assert member.counts["snapshots_installed"] == 1
        assert keeper(cluster, source.id).attachments == 1


async def fill_slowly(cluster: Cluster) -> list[bytes]:
    """Order so much that logs are cut, while who pulls a state tells the leader so again."""
    done = list[bytes]()
    for start in range(1000, 4000, 1000):
        done += await fill(cluster, 100, start)
        await asyncio.sleep(1)
    return done


@virtual
async def test_without_the_rule_the_log_would_be_cut_while_a_state_is_pulled() -> None:
    async with Cluster(settings=SMALL, tape=Keeper) as cluster:
        leader, behind, expected = await one_behind(cluster)
        with planted("r6_log_cut"):
            source = await pulling(cluster, behind)
            outgoing = source._core.giving.gives[behind].outgoing
            assert outgoing is not None
            expected += await fill_slowly(cluster)
            assert leader._core.log.first_index > outgoing.header.index
        cluster.net.release(behind, source.id)
        await eventually(lambda: behind not in source._core.giving.gives, timeout_s=10)
        await same_everywhere(cluster, expected)
        sent = sum(keeper(cluster, name).attachments for name in cluster.members)
        assert sent == 2, "it was sent for nothing"


@virtual
async def test_a_dump_that_ends_too_early_is_made_anew_by_whoever_is_asked() -> None:
    async with Cluster(settings=SMALL, tape=Keeper) as cluster:
        leader = await cluster.leader()
        behind, other = [name for name in "ABC" if name != leader.id]
        cluster.members[other]._core.compaction._save_after = float("inf")
        await cluster.stop(behind)
        expected = await fill(cluster, 200)
        await cluster.agree()
        assert saved(cluster.members[other]) == 0
        cluster.members[other]._core.compaction._save_after = 0.0
        await cluster.start(behind)
        await same_everywhere(cluster, expected)


@virtual
async def test_a_log_stays_for_a_member_that_is_away_as_long_as_is_set() -> None:
    settings = msgspec.structs.replace(SMALL, keep_bytes=8000, keep_s=60.0)
    async with Cluster(settings=settings, tape=Keeper) as cluster:
        leader = await cluster.leader()
        behind = next(name for name in "ABC" if name != leader.id)
        await cluster.stop(behind)
        expected = await fill(cluster, 170)
        await eventually(lambda: saved(leader) >= 3)
        assert leader._core.log.first_index == 1
        member = await cluster.start(behind)
        assert await cluster.agree() == expected
        assert not member.counts.get("snapshots_installed", 0)
        await cluster.stop(behind)
        expected += await fill(cluster, 600, 1000)
        await eventually(lambda: saved(leader) >= 12)
        log = leader._core.log
        size = sum(len(entry[0]) for entry in log.held())
        assert log.first_index > 171
        assert 1500 < size < 9500
        await asyncio.sleep(61)
        expected += await fill(cluster, 60, 3000)
        before = saved(leader)
        await eventually(lambda: saved(leader) >= before)
        assert log.last_index - log.first_index < 200
        await cluster.start(behind)
        assert await cluster.agree() == expected


@virtual
async def test_chunks_of_a_store_keep_to_the_rate() -> None:
    settings = msgspec.structs.replace(SMALL, transfer_bytes_per_s=4000.0)
    async with Cluster(settings=settings, tape=Keeper) as cluster:
        _, behind, expected = await one_behind(cluster)
        loop, sent = asyncio.get_running_loop(), list[tuple[float, int]]()

        def note(source: str, target: str, message: dict[str, object]) -> None:
            if message["type"] == "state_chunk":
                content = message["content"]
                assert isinstance(content, bytes)
                sent.append((loop.time(), len(content)))

        cluster.net.watch = note
        await cluster.start(behind)
        await same_everywhere(cluster, expected)
        took_s = sent[-1][0] - sent[0][0]
        size = sum(size for _, size in sent[:-1])
        assert size > 4000
        assert took_s >= size / 4000 - 0.2
