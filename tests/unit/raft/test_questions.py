"""Questions travel to the leader and its answers back; none is repeated, and none is lost in
silence.
"""

from __future__ import annotations

import pytest

from coordinator.raft.core import questions
from kv.errors import NotApplied
from tests.unit.raft.cluster import Cluster, virtual


@virtual
async def test_every_member_gets_the_leaders_answer() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        leader_tape = cluster.tapes[leader.id]

        async def answer(question: bytes) -> bytes:
            return b"leader says " + question

        leader_tape.answer = answer  # type: ignore[method-assign]
        for member in cluster.members.values():
            assert await member.ask(b"?", timeout_s=5) == b"leader says ?"


@virtual
async def test_a_refusal_and_its_reason_reach_who_asked() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()

        async def refuse(question: bytes) -> bytes:
            raise NotApplied("not_taken_over", "not yet")

        cluster.tapes[leader.id].answer = refuse  # type: ignore[method-assign]
        for member in cluster.members.values():
            with pytest.raises(NotApplied) as refused:
                await member.ask(b"?", timeout_s=5)
            assert refused.value.reason == "not_taken_over"


@virtual
async def test_without_a_leader_in_reach_who_asked_is_told() -> None:
    async with Cluster() as cluster:
        leader = await cluster.leader()
        other = next(member for member in cluster.members.values() if member is not leader)
        cluster.net.partition(leader.id, "".join(n for n in cluster.members if n != leader.id))
        with pytest.raises(NotApplied) as refused:
            await other.ask(b"?", timeout_s=0.05)
        assert refused.value.reason in {"no_leader", "not_leader"}


@virtual
async def test_more_questions_than_may_wait_are_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(questions, "ASKED_MAX", 0)
    async with Cluster() as cluster:
        leader = await cluster.leader()
        other = next(member for member in cluster.members.values() if member is not leader)
        with pytest.raises(NotApplied) as refused:
            await other.ask(b"?", timeout_s=5)
        assert refused.value.reason == "overloaded"
