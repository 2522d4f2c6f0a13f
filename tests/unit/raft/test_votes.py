"""A vote counts for the question it answers, and never from a member that has lost its disk."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pysyncobj.node import Node

from tests.unit.raft.cluster import CODEC, Cluster, Net, eventually, virtual


class Bag(Net):
    """Everything sent is held back; the test delivers by hand, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.bag: list[tuple[str, str, dict[str, Any]]] = []

    def send(self, src: str, dst: str, message: dict[str, Any]) -> bool:
        if frozenset((src, dst)) not in self.up:
            return False
        self.bag.append((src, dst, CODEC.decode(CODEC.encode(message))))
        return True

    def deliver(self, src: str, dst: str, kind: str, **wanted: object) -> None:
        """Deliver the first such message."""
        for place, (a, b, message) in enumerate(self.bag):
            fits = all(message[name] == value for name, value in wanted.items())
            if (a, b, message["type"]) == (src, dst, kind) and fits:
                del self.bag[place]
                self.wires[dst]._onMessageReceived(self.wires[dst].nodes[src], message)
                return
        raise AssertionError(f"no {kind} from {src} to {dst}")


@virtual
async def test_a_late_vote_is_not_added_to_pre_votes_of_another_term() -> None:
    """Five voters: D leads term 1; A, once a candidate of it, asks pre-votes for 2 when C's vote
    for 1 arrives.
    """
    cluster = Cluster("ABCDE")
    cluster.net = net = Bag()
    async with cluster:
        await asyncio.sleep(0.05)  # connected; nobody has stood yet
        net.bag.clear()

        def fire(name: str) -> None:
            core = cluster.members[name]._core
            core.pysyncobj.election_deadline = float("-inf")
            core.elections.elect()

        fire("A")
        fire("D")
        for candidate in "AD":
            for voter in "BE":
                net.deliver(candidate, voter, "request_vote", pre=True, term=1)
                net.deliver(voter, candidate, "response_vote", pre=True)
        for voter in "BE":
            net.deliver("D", voter, "request_vote", pre=False)
            net.deliver(voter, "D", "response_vote", pre=False)
        assert cluster.members["D"].status().role == "leader"
        net.deliver("A", "C", "request_vote", pre=False)
        fire("A")
        net.deliver("A", "B", "request_vote", pre=True, term=2)
        net.deliver("B", "A", "response_vote", pre=True, term=2)
        fire("E")
        net.deliver("E", "A", "request_vote", pre=True, term=2)
        net.deliver("C", "A", "response_vote", pre=False, term=1)
        assert cluster.members["A"].status().role != "leader"


@virtual
@pytest.mark.parametrize("hears", [False, True])
@pytest.mark.parametrize("restarts", [0, 1, 2])
async def test_a_lost_disk_is_still_lost_after_a_restart(restarts: int, hears: bool) -> None:
    """The base that a start writes is nothing that this member ever heard of, nor is the term of
    who refuses it.
    """
    async with Cluster() as cluster:
        leader = await cluster.leader()
        await eventually(
            lambda: all(
                s.joined for m in cluster.members.values() for s in m._core.configuration.seats
            )
        )
        await cluster.agree()
        wiped, away = (name for name in "ABC" if name != leader.id)
        cluster.net.partition(leader.id + wiped, away)
        await leader.propose(b"acknowledged")
        await cluster.agree(among=leader.id + wiped)
        await cluster.stop(wiped)
        cluster.wipe(wiped)
        cluster.net.partition(leader.id, wiped, away)
        for turn in range(restarts + 1):
            back = await cluster.start(wiped)
            cluster.net.partition(leader.id, wiped, away)
            if hears:
                refused = {
                    "type": "response_vote",
                    "term": 1,
                    "pre": True,
                    "granted": False,
                    "current": 1 + turn,
                }
                back._core.on_message(Node(away), refused)
            await asyncio.sleep(0.05)
            if turn < restarts:
                await cluster.stop(wiped)
        await cluster.stop(leader.id)
        cluster.net.partition(wiped + away)
        await asyncio.sleep(3)
        assert cluster.members[wiped]._core.eligibility.disk_lost
        assert all(member.status().role != "leader" for member in cluster.members.values())


@virtual
async def test_a_log_that_was_begun_again_is_not_a_lost_disk() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        await eventually(
            lambda: all(
                s.joined for m in cluster.members.values() for s in m._core.configuration.seats
            )
        )
        await leader.propose(b"kept")
        other = next(m for m in cluster.members.values() if m is not leader)
        cluster.net.partition(leader.id, other.id)
        other._core.follower.wipe()
        await cluster.stop(other.id)
        back = await cluster.start(other.id)
        cluster.net.heal()
        assert await cluster.agree() == [b"kept"]
        assert not back._core.eligibility.disk_lost


@virtual
async def test_a_pre_vote_that_comes_late_starts_no_campaign() -> None:
    """C asks pre-votes for term 1, votes for A in term 1, and B's pre-vote for term 1 comes after
    that.
    """
    cluster = Cluster("ABC")
    cluster.net = net = Bag()
    async with cluster:
        await asyncio.sleep(0.05)
        net.bag.clear()
        for name in "AC":
            core = cluster.members[name]._core
            core.pysyncobj.election_deadline = float("-inf")
            core.elections.elect()
        net.deliver("A", "B", "request_vote", pre=True, term=1)
        net.deliver("B", "A", "response_vote", pre=True)
        net.deliver("A", "C", "request_vote", pre=True, term=1)
        net.deliver("C", "B", "request_vote", pre=True, term=1)
        net.deliver("A", "C", "request_vote", pre=False, term=1)
        net.deliver("C", "A", "response_vote", pre=False, term=1)
        assert cluster.members["A"].status().role == "leader"
        net.deliver("B", "C", "response_vote", pre=True, term=1)
        assert cluster.members["C"].status().term == 1, "nobody was asked about term 2"


@virtual
async def test_a_vote_is_stored_once_and_the_timer_starts_when_it_is() -> None:
    cluster = Cluster("ABC")
    cluster.net = net = Bag()
    async with cluster:
        await asyncio.sleep(0.05)
        net.bag.clear()
        stored: list[tuple[str, int, str | None]] = []
        for name in "AB":
            journal = cluster.members[name]._journal
            store = journal.setCurrentTerm

            def watched(term: int, vote: str | None, name: str = name, store: Any = store) -> None:
                stored.append((name, term, vote))
                # it takes very long
                cluster.members[name]._core.pysyncobj.election_deadline = float("-inf")
                store(term, vote)

            journal.setCurrentTerm = watched
        a, b = (cluster.members[name]._core for name in "AB")
        a.pysyncobj.election_deadline = float("-inf")
        a.elections.elect()
        net.deliver("A", "B", "request_vote", pre=True)
        net.deliver("B", "A", "response_vote", pre=True)
        net.deliver("A", "B", "request_vote", pre=False)
        assert stored == [("A", 1, "A"), ("B", 1, "A")]
        now = asyncio.get_running_loop().time()
        assert a.pysyncobj.election_deadline > now
        assert b.pysyncobj.election_deadline > now
