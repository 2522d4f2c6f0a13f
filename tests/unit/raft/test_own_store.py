"""A replica with a store of its own: it may take nothing for a while, and the log waits for it."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.log import Position
from tests.unit.raft.cluster import Cluster, Tape, eventually, virtual


class Keeper(Tape):
    """A tape that takes as much as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.room = 10**9

    @property
    def takes_more(self) -> bool:
        return self.room > 0

    def apply(self, position: Position, stamp_ms: int, command: bytes) -> None:
        assert self.takes_more
        self.room -= 1
        super().apply(position, stamp_ms, command)


def keeper(cluster: Cluster, name: str) -> Keeper:
    tape = cluster.tapes[name]
    assert isinstance(tape, Keeper)
    return tape


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
