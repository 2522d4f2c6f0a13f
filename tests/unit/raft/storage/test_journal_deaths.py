"""End the process, or the power, at every byte of every disk operation, and read the journal back.

The twin is a plain list. What comes back must be one of the states that were intended: never older
than what was promised, never newer than what was begun, never anything in between.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import pytest

from coordinator.raft.storage.journal import Journal, Policy
from tests.simulation.disk import Died, SimDisk
from tests.virtual import run

SEGMENT_BYTES = 260


class State(NamedTuple):
    entries: tuple[tuple[bytes, int, int], ...]
    vote: tuple[int, str | None]


class Act(NamedTuple):
    """One thing done to the journal, and to its twin."""

    name: str
    real: Callable[[Journal], Any]
    twin: Callable[[list[tuple[bytes, int, int]]], Any]
    vote: tuple[int, str | None] | None = None


def add(index: int, term: int, size: int = 20) -> Act:
    entry = (bytes([index % 256]) * size, index, term)
    return Act(f"add {index}", lambda j: j.add(*entry), lambda t: t.append(entry))


def cut(position: int) -> Act:
    return Act(
        f"cut {position}",
        lambda j: j.deleteEntriesFrom(position),
        lambda t: t.__delitem__(slice(position, None)),
    )


def trim(position: int) -> Act:
    return Act(
        f"trim {position}",
        lambda j: j.deleteEntriesTo(position),
        lambda t: t.__delitem__(slice(0, position)),
    )


def clear() -> Act:
    return Act("clear", lambda j: j.clear(), lambda t: t.clear())


def vote(term: int, member: str | None) -> Act:
    return Act(
        f"vote {term}", lambda j: j.setCurrentTerm(term, member), lambda t: None, (term, member)
    )


SYNC = Act("sync", lambda j: j.flush(), lambda t: None)

STORY: tuple[Act, ...] = (
    vote(1, "n1"),
    *(add(i, 1) for i in range(1, 6)),
    SYNC,
    *(add(i, 1) for i in range(6, 12)),
    SYNC,
    vote(2, None),
    cut(8),
    add(9, 2, 90),
    SYNC,
    add(10, 2),
    trim(6),
    SYNC,
    add(11, 2, 130),
    add(12, 2, 0),
    SYNC,
    vote(2, "n3"),
    trim(4),
    add(13, 2),
    SYNC,
    clear(),
    add(40, 2),
    add(41, 3),
    SYNC,
    vote(3, "n1"),
    *(add(i, 3) for i in range(42, 49)),
    SYNC,
    cut(1),
    add(41, 4),
    SYNC,
)


def states_of(story: Iterable[Act]) -> list[State]:
    """Return the state before the first act and after each."""
    twin: list[tuple[bytes, int, int]] = []
    now: tuple[int, str | None] = (0, None)
    states = [State((), now)]
    for act in story:
        act.twin(twin)
        now = act.vote or now
        states.append(State(tuple(twin), now))
    return states


def opened(disk: SimDisk, fsync: Policy) -> Journal:
    return Journal(
        disk=disk, cluster="c", member="n1", fsync=fsync, segment_bytes_max=SEGMENT_BYTES
    )


def read_back(disk: SimDisk, fsync: Policy) -> State:
    journal = opened(disk, fsync)
    state = State(tuple(journal[:]), (journal.getCurrentTerm(), journal.getVotedForNodeId()))
    assert journal.synced_index == (state.entries[-1][1] if state.entries else 0)
    return state


def play(disk: SimDisk, fsync: Policy, story: tuple[Act, ...]) -> tuple[int, int]:
    """Play until it dies; return (acts whose effect was promised, acts begun)."""
    begun = promised = 0
    try:
        journal = opened(disk, fsync)
        for act in story:
            begun += 1
            act.real(journal)
            if act is SYNC:
                promised = begun
        journal._destroy()
    except Died:
        pass
    return promised, begun


STATES = states_of(STORY)


def check(disk: SimDisk, fsync: Policy, oldest: int, newest: int, what: str) -> State:
    state = read_back(disk, fsync)
    assert state.entries in [s.entries for s in STATES[oldest : newest + 1]], what
    # A vote is durable when its call returns: acts are counted when they begin.
    assert state.vote in [s.vote for s in STATES[max(0, newest - 1) : newest + 1]], what
    return state


def deaths(fsync: Policy) -> list[tuple[int, int]]:
    """Return (step, byte) for every byte at which the story can die."""
    disk = SimDisk(random.Random(0))
    disk.steps = []
    assert play(disk, fsync, STORY) == (len(STORY), len(STORY))
    assert read_back(disk, fsync) == STATES[-1]
    assert len({step.operation for step in disk.steps}) >= 5
    return [(n, byte) for n, step in enumerate(disk.steps) for byte in range(step.size + 1)]


def test_kill_at_every_byte_of_what_is_written_at_once() -> None:
    """Policy off: written when `add` returns. One act is one record, so it is there whole or not at
    all.
    """
    cuts = 0
    for step, byte in deaths("off"):
        disk = SimDisk(random.Random(step * 1000 + byte))
        disk.die_at(step, byte)
        _, begun = play(disk, "off", STORY)
        disk.crash()
        check(disk, "off", max(0, begun - 1), begun, f"killed in step {step} after {byte} bytes")
        cuts += 1
    assert cuts > 1000


@pytest.mark.parametrize("end", ["kill", "power cut"])
def test_death_at_every_byte_of_what_is_synced(end: str) -> None:
    """Policy always: what a sync had promised is there, whatever happens next."""
    for step, byte in deaths("always"):
        disk = SimDisk(random.Random(step * 1000 + byte))
        disk.die_at(step, byte)
        promised, begun = play(disk, "always", STORY)
        if end == "kill":
            disk.crash()
        else:
            disk.power_cut()
        where = f"{end} in step {step} after {byte} bytes"
        state = check(disk, "always", promised, begun, where)
        # What was read back is durable, and a second life goes on from there.
        disk.power_cut()
        assert read_back(disk, "always") == state, where


@pytest.mark.parametrize("seed", range(8))
def test_the_second_life_dies_too(seed: int) -> None:
    """Die, come back, write on, die again: the log goes on from what was read."""
    rng = random.Random(seed)
    for _ in range(20):
        disk = SimDisk(rng)
        twin: list[tuple[bytes, int, int]] = []
        promised = 0
        for life in range(1, 6):
            disk.die_at(rng.randrange(2, 25), rng.randrange(60))
            history = [list(twin)]
            promised = 0
            try:
                journal = opened(disk, "always")
                assert journal[:] == twin
                for _ in range(30):
                    last = twin[-1][1] if twin else 0
                    if twin and rng.random() < 0.15:
                        position = rng.randrange(len(twin))
                        del twin[position:]
                        history.append(list(twin))
                        journal.deleteEntriesFrom(position)
                    elif len(twin) > 3 and rng.random() < 0.15:
                        position = rng.randrange(1, len(twin))
                        del twin[:position]
                        history.append(list(twin))
                        journal.deleteEntriesTo(position)
                    else:
                        entry = (rng.randbytes(rng.randrange(50)), last + 1, life)
                        twin.append(entry)
                        history.append(list(twin))
                        journal.add(*entry)
                    if rng.random() < 0.3:
                        journal.flush()
                        promised = len(history) - 1
            except Died:
                pass
            disk.crash() if rng.random() < 0.5 else disk.power_cut()
            survivor = opened(disk, "always")
            twin = survivor[:]
            assert twin in history[promised:]
            survivor._destroy()


def test_power_cuts_during_group_syncs() -> None:
    """The asynchronous path: whatever `on_synced` had said is there after a power cut or a kill at
    any moment.
    """
    for seed in range(150):
        promised, disk, written = run(partial(_group_syncs, seed))
        journal = Journal(
            disk=disk, cluster="c", member="n1", fsync="always", segment_bytes_max=SEGMENT_BYTES
        )
        entries = journal[:]
        assert journal[:] == written[: len(entries)]
        assert len(entries) >= promised
        journal._destroy()


async def _group_syncs(seed: int) -> tuple[int, SimDisk, list[tuple[bytes, int, int]]]:
    rng = random.Random(seed)
    disk = SimDisk(rng)
    journal = Journal(
        disk=disk, cluster="c", member="n1", fsync="always", segment_bytes_max=SEGMENT_BYTES
    )
    promised: list[int] = [0]
    journal.on_synced = promised.append
    written: list[tuple[bytes, int, int]] = []
    for index in range(1, rng.randrange(2, 40)):
        written.append((rng.randbytes(rng.randrange(80)), index, 1))
        journal.add(*written[-1])
        journal.maybe_sync()
        if rng.random() < 0.5:
            await asyncio.sleep(rng.uniform(0, 0.004))
    assert promised == sorted(promised)
    disk.crash() if seed % 2 else disk.power_cut()
    await asyncio.sleep(0.1)
    return promised[-1], disk, written
