"""The classic mistakes: each of these fails when the rule that it names is taken away."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import msgspec
import pytest
from pysyncobj.node import Node

from kv.errors import NotApplied, OutcomeUnknown
from tests.unit.raft.cluster import FAST, Cluster, eventually, virtual
from tests.unit.raft.cores import forget_leader
from tests.unit.raft.test_votes import Bag

STILL = msgspec.structs.replace(
    FAST, batch_bytes=1, election_min_s=900.0, election_max_s=901.0, heartbeat_s=100.0
)
"""Nobody stands and nothing is sent unless a test says so; every entry fills a message of
its own.
"""


class Stage:
    """Five members and every message between them in the test's hands."""

    def __init__(self) -> None:
        self.cluster = Cluster("ABCDE", STILL)
        self.cluster.net = self.net = Bag()

    def core(self, name: str) -> Any:
        return self.cluster.members[name]._core

    async def settle(self) -> None:
        await asyncio.sleep(0.2)  # what is added is on every disk

    async def elect(self, name: str, voters: str) -> None:
        """Let one stand and win, with these votes."""
        for each in voters + name:
            forget_leader(self.core(each))
        self.core(name).terms.follow(max(self.core(each).term for each in voters + name), None)
        self.core(name).pysyncobj.election_deadline = float("-inf")
        self.core(name).elections.elect()
        for pre in (True, False):
            for voter in voters:
                self.net.deliver(name, voter, "request_vote", pre=pre)
                self.net.deliver(voter, name, "response_vote", pre=pre)
        assert self.core(name).leads
        self.net.bag[:] = [sent for sent in self.net.bag if sent[2]["type"] == "append_entries"]
        await self.settle()

    async def replicate(self, leader: str, followers: str, up_to: int) -> None:
        """Carry entries and acknowledgements until the followers hold all up to an index, and
        nothing above it.
        """
        for _ in range(6):
            for follower in followers:
                self.carry(leader, follower, up_to)
                await self.settle()
                self.carry(follower, leader, up_to)
            self.core(leader).pysyncobj.heartbeat_due = 0
            self.core(leader).environment.wake()
            await self.settle()

    def carry(self, source: str, target: str, up_to: int) -> None:
        for sent in list(self.net.bag):
            a, b, message = sent
            above = any(index > up_to for _, index, _ in message.get("entries", ()))
            if (
                (a, b) == (source, target)
                and message["type"] in {"append_entries", "next_node_idx"}
                and not above
            ):
                self.net.bag.remove(sent)
                wire = self.net.wires[target]
                wire._onMessageReceived(wire.nodes[source], message)


@virtual
async def test_an_entry_of_an_older_term_is_not_committed_by_counting() -> None:
    """Figure 8 of the Raft paper: a majority holds it, and a leader of a later term may still
    overwrite it.
    """
    stage = Stage()
    async with stage.cluster:
        await asyncio.sleep(0.05)
        stage.net.bag.clear()
        # term 1: its no-op is entry 2, what the log began from entry 3
        await stage.elect("A", "BC")
        stage.net.deliver("A", "B", "append_entries")
        await stage.settle()
        stage.net.bag.clear()
        await stage.elect("E", "CD")  # term 2: its own entries 2 and 3 reach nobody
        stage.net.bag.clear()
        await stage.elect("A", "BC")  # term 3: its no-op is entry 4, and stays where it is
        await stage.replicate("A", "BC", 3)
        assert [stage.core(name).log.term_at(2) for name in "ABCE"] == [1, 1, 1, 2]
        assert stage.core("A").pysyncobj.commit_index == 1
        stage.net.bag.clear()
        await stage.elect("E", "BCD")  # as it may: its last entry is of term 2, theirs of term 1
        await stage.replicate("E", "BCD", 4)
        assert [stage.core(name).log.term_at(2) for name in "BCDE"] == [2, 2, 2, 2]
        assert stage.core("E").pysyncobj.commit_index == 4


@virtual
async def test_a_voter_of_a_newer_term_confirms_no_read_of_an_older_leader() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        voter = next(member for member in cluster.members.values() if member is not leader)
        core, term = voter._core, leader.status().term
        said: list[dict[str, Any]] = []
        cluster.net.watch = lambda src, dst, message: (
            said.append(message) if src == voter.id and message["type"] == "read_pong" else None
        )
        ping = {"type": "read_ping", "term": term, "round": 1}
        core.on_message(Node(leader.id), ping)
        assert len(said) == 1
        core.terms.follow(term + 1, None)
        core.on_message(Node(leader.id), ping)
        assert len(said) == 1


@virtual
async def test_a_configuration_that_was_cut_off_is_out_of_force() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        await cluster.agree()
        others = "".join(name for name in "ABC" if name != leader.id)
        cluster.net.partition(leader.id, others)
        adding = asyncio.ensure_future(leader.add_member("D", "D:1", voter=False, timeout_s=1.0))
        await eventually(lambda: leader._core.configuration.seat("D") is not None)
        new = await cluster.leader(among=others)
        await new.propose(b"overwrites it")
        with contextlib.suppress(NotApplied, OutcomeUnknown):
            await adding
        cluster.net.heal()
        await cluster.agree()
        for member in cluster.members.values():
            assert member._core.configuration.seat("D") is None
            assert "D" not in {node.id for node in member._core.roster.peers}


@virtual
@pytest.mark.parametrize("asked", ["append_entries", "read_ping"])
async def test_a_member_that_lost_its_disk_acknowledges_and_confirms_nothing(asked: str) -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        await eventually(
            lambda: all(
                s.joined for m in cluster.members.values() for s in m._core.configuration.seats
            )
        )
        lost = next(name for name in "ABC" if name != leader.id)
        await cluster.stop(lost)
        cluster.wipe(lost)
        said: list[dict[str, Any]] = []
        cluster.net.watch = lambda src, dst, message: said.append(message) if src == lost else None
        back = await cluster.start(lost)
        await eventually(lambda: back._core.eligibility.disk_lost)
        await leader.propose(b"more")
        if asked == "read_ping":
            core = back._core
            core.pysyncobj.load_term(leader.status().term, None)  # as if it had followed
            ping = {"type": "read_ping", "term": leader.status().term, "round": 1}
            core.on_message(Node(leader.id), ping)
        await asyncio.sleep(0.5)
        assert not [m for m in said if m["type"] == "next_node_idx" and m["success"]]
        assert not [m for m in said if m["type"] == "read_pong"]
        assert leader._core.environment.counts["disk_lost_refusals"] > 0
