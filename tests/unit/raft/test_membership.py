"""Add, promote, remove, replace and transfer, through members; each refused while it would be
unsafe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pysyncobj.node import Node

from coordinator.log import PeerAddress
from coordinator.raft.core.pysyncobj_library import (
    MISSING_LEADER,
    REQUEST_DENIED,
    SUCCESS,
    UNKNOWN_OUTCOME,
)
from coordinator.raft.core.rules.membership import Change, Refusal
from coordinator.raft.member import Member
from kv.errors import BadRequest, NotApplied, OutcomeUnknown
from tests.unit.raft.cluster import Cluster, eventually, virtual

T = 10.0


def ids(member: Member) -> dict[str, bool]:
    return {peer.id: peer.voter for peer in member.status().peers}


async def add(cluster: Cluster, through: Member, name: str, *, voter: bool) -> Member:
    new = await cluster.start(name, (*cluster.first, PeerAddress(name, f"{name}:1", voter=False)))
    await through.add_member(name, f"{name}:1", voter=voter, timeout_s=T)
    return new


@virtual
async def test_an_observer_replicates_reads_and_forwards_but_is_not_counted() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        await leader.propose(b"before")
        observer = await add(cluster, leader, "D", voter=False)
        await observer.propose(b"forwarded")
        assert await cluster.agree() == [b"before", b"forwarded"]
        assert observer.status().role == "observer"
        leader.open_reads(leader.status().term)
        assert await observer.read_index(timeout_s=T) == leader.applied
        assert ids(leader) == {"A": True, "B": True, "C": True, "D": False}
        cluster.net.partition(leader.id + "D", "".join(n for n in "ABC" if n != leader.id))
        await eventually(lambda: leader.status().role != "leader")
        assert observer.status().role != "leader"
        cluster.net.heal()
        await cluster.agree()


@virtual
async def test_a_member_is_replaced_under_a_new_id_through_a_follower() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        await leader.propose(b"kept")
        gone, other = (m for m in cluster.members.values() if m is not leader)
        await cluster.stop(gone.id)
        cluster.wipe(gone.id)
        await other.remove_member(gone.id, timeout_s=T)
        new = await add(cluster, other, "D", voter=True)
        assert ids(leader) == {leader.id: True, other.id: True, "D": True}
        assert await cluster.agree() == [b"kept"]
        await eventually(lambda: new.status().role == "follower")
        with pytest.raises(BadRequest, match="never comes back"):
            await leader.add_member(gone.id, f"{gone.id}:1", voter=True, timeout_s=T)


@virtual
async def test_a_member_with_a_lost_disk_never_votes() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        await leader.propose(b"kept")
        await eventually(lambda: all(seat.joined for seat in leader._core.configuration.seats))
        wiped, other = (m.id for m in cluster.members.values() if m is not leader)
        await cluster.agree()
        await cluster.stop(wiped)
        cluster.wipe(wiped)
        back = await cluster.start(wiped)
        await eventually(lambda: back._core.eligibility.disk_lost)
        assert back.status().unfit == "disk_lost"  # its readiness says so
        await cluster.stop(leader.id)
        survivor = cluster.members[other]
        asked = cluster.net.sent["request_vote"]
        await eventually(lambda: cluster.net.sent["request_vote"] >= asked + 3)
        assert survivor.status().leader is None
        await cluster.start(leader.id)
        again = await cluster.leader()
        await again.remove_member(wiped, timeout_s=T)


@virtual
async def test_who_never_heard_that_it_votes_gives_its_vote_to_whom_counts_it() -> None:
    """Found by the simulation (seed 1457): else the first of two members could never lead again."""
    async with Cluster("A") as cluster:
        only = await cluster.leader()
        await only.propose(b"kept")
        await add(cluster, only, "D", voter=False)
        await cluster.agree()
        cluster.net.partition("A", "D")
        with pytest.raises((NotApplied, OutcomeUnknown)):
            await only.add_member("D", "D:1", voter=True, timeout_s=0.5)
        assert only._core.configuration.votes("D")
        await cluster.stop("A")
        cluster.net.heal()
        back = await cluster.start("A")
        assert back._core.configuration.votes("D")
        await cluster.leader(among="A")
        assert await cluster.agree() == [b"kept"]
        assert ids(back) == {"A": True, "D": True}


@virtual
async def test_unsafe_changes_are_refused_with_the_reason() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        a, b = (m.id for m in cluster.members.values() if m is not leader)
        with pytest.raises(BadRequest, match="address of"):
            await leader.add_member("X", f"{a}:1", voter=False, timeout_s=T)
        with pytest.raises(BadRequest, match="is not a member"):
            await leader.remove_member("X", timeout_s=T)
        await cluster.stop(a)
        await eventually(lambda: a not in leader._core.changes.situation().live)
        with pytest.raises(BadRequest, match="only 1 of the then 2 voters"):
            await leader.remove_member(b, timeout_s=0.5)
        await leader.remove_member(a, timeout_s=T)
        assert ids(leader) == {leader.id: True, b: True}


@virtual
async def test_a_removed_member_is_told_and_stays_quiet() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        gone = next(m for m in cluster.members.values() if m is not leader)
        term = leader.status().term
        await leader.remove_member(gone.id, timeout_s=T)
        await eventually(lambda: gone.status().role == "observer")
        await eventually(lambda: gone.status().unfit == "removed")
        assert leader.status().unfit is None
        await leader.propose(b"x")
        assert leader.status().term == term


@virtual
async def test_a_removal_that_may_still_be_cut_off_is_told_to_nobody() -> None:
    async with Cluster("ABCDE") as cluster:
        leader = await cluster.leader()
        heard, gone, *_ = (m for m in cluster.members.values() if m is not leader)
        await cluster.agree()
        cluster.net.partition(
            leader.id + heard.id, "".join(n for n in "ABCDE" if n not in leader.id + heard.id)
        )
        with pytest.raises((NotApplied, OutcomeUnknown)):
            await leader.remove_member(gone.id, timeout_s=0.4)
        assert gone.id in heard._core.configuration.retired
        assert heard._core.roster.committed.seat(gone.id)
        told = cluster.net.sent["removed"]
        cluster.net.heal()
        ask = {"term": 99, "last_log_index": 99, "last_log_term": 99, "pre": True}
        heard._core.elections.on_request_vote(Node(gone.id), ask)
        assert cluster.net.sent["removed"] == told


@virtual
async def test_a_status_tells_of_a_member_that_was_left_behind_already() -> None:
    """Found by the simulation (seed 136607365801026): its removal was cut off after it had been
    taken leave of.
    """
    async with Cluster() as cluster:
        leader = await cluster.leader()
        gone = next(m for m in cluster.members.values() if m is not leader)
        await cluster.agree()
        for member in cluster.members.values():
            member._core.roster._nodes.pop(gone.id, None)
            peer = next(peer for peer in member.status().peers if peer.id == gone.id)
            assert member is gone or (peer.match, peer.last_seen_s) == (None, None)


@virtual
async def test_removing_the_leader_hands_over_first() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        other = next(m for m in cluster.members.values() if m is not leader)
        await other.remove_member(leader.id, timeout_s=T)
        following = await cluster.leader(
            after=leader.status().term - 1, among="ABC".replace(leader.id, "")
        )
        assert leader.id not in ids(following)


@pytest.mark.parametrize("through_follower", [False, True])
@virtual
async def test_transfer_moves_the_leadership_and_loses_no_command(through_follower: bool) -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        target = next(m for m in cluster.members.values() if m is not leader)
        asked = target if through_follower else leader
        futures = [leader.propose(b"%d" % i) for i in range(50)]
        assert await asked.transfer(target.id, timeout_s=T) == target.id
        futures += [leader.propose(b"%d" % i) for i in range(50, 60)]
        for future in futures:
            await future
        assert sorted(await cluster.agree()) == sorted(b"%d" % i for i in range(60))
        assert target.status().role == "leader"
        events = cluster.tapes[leader.id].events
        assert events[-1][0] == "deposed"


@virtual
async def test_transfer_waits_for_no_timer_once_the_target_holds_all() -> None:
    """Commands wait meanwhile. What the target acknowledges last commits nothing."""
    async with Cluster() as cluster:
        leader = await cluster.leader()
        await leader.propose(b"first")
        target = next(name for name in "ABC" if name != leader.id)
        cluster.net.hold(target, leader.id)
        await leader.propose(b"second")
        moved = asyncio.ensure_future(leader.transfer(target, timeout_s=T))
        await asyncio.sleep(0)
        told: list[float] = []

        def watch(src: str, dst: str, message: dict[str, Any]) -> None:
            if message["type"] == "timeout_now":
                told.append(asyncio.get_running_loop().time())

        cluster.net.watch = watch
        # just after a heartbeat, so that the next timer is far away
        due = leader._core.pysyncobj.heartbeat_due
        await eventually(lambda: leader._core.pysyncobj.heartbeat_due != due)
        released = asyncio.get_running_loop().time()
        cluster.net.release(target, leader.id)
        assert await moved == target
        assert told == [released]


@virtual
async def test_transfer_to_nobody_is_refused() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        with pytest.raises(BadRequest):
            await leader.transfer("X", timeout_s=T)
        other = next(n for n in cluster.members if n != leader.id)
        await cluster.stop(other)
        with pytest.raises(NotApplied):
            await leader.transfer(other, timeout_s=T)
        await leader.propose(b"still leading")


@virtual
async def test_step_down_and_outrank() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        term = leader.status().term
        leader.step_down()
        assert leader.status().role == "follower"
        following = await cluster.leader(after=term)
        following.outrank(1000)
        top = await cluster.leader(after=1000)
        assert top is following
        assert top.status().term == 1001


UNKNOWN = (None, UNKNOWN_OUTCOME)
LATER = (Refusal("not just now", later=True), REQUEST_DENIED)
NEVER = (Refusal("no such member"), REQUEST_DENIED)
NOBODY = (None, MISSING_LEADER)
DONE = (None, SUCCESS)


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([LATER, DONE], None),
        ([UNKNOWN, DONE], None),
        ([NEVER], BadRequest),
        ([NOBODY, LATER], BadRequest),
        ([LATER, NOBODY], NotApplied),
        ([UNKNOWN, NEVER], OutcomeUnknown),
        ([UNKNOWN, LATER], OutcomeUnknown),
        ([UNKNOWN, NOBODY], OutcomeUnknown),
        ([LATER, UNKNOWN], OutcomeUnknown),
    ],
)
@virtual
async def test_a_change_is_refused_only_if_no_attempt_of_it_is_unknown(
    answers: list[tuple[Any, int]], told: type[Exception] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """INV-4. The last answer comes again until time is up."""
    async with Cluster("A") as cluster:
        member = await cluster.leader()
        left = list(answers)

        def change(change: Change, callback: Callable[[Any, int], None]) -> None:
            callback(*(left.pop(0) if len(left) > 1 else left[0]))

        monkeypatch.setattr(member._core.commands, "change", change)
        if told is None:
            await member.remove_member("D", timeout_s=T)
        else:
            with pytest.raises(told):
                await member.remove_member("D", timeout_s=0.5)


@virtual
async def test_a_removal_whose_answer_was_lost_is_unknown_though_nobody_can_be_asked_again() -> (
    None
):
    async with Cluster() as cluster:
        leader = await cluster.leader()
        asked, other = (m for m in cluster.members.values() if m is not leader)
        await add(cluster, leader, "D", voter=False)
        await eventually(lambda: ids(asked) == ids(leader))
        cluster.net.hold(leader.id, asked.id)
        removal = asyncio.ensure_future(asked.remove_member("D", timeout_s=1.0))
        await eventually(lambda: "D" not in ids(other))
        cluster.net.partition(leader.id + other.id, asked.id + "D")
        cluster.net.release(leader.id, asked.id)
        with pytest.raises(OutcomeUnknown):
            await removal
        assert "D" not in ids(leader)


@virtual
async def test_who_was_taken_in_and_not_promoted_is_told_as_that() -> None:
    """Neither refused, for it is a member now, nor unknown: it does not run yet."""
    async with Cluster() as cluster:
        leader = await cluster.leader()
        told = await leader.add_member("D", "D:1", voter=True, timeout_s=1.0)
        assert told.startswith("D is a member, not yet a voter: it is not heard")
        assert ids(leader)["D"] is False
        with pytest.raises(BadRequest, match="is not heard"):
            await leader.add_member("D", "D:1", voter=True, timeout_s=1.0)


@virtual
async def test_a_transfer_is_unknown_once_a_voter_was_told_to_take_over() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        target = next(m for m in cluster.members.values() if m is not leader)
        await cluster.agree()
        cluster.net.hold(leader.id, target.id)
        with pytest.raises(OutcomeUnknown):
            await leader.transfer(target.id, timeout_s=0.2)
        assert leader.status().role == "leader"
        cluster.net.release(leader.id, target.id)
        await eventually(lambda: target.status().role == "leader")


@virtual
async def test_who_asks_the_leader_to_transfer_hears_that_it_is_unknown() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        asked, target = (m for m in cluster.members.values() if m is not leader)
        await cluster.agree()
        await eventually(lambda: asked.status().leader == leader.id)
        cluster.net.hold(leader.id, target.id)
        transfer = asyncio.ensure_future(asked.transfer(target.id, timeout_s=T))
        await eventually(lambda: cluster.net.sent["timeout_now"] > 0)
        cluster.net.cut = {frozenset((leader.id, target.id))}
        cluster.net.settle()
        with pytest.raises(OutcomeUnknown, match="told to take over"):
            await transfer


@pytest.mark.parametrize("through_follower", [False, True])
@virtual
async def test_a_change_that_is_so_already_says_that_there_was_nothing_to_do(
    through_follower: bool,
) -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        asked = next(m for m in cluster.members.values() if (m is leader) != through_follower)
        other = next(name for name in "ABC" if name not in {leader.id, asked.id})
        nothing = "is a voter already: there was nothing to do"
        assert (
            await asked.add_member(other, f"{other}:1", voter=True, timeout_s=T)
            == f"{other} {nothing}"
        )
        await cluster.start("D", (*cluster.first, PeerAddress("D", "D:1", voter=False)))
        assert await asked.add_member("D", "D:1", voter=False, timeout_s=T) == ""
        assert "is a member already" in await asked.add_member("D", "D:1", voter=False, timeout_s=T)
        assert await asked.add_member("D", "D:1", voter=True, timeout_s=T) == ""
        assert await asked.remove_member("D", timeout_s=T) == ""
        assert (
            await asked.remove_member("D", timeout_s=T)
            == "D was removed before: there was nothing to do"
        )
