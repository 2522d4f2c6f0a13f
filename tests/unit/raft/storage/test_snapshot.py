"""Snapshots: verified on load, replaced whole or not at all, moved in chunks that cannot be
mixed up.
"""

from __future__ import annotations

import asyncio
import errno
import gzip
import pickle
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pysyncobj.serializer import Serializer  # type: ignore[import-untyped]  # used only to show what it does

from coordinator.raft.storage.real_disk import RealDisk
from coordinator.raft.storage.snapshot import SnapshotStore
from coordinator.raft.storage.snapshot_format import (
    FORMAT,
    NotASnapshotError,
    SnapshotHeader,
    decode,
    encode,
)
from coordinator.raft.storage.snapshot_stream import Chunk, Incoming, Outgoing
from kv.errors import BadRequest
from tests.simulation.disk import Died, SimDisk
from tests.virtual import run


def sim(seed: int = 1, **options: Any) -> SimDisk:
    return SimDisk(random.Random(seed), **options)


def store_on(disk: SimDisk | RealDisk, cluster: str = "c") -> SnapshotStore:
    return SnapshotStore(disk, cluster=cluster)


async def saved(disk: SimDisk, index: int, body: bytes) -> SnapshotStore:
    store = store_on(disk)
    store.load_now()
    await store.save(index, 3, b"members", lambda: body)
    return store


# ----------------------------------------------------------------------------------------- in place


@given(
    body=st.binary(max_size=5000),
    config=st.binary(max_size=300),
    index=st.integers(0, 2**62),
    term=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_what_was_saved_is_loaded(body: bytes, config: bytes, index: int, term: int) -> None:
    disk = sim()

    async def story() -> None:
        store = store_on(disk)
        assert store.load_now() is None
        assert store.newest is None
        header = await store.save(index, term, config, lambda: body)
        assert header == store.newest == SnapshotHeader("c", index, term, config, len(body))

    run(story)
    disk.power_cut()
    store = store_on(disk)
    found = store.load_now()
    assert found is not None
    assert found.body == body
    assert found.header == store.newest == SnapshotHeader("c", index, term, config, len(body))


def test_every_damaged_byte_is_noticed_and_the_file_kept() -> None:
    disk = sim()
    run(partial(saved, disk, 7, b"state" * 20))
    content = disk.load_now("snapshot")
    for offset in range(len(content)):
        damaged = content[:offset] + bytes([content[offset] ^ 1]) + content[offset + 1 :]
        disk.write_whole("snapshot", damaged)
        with pytest.raises(BadRequest, match="/sim/snapshot") as caught:
            store_on(disk).load_now()
        assert caught.value.code in ("snapshot_corrupt", "snapshot_newer")
        assert disk.load_now("snapshot") == damaged
    for length in range(len(content)):
        disk.write_whole("snapshot", content[:length])
        with pytest.raises(BadRequest, match="snapshot"):
            store_on(disk).load_now()


def test_snapshots_of_others_and_of_the_future_are_named() -> None:
    disk = sim()
    run(partial(saved, disk, 7, b"state"))
    with pytest.raises(BadRequest, match="belongs to cluster 'c'") as caught:
        store_on(disk, "other").load_now()
    assert caught.value.code == "snapshot_foreign"
    content = disk.load_now("snapshot")
    disk.write_whole("snapshot", content[:8] + (FORMAT + 1).to_bytes(2, "little") + content[10:])
    with pytest.raises(BadRequest, match=f"format {FORMAT + 1}") as caught:
        store_on(disk).load_now()
    assert caught.value.code == "snapshot_newer"


def test_death_at_every_step_leaves_the_old_or_the_new() -> None:
    """And the new one once `save` had returned: only then may the log go."""
    plan = sim()
    run(partial(saved, plan, 1, b"old" * 10))
    plan.steps = []
    run(partial(saved, plan, 2, b"new" * 20))
    outcomes = set()
    for end in ("crash", "power_cut"):
        for step in range(len(plan.steps) + 1):
            # Where nothing is written the seed alone decides what a power cut takes: try several.
            for byte in range(
                0, max(24, plan.steps[step].size + 1) if step < len(plan.steps) else 1, 3
            ):
                disk = sim(step * 1000 + byte)
                run(partial(saved, disk, 1, b"old" * 10))
                disk.die_at(step, byte)
                finished = False
                try:
                    run(partial(saved, disk, 2, b"new" * 20))
                    finished = True
                except Died:
                    pass
                getattr(disk, end)()
                found = store_on(disk).load_now()
                assert found is not None
                assert (found.header.index, found.body) in ((1, b"old" * 10), (2, b"new" * 20))
                if finished:
                    assert found.header.index == 2
                assert disk.names() == ["snapshot"], "no spare file is left"
                outcomes.add((end, finished, found.header.index))
    assert outcomes == {
        (e, f, i) for e in ("crash", "power_cut") for f, i in ((False, 1), (False, 2), (True, 2))
    }


def test_a_full_disk_leaves_the_old_one() -> None:
    async def story() -> None:
        disk = sim()
        store = await saved(disk, 1, b"old")
        disk.capacity_bytes = 300
        with pytest.raises(OSError, match="No space left"):
            await store.save(2, 3, b"", lambda: b"n" * 1000)
        assert disk.names() == ["snapshot"]
        assert store.newest is not None
        assert store.newest.index == 1
        disk.capacity_bytes = None
        await store.save(2, 3, b"", lambda: b"n" * 1000)
        found = store_on(disk).load_now()
        assert found is not None
        assert found.header.index == 2

    run(story)


def test_one_that_is_too_large_is_not_saved() -> None:
    async def story() -> None:
        store = SnapshotStore(sim(), cluster="c", bytes_max=1000)
        with pytest.raises(OSError, match="at most 1000") as caught:
            await store.save(1, 1, b"", lambda: b"x" * 1000)
        assert caught.value.errno == errno.EFBIG
        assert store.newest is None

    run(story)


def test_a_save_that_was_overtaken_does_not_replace_what_came_in() -> None:
    async def story() -> None:
        source, disk = await saved(sim(), 9, b"newest"), sim(2)
        store = await saved(disk, 1, b"old")
        incoming = await received(source.outgoing(), store)
        saving = asyncio.ensure_future(store.save(2, 3, b"", lambda: b"stale" * 50))
        await asyncio.sleep(0)
        await incoming.install()
        with pytest.raises(OSError, match="another snapshot took its place"):
            await saving
        found = store_on(disk).load_now()
        assert found is not None
        assert found.body == b"newest"
        store.discard_now()
        assert store.newest is None
        assert store_on(disk).load_now() is None
        with pytest.raises(FileNotFoundError):
            store.outgoing()

    run(story)


# ----------------------------------------------------------------------------------------- transfer


async def received(outgoing: Outgoing, store: SnapshotStore, length: int = 7) -> Incoming:
    incoming = store.incoming()
    offset = 0
    while offset < outgoing.total:
        offset = incoming.accept(outgoing.chunk(offset, length))
    await incoming.finish()
    return incoming


def test_a_snapshot_moves_in_chunks() -> None:
    async def story() -> None:
        source, disk = await saved(sim(), 9, b"state" * 100), sim(2)
        store = await saved(disk, 1, b"old")
        outgoing = source.outgoing()
        assert (outgoing.header.index, outgoing.header.config) == (9, b"members")
        incoming = await received(outgoing, store)
        before = store_on(disk)
        assert disk.load_now("snapshot") != disk.load_now("snapshot.part"), (
            "verified, but not yet in place"
        )
        await incoming.install()
        outgoing.close()
        disk.power_cut()
        found = before.load_now()
        assert found is not None
        assert (found.header.index, found.body) == (9, b"state" * 100)

    run(story)


def test_a_newer_snapshot_does_not_disturb_a_transfer() -> None:
    async def story() -> None:
        source = await saved(sim(), 9, b"first" * 100)
        store = store_on(sim(2))
        outgoing = source.outgoing()
        incoming = store.incoming()
        offset = incoming.accept(outgoing.chunk(0, 50))
        await source.save(10, 3, b"", lambda: b"second" * 100)
        while offset < outgoing.total:
            offset = incoming.accept(outgoing.chunk(offset, 50))
        assert (await incoming.finish()).body == b"first" * 100

    run(story)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_the_network_does_to_chunks_only_the_snapshot_comes_out(
    data: st.DataObject,
) -> None:
    """Chunks lost, repeated, reordered, mixed with another snapshot's, and interruptions: the end
    is the snapshot, whole.
    """

    async def story() -> None:
        source, other = await saved(sim(), 9, b"right" * 20), await saved(sim(2), 8, b"wrong" * 20)
        disk = sim(3)
        store = store_on(disk)
        incoming, outgoing, stray = store.incoming(), source.outgoing(), other.outgoing()
        offsets = st.integers(0, outgoing.total - 1)
        for what, at in data.draw(
            st.lists(st.tuples(st.sampled_from("owsr"), offsets), max_size=30)
        ):
            match what:
                case "o":
                    wanted = incoming.accept(outgoing.chunk(at, 30))
                case "w":
                    wanted = incoming.accept(
                        outgoing.chunk(incoming.accept(outgoing.chunk(0, 30)), 30)
                    )
                case "s":
                    wanted = incoming.accept(stray.chunk(at, 30))
                case _:
                    incoming.reset()
                    wanted = 0
            assert 0 <= wanted <= outgoing.total
        offset = incoming.accept(outgoing.chunk(0, 30))
        while offset < outgoing.total:
            offset = incoming.accept(outgoing.chunk(offset, 30))
        assert (await incoming.finish()).body == b"right" * 20

    run(story)


def test_what_arrived_wrong_is_refused_and_starts_clean() -> None:
    async def story() -> None:
        source, disk = await saved(sim(), 9, b"state" * 100), sim(2)
        store = await saved(disk, 1, b"old")
        outgoing = source.outgoing()
        incoming = store.incoming()
        whole = outgoing.chunk(0, outgoing.total)
        flipped = whole.content[:200] + bytes([whole.content[200] ^ 1]) + whole.content[201:]
        foreign = encode(SnapshotHeader("other", 9, 3, b"", 3), b"abc")
        for content, id in (
            (flipped, whole.id),
            (whole.content, b"\0" * 32),
            (foreign, foreign[-32:]),
        ):
            assert incoming.accept(Chunk(id, 0, len(content), content)) == len(content)
            with pytest.raises(ValueError, match=r"digest|announced|of cluster"):
                await incoming.finish()
            with pytest.raises(ValueError, match="only a finished"):
                await incoming.install()
            assert not disk.exists("snapshot.part")
        with pytest.raises(ValueError, match="have arrived"):
            await incoming.finish()
        found = store_on(disk).load_now()
        assert found is not None
        assert found.body == b"old"

    run(story)


def test_a_chunk_that_cannot_be_is_not_taken() -> None:
    store = SnapshotStore(sim(), cluster="c", bytes_max=1000)
    incoming = store.incoming()
    id = b"i" * 32
    for bad in (
        Chunk(id, 0, 2000, b"x"),
        Chunk(id, 990, 1000, b"x" * 20),
        Chunk(id, -1, 1000, b"x"),
        Chunk(b"short", 0, 1000, b"x"),
        Chunk(id, 500, 1000, b""),
    ):
        assert incoming.accept(bad) == 0
    assert incoming.accept(Chunk(id, 0, 1000, b"x" * 600)) == 600
    assert incoming.accept(Chunk(id, 0, 1000, b"y" * 600)) == 600, (
        "a repeated chunk changes nothing"
    )
    assert incoming.accept(Chunk(id, 700, 1000, b"z")) == 600, "one after a gap neither"


def test_a_receiver_without_room_starts_again() -> None:
    async def story() -> None:
        source, disk = await saved(sim(), 9, b"state" * 100), sim(2, capacity_bytes=100)
        incoming, outgoing = store_on(disk).incoming(), source.outgoing()
        assert incoming.accept(outgoing.chunk(0, 80)) == 80
        assert incoming.accept(outgoing.chunk(80, 80)) == 0
        assert not disk.exists("snapshot.part")
        disk.capacity_bytes = None
        offset = 0
        while offset < outgoing.total:
            offset = incoming.accept(outgoing.chunk(offset, 80))
        assert (await incoming.finish()).header.index == 9

    run(story)


async def test_on_a_real_disk(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    store = store_on(disk)
    body = random.Random(1).randbytes(3 << 20)
    await store.save(5, 2, b"members", lambda: body)
    other = RealDisk(tmp_path / "other")
    target = store_on(other)
    incoming = await received(store.outgoing(), target, 1 << 18)
    await incoming.install()
    found = store_on(other).load_now()
    assert found is not None
    assert found.body == body
    disk.close()
    other.close()


# --------------------------------------------------------------------------------- beside the stock


def test_regression_a_lost_chunk(tmp_path: Path) -> None:
    """HAZ-11: the stock receiver joins what it gets, calls it complete, and has overwritten
    its good dump.
    """
    good = tmp_path / "good"
    with gzip.open(good, "wb") as file:
        pickle.dump("good" * 1000, file)
    wide = random.Random(1).randbytes(5000)
    source = tmp_path / "source"
    with gzip.open(source, "wb") as file:
        pickle.dump(wide, file)
    sender = Serializer(str(source), 1000, False, None, None, None)
    receiver = Serializer(str(good), 1000, False, None, None, None)
    complete = False
    for number in range(20):
        chunk = sender.getTransmissionData("peer")
        if number != 2:  # lost with its connection
            complete = receiver.setTransmissionData(chunk)
        if chunk[2]:
            break
    assert complete, "the stock receiver reports success"
    with pytest.raises(Exception, match=r".+"):
        receiver.deserialize()

    async def ours() -> None:
        outgoing = (await saved(sim(), 9, wide)).outgoing()
        disk = sim(2)
        store = await saved(disk, 1, b"good")
        incoming = store.incoming()
        chunks = [outgoing.chunk(offset, 1000) for offset in range(0, outgoing.total, 1000)]
        wanted = [incoming.accept(chunk) for number, chunk in enumerate(chunks) if number != 2]
        assert wanted[-1] == 2000, "it says what it lacks"
        with pytest.raises(ValueError, match=f"2000 of {outgoing.total} bytes"):
            await incoming.finish()
        found = store_on(disk).load_now()
        assert found is not None
        assert found.body == b"good"

    run(ours)


def test_decode_never_raises_anything_else() -> None:
    rng = random.Random(1)
    content = encode(SnapshotHeader("c", 1, 1, b"", 3), b"abc")
    for _ in range(300):
        bad = bytearray(content)
        for _ in range(rng.randrange(1, 4)):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        try:
            assert decode(bytes(bad)).body == b"abc"
        except NotASnapshotError:
            continue


def test_a_save_under_way_does_not_outlive_that_its_machine_starts_again() -> None:
    """`load_now` is what a member whose applied log was overwritten begins again with."""

    async def story() -> None:
        store = store_on(sim())
        await store.save(3, 1, b"", lambda: b"kept")
        saving = asyncio.ensure_future(
            store.save(9, 1, b"", lambda: b"of a machine that is no more")
        )
        await asyncio.sleep(0)
        assert store.load_now() is not None
        with pytest.raises(OSError, match="another snapshot took its place"):
            await saving
        found = store.load_now()
        assert found is not None
        assert (found.header.index, found.body) == (3, b"kept")

    run(story)
