"""Who is of one cluster: first lists that differ, histories that differ, members that moved or were
removed.
"""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from coordinator.log import PeerAddress
from coordinator.raft.core.rules.membership import Configuration, Seat, decode_configuration, encode
from coordinator.raft.member import Member
from coordinator.raft.net.peer_check import CONFLICTS_MAX, SAY_AGAIN_S, PeerCheck
from coordinator.raft.net.peer_identity import Origin, PeerIdentity
from kv.errors import BadRequest, NotApplied
from tests.unit.raft.cluster import Cluster, eventually, virtual

ALONE = (PeerAddress("A", "A:1"),)
PAIR = (PeerAddress("A", "A:1"), PeerAddress("B", "B:1"))


def leaders(cluster: Cluster) -> list[str]:
    return [name for name, member in cluster.members.items() if member.status().role == "leader"]


@virtual
async def test_members_with_other_first_lists_never_have_two_leaders() -> None:
    """One was told that it is alone, the others that they are three: nobody leads, and everybody
    says why.
    """
    cluster = Cluster("ABC")
    await cluster.start("A", ALONE)
    await cluster.start("B")
    await cluster.start("C")
    await eventually(
        lambda: all(m.status().conflicts for n, m in cluster.members.items() if n != "C")
    )
    await asyncio.sleep(5)
    assert leaders(cluster) == []
    assert cluster.members["A"].status().conflicts == (
        "A and B were given different lists of the first members",
        "A and C were given different lists of the first members",
    )
    for member in cluster.members.values():
        with pytest.raises(NotApplied):
            await member.propose(b"x")
    await cluster.stop("A")
    await cluster.start("A")
    assert await (await cluster.leader()).propose(b"mended")
    async with cluster:
        pass


@virtual
async def test_who_never_belonged_stops_when_it_meets_a_cluster_that_began_otherwise() -> None:
    cluster = Cluster("ABC")
    async with cluster:
        await (await cluster.leader()).propose(b"x")
        await cluster.agree()
        await cluster.stop("C")
        cluster.wipe("C")
        await cluster.start("C", (*PAIR[:1], PeerAddress("C", "C:1")))
        (fault,) = cluster.faults
        assert isinstance(fault, BadRequest)
        assert fault.code == "foreign_members"
        assert "is not the one that" in str(fault)
        assert "observer" in (fault.allowed or "")
        cluster.faults.clear()
        await cluster.stop("C")
        status = (await cluster.leader()).status()
        assert any("C has no log" in conflict for conflict in status.conflicts)
        assert status.quorum, "the cluster goes on"


@virtual
async def test_two_histories_of_one_name_are_kept_apart() -> None:
    cluster = Cluster("AB")
    await cluster.start("A", ALONE)
    await (await cluster.leader(among="A")).propose(b"of A")
    await cluster.stop("A")
    await cluster.start("B", (PeerAddress("B", "B:1"),))
    await (await cluster.leader(among="B")).propose(b"of B")
    await cluster.stop("B")
    for name in "AB":
        await cluster.start(name, PAIR)
    await eventually(lambda: all(m.status().conflicts for m in cluster.members.values()))
    await asyncio.sleep(5)
    assert cluster.tapes["A"].commands == [b"of A"]
    assert cluster.tapes["B"].commands == [b"of B"]
    assert "two clusters of one name" in cluster.members["A"].status().conflicts[0]
    async with cluster:
        pass


@virtual
async def test_a_history_is_born_with_the_log_and_survives_snapshots_restarts_and_changes() -> None:
    async with Cluster("ABC") as cluster:
        leader = await cluster.leader()
        await leader.propose(b"x")
        await cluster.agree()
        born = {m._core.origin for m in cluster.members.values()}
        assert len(born) == 1
        assert all(origin.history and origin.first for origin in born)
        await cluster.start("D", (*cluster.first, PeerAddress("D", "D:1", voter=False)))
        await leader.add_member("D", "D:1", voter=True, timeout_s=10)
        for member in cluster.members.values():
            member._core.compaction.force()
        await leader.propose(b"y")
        await cluster.agree()
        for name in "ABCD":
            await cluster.stop(name)
        for name in "ABCD":
            # An operator has put the new member into the list: the log counts.
            await cluster.start(name, (*cluster.first, PeerAddress("D", "D:1")))
        await (await cluster.leader()).propose(b"z")
        await cluster.agree()
        assert {m._core.origin for m in cluster.members.values()} == born


def test_a_configuration_of_before_is_read() -> None:
    before = encode([[["A", "A:1", True, True]], ["Z"]])
    assert decode_configuration(before) == Configuration((Seat("A", "A:1", True, True),), ("Z",))
    for broken in (b"", b"\x91", b"\x92\x91\x94\xa1\xff\xa3A:1\xc3\xc3\x90"):
        with pytest.raises(ValueError, match="no configuration"):
            decode_configuration(broken)


@pytest.mark.parametrize("voter", [True, False])
@virtual
async def test_a_member_that_moved_is_noted_where_it_is(voter: bool) -> None:
    async with Cluster("ABC") as cluster:
        leader = await cluster.leader()
        if voter:
            name = next(n for n in "CBA" if n != leader.id)
        else:
            name = "D"
            await cluster.start("D", (*cluster.first, PeerAddress("D", "D:1", voter=False)))
            await leader.add_member("D", "D:1", voter=False, timeout_s=10)
        await leader.propose(b"x")
        await cluster.agree()
        await cluster.stop(name)
        moved = PeerAddress(name, f"{name}:2", voter=voter)
        await cluster.start(name, (*(p for p in cluster.first if p.id != name), moved))
        await eventually(lambda: all(moved in m._core.members for m in cluster.members.values()))
        leader = await cluster.leader()
        await leader.propose(b"y")
        await cluster.agree()


@virtual
async def test_a_member_that_is_not_heard_is_refused_with_the_reason() -> None:
    async with Cluster("ABC") as cluster:
        leader: Member = await cluster.leader()
        await leader.add_member("D", "D:1", voter=False, timeout_s=10)
        with pytest.raises(BadRequest, match="D is a member, not yet a voter: it is not heard"):
            await leader.add_member("D", "D:1", voter=True, timeout_s=0.3)


@virtual
async def test_a_member_removed_while_away_hears_it_when_it_connects_and_is_never_dialled() -> None:
    async with Cluster("ABC") as cluster:
        leader = await cluster.leader()
        gone = next(n for n in "CBA" if n != leader.id)
        await cluster.agree()
        await cluster.stop(gone)
        await leader.remove_member(gone, timeout_s=10)
        await cluster.agree()
        wires = cluster.net.wires
        await eventually(lambda: all(gone not in wire.nodes for wire in wires.values()), 5.0)
        for name in list(cluster.members):
            await cluster.stop(name)
            await cluster.start(name)  # it replays its log, in which the member is
            await eventually(lambda: gone not in wires[name].nodes or gone in wires[name].resting)  # noqa: B023
        await cluster.leader()
        await asyncio.sleep(30)
        back = await cluster.start(gone)
        await eventually(lambda: back.status().unfit == "removed")
        assert back.status().role == "observer"


class OneThatBegan:
    """A core that holds a log of the history b"ours"."""

    def __init__(self) -> None:
        self.origin, self.begun, self.at_s = Origin(b"ours", b"we"), True, 0.0

    def now(self) -> float:
        return self.at_s

    def contest(self, until: float) -> None: ...

    def retired(self, member: str) -> bool:
        return False

    def on_told_removed(self, by: str) -> None: ...


def test_a_conflict_is_logged_once_a_minute_whoever_takes_turns_under_one_id() -> None:
    """Of several processes that come every second one belongs here, and two do not."""
    core = OneThatBegan()
    check = PeerCheck(core, "A", "A:1", b"a", raising)
    turns = (
        PeerIdentity(Origin(b"theirs", b"they")),
        PeerIdentity(Origin(b"", b"they")),
        PeerIdentity(core.origin),
    )
    with capture_logs() as lines:
        for _ in range(20):
            assert [check.judge("B", turn) is None for turn in turns] == [False, False, True]
            core.at_s += 1.0
        assert len(lines) == 2
        core.at_s += SAY_AGAIN_S
        check.judge("B", turns[0])
        assert len(lines) == 3
        for number in range(10 * CONFLICTS_MAX):
            check.judge(f"other {number}", turns[0])
    assert len(check.conflicts) <= CONFLICTS_MAX
    assert len(check._said) <= CONFLICTS_MAX


def raising(exc: BaseException) -> None:
    raise exc
