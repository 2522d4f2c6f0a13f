"""What a proposer is told: applied, definitely not applied, or unknown; and who comes back after
what.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from coordinator.raft import proposals
from coordinator.raft.core.pysyncobj_library import UNKNOWN_OUTCOME
from kv.errors import InvariantViolated, NotApplied, OutcomeUnknown
from tests.unit.raft.cluster import FAST, Cluster, eventually, virtual
from tests.unit.raft.cores import forget_leader
from tests.unit.raft.hand import OURS, Net


@virtual
async def test_a_command_that_raises_is_an_error_once_on_every_member() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        for tape in cluster.tapes.values():
            tape.poison = b"poison"
        with pytest.raises(InvariantViolated):
            await leader.propose(b"poison")
        await leader.propose(b"after")
        assert await cluster.agree() == [b"poison", b"after"]


@virtual
async def test_a_command_without_an_answer_in_time_is_unknown() -> None:
    settings = msgspec.structs.replace(
        FAST, propose_timeout_s=0.05, election_min_s=5.0, election_max_s=6.0
    )
    async with Cluster(settings=settings) as cluster:
        forget_leader(cluster.members["A"]._core)
        cluster.members["A"].outrank(1)
        leader = await cluster.leader()
        for peer in "BC":
            cluster.net.hold(peer, leader.id)
        with pytest.raises(OutcomeUnknown):
            await leader.propose(b"slow")
        for peer in "BC":
            cluster.net.release(peer, leader.id)
        assert await cluster.agree() == [b"slow"]


@virtual
async def test_too_much_waiting_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposals, "WAITING_MAX", 3)
    async with Cluster() as cluster:
        leader = await cluster.leader()
        futures = [leader.propose(b"%d" % i) for i in range(4)]
        with pytest.raises(NotApplied) as refused:
            await futures[3]
        assert refused.value.reason == "overloaded"
        for future in futures[:3]:
            await future
        await leader.propose(b"again")
        with pytest.raises(NotApplied):
            await leader.propose(b"x" * (proposals.COMMAND_BYTES_MAX + 1))


@virtual
async def test_a_stopped_member_answers_what_waits() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        for peer in "ABC".replace(leader.id, ""):
            cluster.net.hold(peer, leader.id)
        future = leader.propose(b"x")
        await cluster.stop(leader.id)
        with pytest.raises(OutcomeUnknown):
            await future
        with pytest.raises(NotApplied):
            await leader.propose(b"y")


def test_a_snapshot_that_jumps_over_a_waiting_command_makes_it_unknown(tmp_path: Path) -> None:
    net, told = Net(OURS, folder=tmp_path), list[int]()
    net.elect("A", "BC")
    net.heartbeat("A", "BC", 4)
    net["C"].put("k", 1, callback=lambda result, error: told.append(error))
    net["C"].doTick(0)
    net.deliver("C", "A")
    net["A"].doTick(0)
    answers = [
        message for message in net.queues["A", "C"] if message["type"] == "apply_command_response"
    ]
    net.queues["A", "C"].clear()
    net.queues["A", "C"].extend(answers)
    net.deliver("A", "C")  # C knows where its command is, and lost the command itself
    net.connect("A", "C", False)
    net.heartbeat("A", "B", 3)
    net["A"].forceLogCompaction()
    net.heartbeat("A", "B", 2)
    assert not told
    net.connect("A", "C", True)
    for _ in range(10):
        net.heartbeat("A", "BC")
    assert net["C"].core.environment.counts["snapshots_installed"] == 1
    assert net["C"].data == {"k": 1}
    assert told == [UNKNOWN_OUTCOME]


@virtual
async def test_a_cut_off_member_raises_no_term_and_disturbs_nobody_when_it_is_back() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        term = leader.status().term
        away = next(m for m in cluster.members.values() if m is not leader)
        cluster.net.partition(away.id, "ABC".replace(away.id, ""))
        await eventually(lambda: away.status().leader is None)
        asked = cluster.members[away.id]._core.environment.rng.getstate()
        await eventually(lambda: cluster.members[away.id]._core.environment.rng.getstate() != asked)
        await leader.propose(b"meanwhile")
        cluster.net.heal()
        assert await cluster.agree() == [b"meanwhile"]
        assert leader.status().role == "leader"
        assert {m.status().term for m in cluster.members.values()} == {term}


@virtual
async def test_a_member_whose_term_rose_is_not_locked_out() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        away = next(m for m in cluster.members.values() if m is not leader)
        cluster.net.partition(away.id, "ABC".replace(away.id, ""))
        away.outrank(500)
        await eventually(lambda: away.status().term >= 500)
        await leader.propose(b"meanwhile")
        cluster.net.heal()
        following = await cluster.leader(after=500)
        await following.propose(b"after")
        assert await cluster.agree() == [b"meanwhile", b"after"]


@virtual
async def test_a_voter_that_hears_the_leader_grants_nothing() -> None:
    """One link of three is cut: the member without the leader cannot take its place
    (HAZ-8).
    """
    async with Cluster() as cluster:
        leader = await cluster.leader()
        lonely = next(n for n in "ABC" if n != leader.id)
        term = leader.status().term
        cluster.net.cut = {frozenset((leader.id, lonely))}
        cluster.net.settle()
        asked = cluster.net.sent["request_vote"]
        await eventually(lambda: cluster.net.sent["request_vote"] >= asked + 5)
        await leader.propose(b"still leading")
        assert leader.status().term == term
