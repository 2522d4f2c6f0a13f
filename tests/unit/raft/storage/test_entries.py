"""Old commands of a log are read from their segments: whoever reads the log cannot tell."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.raft.storage.journal import Journal
from tests.simulation.disk import SimDisk
from tests.unit.raft.cluster import FAST, Cluster, eventually, virtual
from tests.virtual import run

STEP = st.tuples(st.sampled_from("aaaaactrfr"), st.integers(0, 30), st.binary(max_size=60))


def opened(disk: SimDisk, memory_bytes_max: int) -> Journal:
    return Journal(
        disk=disk,
        cluster="c",
        member="n",
        fsync="always",
        segment_bytes_max=300,
        memory_bytes_max=memory_bytes_max,
    )


def same(journal: Journal, expected: list[tuple[bytes, int, int]]) -> None:
    assert journal[:] == expected
    assert len(journal) == len(expected)
    for position in range(0, len(expected), 3):
        assert journal[position] == expected[position]
        assert journal.term_of(position) == expected[position][2]
        assert journal[position : position + 5] == expected[position : position + 5]
    if expected:
        assert journal[-1] == expected[-1]


@given(steps=st.lists(STEP, max_size=60), memory=st.sampled_from([0, 100, 1 << 20]))
@settings(max_examples=150, deadline=None)
def test_a_log_is_the_same_however_much_of_it_is_in_memory(steps: list[Any], memory: int) -> None:
    async def story() -> None:
        disk = SimDisk(random.Random(1))
        journal, expected = opened(disk, memory), list[tuple[bytes, int, int]]()
        for kind, number, payload in steps:
            match kind:
                case "a":
                    index = expected[-1][1] + 1 if expected else number + 1
                    entry = (payload, index, index // 5 + 1)
                    journal.add(*entry)
                    expected.append(entry)
                case "c":
                    journal.deleteEntriesFrom(number)
                    del expected[number:]
                case "t":
                    journal.deleteEntriesTo(number)
                    del expected[:number]
                case "f":
                    journal.maybe_sync()
                    while journal._task is not None:
                        await journal._task
                case _:
                    await journal.aclose()
                    journal = opened(disk, memory)
            same(journal, expected)
        await journal.aclose()
        same(opened(disk, memory), expected)

    run(story)


def test_only_what_is_allowed_stays_in_memory() -> None:
    async def story() -> None:
        disk = SimDisk(random.Random(1))
        journal = opened(disk, 200)
        for index in range(1, 101):
            journal.add(b"%d" % index * 10, index, 1)
        assert journal._log.entries.memory_bytes > 1000, "it is not in its file yet"
        journal.flush()
        journal.add(b"x", 101, 1)
        journal.maybe_sync()
        assert journal._task is not None
        await journal._task
        assert journal._log.entries.memory_bytes <= 300
        await journal.aclose()
        assert opened(disk, 200)._log.entries.memory_bytes <= 300

    run(story)


def test_a_damaged_record_is_not_handed_out() -> None:
    async def story() -> None:
        disk = SimDisk(random.Random(1))
        journal = opened(disk, 0)
        for index in range(1, 40):
            journal.add(b"%d" % index * 10, index, 1)
            journal.flush()
        await journal.aclose()
        journal = opened(disk, 0)
        assert journal[2] == (b"3" * 10, 3, 1)
        disk.damage("journal.0000000001", disk.size("journal.0000000001") // 2)
        with pytest.raises(OSError, match="is damaged"):
            journal[:]

    run(story)


@virtual
async def test_members_that_hold_nothing_in_memory_feed_and_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kinds = Journal.__init__.__kwdefaults__
    assert kinds is not None
    monkeypatch.setitem(kinds, "memory_bytes_max", 0)
    monkeypatch.setitem(kinds, "segment_bytes_max", 500)
    async with Cluster(settings=FAST) as cluster:
        leader = await cluster.leader()
        behind = next(name for name in "ABC" if name != leader.id)
        await cluster.stop(behind)
        expected = [b"command %d" % number for number in range(300)]
        for command in expected:
            await leader.propose(command)
        entries = leader._journal._log.entries
        await eventually(lambda: entries.memory_bytes < 600)
        await cluster.start(behind)
        assert await cluster.agree() == expected
        for name in "ABC":
            await cluster.stop(name)
        for name in "ABC":
            await cluster.start(name)
        await cluster.leader()
        assert await cluster.agree() == expected
