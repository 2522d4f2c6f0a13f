"""What a member's own file is after its process was killed, its log was cut, and its disk was
full.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

from backends.replicated.store import SqliteMemberStore
from kv.errors import BackendUnavailable
from kv.ports import Step
from tests.contract.groups import T, put
from tests.contract.history import History, damaged_rows, everything, made_by, settle, story
from tests.integration.member_store_process import endless

PROCESS = (sys.executable, "-m", "tests.integration.member_store_process")
KILLS = 12
CUTS = 60


async def is_prefix(store: SqliteMemberStore, at_least: int) -> list[Step]:
    """Check that a store holds what the first so many steps made; return them."""
    assert store.condition != "damaged", store.damage
    index = store.note.index
    assert index >= at_least
    steps = list(takewhile(lambda step: step.note.index <= index, endless()))
    assert not steps or steps[-1].note.index == index, "half a step"
    assert await everything(store) == await made_by(steps)
    assert await damaged_rows(store) == ()
    return steps


async def test_a_killed_process_leaves_a_prefix_with_all_that_was_written(tmp_path: Path) -> None:
    path = str(tmp_path / "store.sqlite")
    chance = random.Random(15)
    grown = []
    for _ in range(KILLS):
        process = await asyncio.create_subprocess_exec(
            *PROCESS, "write", path, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"sound\n"
        said = [await process.stdout.readline() for _ in range(chance.randint(1, 40))]
        process.kill()
        said += (await process.stdout.read()).splitlines()
        await process.wait()
        known = [int(line.split()[1]) for line in said if line.count(b" ") == 1]
        async with SqliteMemberStore(path) as store:
            steps = await is_prefix(store, max(known))
        grown.append(len(steps))
    assert grown == sorted(set(grown))


async def test_a_log_that_is_cut_anywhere_opens_at_a_whole_step(tmp_path: Path) -> None:
    """The prefix property of a power cut: what was not synced ends anywhere."""
    path = tmp_path / "store.sqlite"
    async with SqliteMemberStore(str(path)) as store:
        durable_bytes = durable = 0
        for n, step in enumerate(endless()):
            store.settle(step)
            if n % 3 == 0:
                await store.wait_written(step.note.index, timeout_s=T)
            if n == 60:
                await store.make_durable(step.note.index)
                durable = step.note.index
                durable_bytes = Path(f"{path}-wal").stat().st_size
            if n == 150:
                break
        await store.wait_written(store.note.index, timeout_s=T)
        file, log = path.read_bytes(), Path(f"{path}-wal").read_bytes()
        last = store.note.index
    assert 0 < durable_bytes < len(log)
    chance = random.Random(15)
    cuts = [
        durable_bytes,
        len(log),
        *(chance.randint(durable_bytes, len(log)) for _ in range(CUTS)),
    ]
    reached = set()
    for n, cut in enumerate(cuts):
        torn = tmp_path / f"{n}" / "store.sqlite"
        torn.parent.mkdir()
        torn.write_bytes(file)
        # what lies behind the cut may as well be there as something else
        rest = chance.randbytes(len(log) - cut) if n % 2 else b""
        Path(f"{torn}-wal").write_bytes(log[:cut] + rest)
        async with SqliteMemberStore(str(torn)) as again:
            steps = await is_prefix(again, durable)
            reached.add(again.note.index)
            behind = list(takewhile(lambda step: step.note.index <= last, endless()))
            settle(again, *behind[len(steps) :])
            assert again.note.index == last
        shutil.rmtree(torn.parent)
    assert durable in reached and last in reached and len(reached) > 10


@pytest.fixture
def small_disk() -> Iterator[Path]:
    place = tempfile.mkdtemp(prefix="acordo-test-")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a small file system: " + mounted.stderr.decode().strip())
    yield Path(place)
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("checked", [True, False], ids=["noticed before", "noticed by SQLite"])
async def test_a_full_disk_is_waited_out(
    small_disk: Path, checked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = History()
    path = str(small_disk / "store.sqlite")
    async with SqliteMemberStore(path) as store:
        if not checked:
            monkeypatch.setattr(store.file.thread, "check_room", lambda *_: None)  # type: ignore[union-attr]
        filling = small_disk / "filling"
        filling.write_bytes(bytes(6_000_000))
        for n in range(300):
            history.submit(put(f"c{n}", b"k%d" % n, random.randbytes(30_000)))
        settle(store, *history.steps)
        with pytest.raises(TimeoutError):
            await store.wait_written(history.note.index, timeout_s=1)
        assert "full" in store.trouble, store.trouble
        assert await everything(store) == await made_by(history.steps)
        with pytest.raises(BackendUnavailable):
            await store.make_durable(history.note.index)
        subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
        await store.wait_written(history.note.index, timeout_s=T)
        assert not store.trouble
        await store.make_durable(history.note.index)
    async with SqliteMemberStore(path) as again:
        assert await everything(again) == await made_by(history.steps)


async def test_a_file_on_a_full_disk_opens_and_is_read(small_disk: Path) -> None:
    history = History()
    for n in range(100):
        history.submit(put(f"c{n}", b"k%d" % n, random.randbytes(20_000)))
    path = small_disk / "store.sqlite"
    async with SqliteMemberStore(str(path)) as store:
        settle(store, *history.steps)
        await store.wait_written(history.note.index, timeout_s=T)
        kept = path.read_bytes(), Path(f"{path}-wal").read_bytes()
    path.write_bytes(kept[0])
    Path(f"{path}-wal").write_bytes(kept[1])
    free = shutil.disk_usage(small_disk).free
    filling = small_disk / "filling"
    # room for the index of the write-ahead log, and not for its pages
    filling.write_bytes(bytes(free - 100_000))
    async with SqliteMemberStore(str(path)) as again:
        assert again.condition == "sound", again.damage
        assert await everything(again) == await made_by(history.steps)
        with pytest.raises(BackendUnavailable):
            await again.make_durable(again.note.index)
        with pytest.raises(BackendUnavailable):
            await again.probe(timeout_s=T)
        filling.unlink()
        await again.make_durable(again.note.index)


async def test_two_processes_never_have_one_file(tmp_path: Path) -> None:
    path = str(tmp_path / "store.sqlite")
    async with SqliteMemberStore(path) as store:
        settle(store, *story().steps)
        process = await asyncio.create_subprocess_exec(
            *PROCESS, "write", path,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, told = await process.communicate()
        assert process.returncode and b"another process holds" in told
        assert await everything(store) == await made_by(story().steps)
