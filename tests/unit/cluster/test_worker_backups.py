"""A worker takes backups at an interval, verifies them, and removes what is superfluous: never the
last good one, and nothing that it did not write.
"""

from __future__ import annotations

import asyncio
import errno
import random
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from acordo import Client
from acordo.backups import Place, place_of, verify_stored
from cluster.workers import backups as module
from cluster.workers import kept_backups as kept
from cluster.workers.backups import TURN, Backups
from cluster.workers.kept_backups import BackupNote
from tests.unit.node.conftest import Api, opened

DAY_MS = 86_400_000


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with opened(kind="replicated") as api, Client(api.url) as one:
        await one.put("a", b"v" * 100_000)
        yield one


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    now = [1_800_000_000_000]
    monkeypatch.setattr(module, "_now_ms", lambda: now[0])
    return now


def taking(client: Client, place: Place, *, keep: int = 2, worker: str = "w") -> Backups:
    return Backups(client, place, worker, every_s=86_400, keep=keep, rng=random.Random(1))


def names(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


def metric(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


async def test_backups_are_taken_when_due_and_the_newest_are_kept(
    client: Client, clock: list[int], tmp_path: Path
) -> None:
    place = place_of(str(tmp_path))
    (tmp_path / "acordo-20200101T000000Z-00000000.backup").write_bytes(b"somebody else's")
    (tmp_path / "notes.json").write_text("{}")
    foreign = names(tmp_path)
    taken = taking(client, place)
    made: list[list[str]] = []
    for _ in range(4):
        assert await taken.look() == 86_400
        made.append([name for name in names(tmp_path) if name not in foreign])
        waits = await taken.look()
        assert 0 < waits <= 86_400 and made[-1] == [
            name for name in names(tmp_path) if name not in foreign
        ]
        clock[0] += DAY_MS
    assert [len(each) for each in made] == [2, 4, 4, 4]
    assert set(foreign) <= set(names(tmp_path)), "what it did not write was removed"
    newest = [name for name in made[-1] if name.endswith(".backup")][-1]
    assert (await verify_stored(place, newest)).keys == 2, "the key, and the turn"
    assert metric("acordo_backup_last_success_timestamp_seconds") == (clock[0] - DAY_MS) / 1000
    assert metric("acordo_backups_kept") == 2
    assert metric("acordo_backup_bytes") == (tmp_path / newest).stat().st_size
    assert await client.get(TURN) is None


async def test_after_a_clock_that_was_ahead_the_newest_are_still_those_made_last(
    client: Client, clock: list[int], tmp_path: Path
) -> None:
    taken = taking(client, place_of(str(tmp_path)))
    clock[0] += 400 * DAY_MS
    for _ in range(2):
        assert await taken.look() == 86_400
        clock[0] += DAY_MS
    clock[0] -= 402 * DAY_MS
    for days in (1, 2):
        await client.put("a", f"{days}")
        assert await taken.look() == 86_400, "those of the time to come say nothing"
        now = metric("acordo_backup_last_success_timestamp_seconds") * 1000
        assert now == clock[0], "what was taken last is gone"
        assert await taken.look() > 86_000, "one is due at each look"
        clock[0] += DAY_MS
    assert len(names(tmp_path)) == 4 and not [n for n in names(tmp_path) if "-2028" in n]


async def test_a_file_that_was_exchanged_is_left_and_said(
    client: Client, clock: list[int], tmp_path: Path
) -> None:
    taken = taking(client, place_of(str(tmp_path)), keep=1)
    await taken.look()
    (old,) = (path for path in tmp_path.iterdir() if path.suffix == ".backup")
    old.write_bytes(b"x" * old.stat().st_size)
    clock[0] += DAY_MS
    with capture_logs() as said:
        await taken.look()
    assert old.exists() and len(names(tmp_path)) == 4
    assert [each["file"] for each in said if each["log_level"] == "warning"] == [old.name]


async def test_while_another_worker_has_the_turn_none_is_taken(
    client: Client, clock: list[int], tmp_path: Path
) -> None:
    await client.put(TURN, "another")
    assert await taking(client, place_of(str(tmp_path))).look() == module.RETRY_S[0]
    assert names(tmp_path) == []
    await client.delete(TURN)
    place = place_of(str(tmp_path))
    both = [taking(client, place, worker=name) for name in ("w1", "w2")]
    await asyncio.gather(*(each.look() for each in both))
    assert len(names(tmp_path)) == 2


class Full:
    """A directory on a disk that is full after some bytes, or that keeps something else."""

    def __init__(self, path: Path) -> None:
        self.inner, self.left, self.alters = place_of(str(path)), 10**9, False
        self.read, self.stored, self.remove = (
            self.inner.read,
            self.inner.stored,
            self.inner.remove,
        )

    async def write(self, name: str, pieces: AsyncIterator[bytes]) -> None:
        async def some() -> AsyncIterator[bytes]:
            async for piece in pieces:
                self.left -= len(piece)
                if self.left < 0:
                    raise OSError(errno.ENOSPC, "No space left on device", name)
                yield piece.replace(b"v" * 50, b"w" * 50) if self.alters else piece

        await self.inner.write(name, some())


async def test_a_full_disk_leaves_what_is_there_and_is_counted(
    client: Client, clock: list[int], tmp_path: Path
) -> None:
    place = Full(tmp_path)
    taken = taking(client, place, keep=1)
    await taken.look()
    before = names(tmp_path)
    last = metric("acordo_backup_last_success_timestamp_seconds")
    clock[0] += DAY_MS
    place.left = 50_000
    with pytest.raises(OSError, match="No space left"):
        await taken.look()
    assert names(tmp_path) == before and await client.get(TURN) is None
    failed = REGISTRY.get_sample_value("acordo_backups_total", {"result": "failed"}) or 0.0
    with capture_logs() as said:
        running = asyncio.create_task(taken.run())
        async with asyncio.timeout(20):
            while not any(each["event"] == "no backup was taken" for each in said):
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait({running})
    assert "No space left" in said[-1]["reason"]
    counted = REGISTRY.get_sample_value("acordo_backups_total", {"result": "failed"})
    assert counted == failed + 1
    assert metric("acordo_backup_last_success_timestamp_seconds") == last


async def test_what_cannot_be_verified_is_no_backup_and_removes_none(
    client: Client, clock: list[int], tmp_path: Path
) -> None:
    place = Full(tmp_path)
    taken = taking(client, place, keep=1)
    await taken.look()
    before = names(tmp_path)
    clock[0] += DAY_MS
    place.alters = True
    with pytest.raises(Exception, match="not what was written"):
        await taken.look()
    assert names(tmp_path) == before, "each further attempt would leave one that is no backup"


async def test_backups_of_another_history_are_neither_counted_nor_removed(
    client: Client, clock: list[int], tmp_path: Path
) -> None:
    await taking(client, place_of(str(tmp_path)), keep=1).look()
    before = names(tmp_path)
    async with opened(kind="replicated") as api, Client(api.url) as restored:
        change_history(api)
        assert await taking(restored, place_of(str(tmp_path)), keep=1).look() == 86_400
    assert set(before) < set(names(tmp_path)) and len(names(tmp_path)) == 4


def change_history(api: Api) -> None:
    """Let a node say that it is of another history."""
    status = api.consensus.status
    api.consensus.status = lambda: msgspec.structs.replace(status(), history="ee" * 16)  # type: ignore[method-assign]


async def test_a_place_that_is_away_is_no_reason_to_end(client: Client, tmp_path: Path) -> None:
    taken = taking(client, place_of(str(tmp_path / "mount")))
    with pytest.raises(FileNotFoundError):
        await taken.look()
    (tmp_path / "mount").mkdir()
    assert await taken.look() == 86_400
    shutil.rmtree(tmp_path / "mount")


def note(made_ms: int, **more: object) -> BackupNote:
    fields: dict[str, object] = {
        "name": f"n{made_ms}", "size": 1, "digest": "", "revision": 1, "made_ms": made_ms,
        "cluster_id": "", "history": "h",
    }  # fmt: skip
    return BackupNote(**(fields | more))  # type: ignore[arg-type]


def test_the_newest_good_one_always_stays() -> None:
    found = [note(3), note(2), note(1)]
    assert kept.superfluous(found, 0) == found[1:]
    assert kept.superfluous(found[:1], 1) == []
    sizes = {"n1": 1, "n2": 2}
    assert kept.good([note(1), note(2), note(3), note(1, history="x")], sizes, "h") == [note(1)]


@pytest.mark.parametrize(
    ("now_ms", "due_s"), [(5_000, 60.0), (65_000, 0.0), (4_000, 0.0), (64_999, 0.001)]
)
def test_one_is_due_after_the_interval_and_when_the_clock_was_set_back(
    now_ms: int, due_s: float
) -> None:
    assert kept.due_in_s([note(5_000)], now_ms, 60) == pytest.approx(due_s)


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b'{"name":"../../etc/passwd","size":1,"digest":"","revision":1}', b"\xff"]
)
def test_what_is_no_note_is_left_alone(raw: bytes) -> None:
    assert kept.note_of(raw, "acordo-20200101T000000Z-00000000.backup.json") is None
