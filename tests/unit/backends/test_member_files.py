"""A member's whole files: interrupted at every call to the system, the old or the new one is
there.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

from backends.replicated import copies, files, opening, schema, writer
from backends.replicated.store import SqliteMemberStore
from kv.errors import BackendUnavailable
from kv.ports import LocalRetention, MemberStore, StateCopy
from tests.contract.groups import T, put
from tests.contract.history import History, everything, made_by, settle, story

CALLS = ("rename", "unlink", "fsync")
REPLACING = 10
"""The number of such calls in which a file is replaced."""


class PowerCut(BaseException):
    """The end of the process."""


class Interruptions:
    """Let the system's calls on files end the process at the n-th one."""

    def __init__(self, patch: pytest.MonkeyPatch, nth: int) -> None:
        self.left = nth
        for name in CALLS:
            patch.setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            if self.left == 0:
                raise PowerCut
            self.left -= 1
            return call(*arguments)

        return counted


def _built(path: str) -> None:
    """Put a whole new file beside a store's."""
    schema.create(files.incoming(path))


@pytest.mark.parametrize("nth", range(REPLACING + 1))
async def test_a_file_is_replaced_by_the_new_one_or_stays(
    nth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "store.sqlite")
    async with SqliteMemberStore(path) as store:
        settle(store, *story().steps)
    # as if a checkpoint had not been possible
    Path(f"{path}-wal").write_bytes(b"log of the old file")
    _built(path)
    with monkeypatch.context() as patch:
        Interruptions(patch, nth)
        try:
            files.put_in_place(path)
            done = True
        except PowerCut:
            done = False
    assert done == (nth >= REPLACING)
    async with SqliteMemberStore(path) as again:
        new = again.condition == "empty"
        assert new or not done
        if not new:
            assert await everything(again) == await made_by(story().steps)
    left = {each.name for each in tmp_path.iterdir()}
    assert left <= {"store.sqlite", "store.sqlite.lock"}


async def test_the_new_file_counts_from_the_first_rename_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "store.sqlite")
    found = []
    for nth in range(REPLACING + 1):
        async with SqliteMemberStore(path) as store:
            if store.condition == "empty":
                settle(store, *story().steps)
        _built(path)
        with (
            monkeypatch.context() as patch,
            pytest.raises(PowerCut) if nth < REPLACING else nullcontext(),
        ):
            Interruptions(patch, nth)
            files.put_in_place(path)
        async with SqliteMemberStore(path) as again:
            found.append(again.condition)
    assert found[0] == found[1] == "sound"
    assert set(found[2:]) == {"empty"}


@pytest.mark.parametrize("nth", range(4))
async def test_a_file_that_is_put_aside_is_there_or_gone(
    nth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "store.sqlite")
    async with SqliteMemberStore(path) as store:
        settle(store, *story().steps)
    Path(f"{path}-wal").write_bytes(b"log of the old file")
    with monkeypatch.context() as patch:
        Interruptions(patch, nth)
        with suppress(PowerCut):
            files.put_aside(path)
    async with SqliteMemberStore(path) as again:
        if again.condition == "empty":
            assert (tmp_path / "store.sqlite.aside-1").exists()
        else:
            assert await everything(again) == await made_by(story().steps)


def test_two_files_that_were_put_aside_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    for n in range(5):
        path.write_bytes(b"%d" % n)
        files.put_aside(str(path))
    kept = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    assert kept == {"store.sqlite.aside-4": b"3", "store.sqlite.aside-5": b"4"}


async def test_a_log_without_its_file_is_never_taken_for_the_next_ones(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    async with SqliteMemberStore(str(path)) as store:
        settle(store, *story().steps)
        await store.make_durable(store.note.index)
        log = Path(f"{path}-wal").read_bytes()
    path.unlink()
    Path(f"{path}-wal").write_bytes(log)
    async with SqliteMemberStore(str(path)) as store:
        assert store.condition == "empty"


async def test_what_a_killed_process_was_building_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    for name in ("store.sqlite.new", "store.sqlite.new-wal", "store.sqlite.copy-x1"):
        (tmp_path / name).write_bytes(b"half")
    async with SqliteMemberStore(str(path)):
        pass
    assert {each.name for each in tmp_path.iterdir()} == {"store.sqlite", "store.sqlite.lock"}


async def test_a_copy_leaves_nothing_behind(tmp_path: Path) -> None:
    async with SqliteMemberStore(str(tmp_path / "store.sqlite")) as store:
        settle(store, *story().steps)
        state = await store.copy()
        assert not [each for each in tmp_path.iterdir() if "copy" in each.name]
        assert state.read_now(0, 15) == b"SQLite format 3"
        state.close()
        with pytest.raises(OSError, match="closed"):
            state.read_now(0, 15)


@pytest.mark.parametrize("size", ["small", "large"])
async def test_after_an_unclean_stop_the_newest_rows_are_checked(
    size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the file is too large to be checked as a whole."""
    path = tmp_path / "store.sqlite"
    if size == "large":
        monkeypatch.setattr(opening, "CHECKED_UNCLEAN_BYTES_MAX", 0)
    history = History()
    async with SqliteMemberStore(str(path)) as store:
        for n in range(20):
            history.submit(put(f"c{n}", b"k%d" % n, b"findable value %d." % n))
        settle(store, *history.steps[:10])
        await store.make_durable(10)
        settle(store, *history.steps[10:])
        await store.wait_written(20, timeout_s=T)
    for value, condition in ((b"findable value 15.", "damaged"), (b"findable value 5.", "sound")):
        # the whole log is in the file, but for a transaction that says so
        connection = schema.connect(str(path), cache_kib=100)
        connection.execute("UPDATE state SET durable = 9")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("UPDATE state SET durable = 10")
        content, rest = path.read_bytes(), Path(f"{path}-wal").read_bytes()
        connection.close()
        assert content.count(value) == 1 and rest
        path.write_bytes(content.replace(value, value[::-1]))
        Path(f"{path}-wal").write_bytes(rest)
        for _ in range(2):
            async with SqliteMemberStore(str(path)) as store:
                assert store.condition == condition, store.damage
        path.write_bytes(content)


async def test_a_large_file_that_was_closed_is_not_read_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "store.sqlite")
    checked: list[object] = []
    monkeypatch.setattr(schema, "check_pages", checked.append)
    async with SqliteMemberStore(path) as store:
        settle(store, *story().steps)
    async with SqliteMemberStore(path):
        pass
    assert len(checked) == 2
    monkeypatch.setattr(opening, "CHECKED_BYTES_MAX", 0)
    async with SqliteMemberStore(path) as again:
        assert len(checked) == 2 and again.condition == "sound"


async def test_a_file_that_turns_out_damaged_is_not_used_any_more(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    history = History(leases=1)  # the keys of leases are read when it is opened
    for n in range(400):
        history.submit(put(f"c{n}", b"k%03d" % n, b"x" * 3000))
    async with SqliteMemberStore(str(path)) as store:
        settle(store, *history.steps)
    content = bytearray(path.read_bytes())
    for page in range(40, len(content) // 4096):
        content[page * 4096 : page * 4096 + 8] = b"\xff" * 8
    path.write_bytes(content)
    opening_check = opening.CHECKED_BYTES_MAX
    opening.CHECKED_BYTES_MAX = 0  # type: ignore[misc]
    try:
        async with SqliteMemberStore(str(path)) as store:
            assert not store.damage
            await _meets_damage(store)
            assert store.condition == "damaged" and store.damage
            with pytest.raises(Exception, match="damaged"):
                store.settle(history.submit(put("more", b"k", b"1")))
            await store.set_aside("damaged")
            assert not store.damage
    finally:
        opening.CHECKED_BYTES_MAX = opening_check  # type: ignore[misc]


async def _meets_damage(store: MemberStore) -> None:
    for n in range(400):
        try:
            store.facts([f"c{n}"], [b"k%03d" % n], [], recorded_since_ms=0)
        except Exception:  # noqa: BLE001 - the test is about what follows
            return
    pytest.fail("nothing was found")


@pytest.mark.parametrize("suffix", ["", "-wal"])
async def test_a_file_that_is_removed_while_it_is_open_is_not_written_any_more(
    suffix: str, tmp_path: Path
) -> None:
    """What is written to a file without a name is lost, and the log would be cut all the same."""
    path = tmp_path / "store.sqlite"
    async with SqliteMemberStore(str(path)) as store:
        settle(store, *story().steps[:3])
        await store.make_durable(story().steps[2].note.index)
        Path(f"{path}{suffix}").unlink()
        settle(store, *story().steps[3:])
        with pytest.raises(BackendUnavailable):
            await store.make_durable(story().steps[-1].note.index)
        assert store.condition == "damaged" and "gone" in store.damage
        await store.set_aside("removed")
        settle(store, *story().steps)
        await store.make_durable(story().steps[-1].note.index)
    async with SqliteMemberStore(str(path)) as again:
        assert await everything(again) == await made_by(story().steps)


async def test_a_log_index_is_made_durable_again_after_it_was_cut_off(tmp_path: Path) -> None:
    """A transaction that changes nothing is not synced, whatever the pragma says."""
    path = tmp_path / "store.sqlite"
    history = History()
    for n in range(6):
        history.submit(put(f"c{n}", b"k%d" % n, b"1"))
    async with SqliteMemberStore(str(path)) as store:
        settle(store, *history.steps)
        await store.make_durable(6)
        store.cut_back(4)
        settle(store, *history.steps[4:])
        await store.wait_written(6, timeout_s=T)
        before = Path(f"{path}-wal").read_bytes()
        await store.make_durable(6)
        assert Path(f"{path}-wal").read_bytes() != before


async def test_a_file_that_cannot_be_opened_again_is_no_empty_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.sqlite"
    async with SqliteMemberStore(str(path)) as store:
        settle(store, *story().steps)
        state = await store.copy()
        with monkeypatch.context() as patch:
            patch.setattr(schema, "connect", _refuses)
            with pytest.raises(BackendUnavailable):
                await store.set_aside("differs")
            assert store.condition == "damaged"
            with pytest.raises(BackendUnavailable):
                await store.install(state)
            assert store.condition == "damaged"
        await store.install(state)
        assert await everything(store) == await made_by(story().steps)


def _refuses(*_: object, **__: object) -> None:
    raise sqlite3.OperationalError("unable to open database file")


async def test_large_values_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    history = History()
    for n in range(40):
        history.submit(put(f"c{n}", b"k%02d" % n, bytes(1024 * 1024)))
    async with SqliteMemberStore(str(tmp_path / "store.sqlite")) as store:
        settle(store, *history.steps)
        await store.make_durable(40)
        listed: list[bytes] = []
        more = True
        while more:
            after = listed[-1] if listed else b""
            page = await store.list(b"", after=after, limit=100, timeout_s=T)
            assert 0 < len(page.versions) <= 17
            listed += [version.key for version in page.versions]
            more = page.more
        assert listed == [b"k%02d" % n for n in range(40)]
        reached = checked = 0
        more = True
        while more:
            step = await store.scrub(reached, timeout_s=T)
            assert 0 < step.versions <= 10 and not step.damaged
            reached, checked, more = step.reached, checked + step.versions, step.more
        assert (reached, checked) == (40, 40)


async def test_a_closed_store_answers_nobody_for_ever(tmp_path: Path) -> None:
    store = SqliteMemberStore(str(tmp_path / "store.sqlite"))
    async with store:
        settle(store, *story().steps)
        file = store.file
    assert file is not None
    with pytest.raises(BackendUnavailable):
        await store.make_durable(0)
    with pytest.raises(BackendUnavailable):
        await file.writer.make_durable(0)
    with pytest.raises(BackendUnavailable):
        await file.prune(LocalRetention(0, 0, 0), T)


class SlowCopy:
    """A StateCopy that waits in the middle until it is let go."""

    def __init__(self, state: StateCopy) -> None:
        self._state = state
        self.reached, self.go = threading.Event(), threading.Event()

    @property
    def size(self) -> int:
        return self._state.size

    def read_now(self, offset: int, length: int) -> bytes:
        self.reached.set()
        assert self.go.wait(20)
        return self._state.read_now(offset, length)

    def close(self) -> None:
        self._state.close()


async def test_an_install_that_is_given_up_leaves_the_old_file_whole(tmp_path: Path) -> None:
    async with SqliteMemberStore(str(tmp_path / "store.sqlite")) as store:
        settle(store, *story().steps)
        slow = SlowCopy(await store.copy())
        install = asyncio.ensure_future(store.install(slow))
        await asyncio.to_thread(slow.reached.wait)
        install.cancel()
        asyncio.get_running_loop().call_soon(slow.go.set)
        with pytest.raises(asyncio.CancelledError):
            await install
        assert not list(tmp_path.glob("*.new*"))
        assert await everything(store) == await made_by(story().steps)
        await store.make_durable(store.note.index)


async def test_a_replacement_that_is_given_up_comes_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go = threading.Event(), threading.Event()
    real = files.put_aside

    def slow(path: str) -> str:
        reached.set()
        assert go.wait(20)
        return real(path)

    monkeypatch.setattr(files, "put_aside", slow)
    async with SqliteMemberStore(str(tmp_path / "store.sqlite")) as store:
        settle(store, *story().steps)
        replacing = asyncio.ensure_future(store.set_aside("differs"))
        await asyncio.to_thread(reached.wait)
        assert store.condition == "damaged"  # not empty: somebody might begin anew in it
        replacing.cancel()
        asyncio.get_running_loop().call_soon(go.set)
        with pytest.raises(asyncio.CancelledError):
            await replacing
        assert not store.damage
        settle(store, *story().steps)
        await store.make_durable(store.note.index)


async def test_a_disk_that_hangs_is_not_replaced_under_its_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread would close late, and delete the next file's write-ahead log."""
    monkeypatch.setattr(writer, "STOP_TIMEOUT_S", 0.05)
    path = tmp_path / "store.sqlite"
    async with SqliteMemberStore(str(path)) as store:
        settle(store, *story().steps)
        await store.make_durable(store.note.index)
        before = path.stat().st_ino
        assert store.file is not None
        go = threading.Event()
        store.file.thread.submit(lambda: go.wait(20), lambda *_: None)
        with pytest.raises(BackendUnavailable, match="does not end"):
            await store.set_aside("differs")
        assert path.stat().st_ino == before and store.condition == "damaged"
        go.set()
        monkeypatch.setattr(writer, "STOP_TIMEOUT_S", 10)
        await store.set_aside("differs")
        assert not store.damage and path.stat().st_ino != before


SLOW = """SELECT count(*) FROM (WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n
    WHERE i < 20000000) SELECT i FROM n)"""


class Checks:
    """What checks of pages do, as the test sees it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.running = 0
        self.began = threading.Event()
        check = copies.broken_pages

        def checked(*arguments: Any) -> tuple[str, ...]:
            self.running += 1
            self.began.set()
            try:
                return check(*arguments)
            finally:
                self.running -= 1

        patch.setattr(copies, "broken_pages", checked)


async def test_a_check_of_pages_ends_with_who_asked_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process waits for its threads when it ends, and this takes minutes for a large file."""
    monkeypatch.setattr(copies, "_NOT_DUE", SLOW)
    checks = Checks(monkeypatch)
    async with SqliteMemberStore(str(tmp_path / "store.sqlite")) as store:
        task = asyncio.create_task(store.broken_pages())
        await asyncio.to_thread(checks.began.wait, T)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert checks.running == 0


async def test_a_check_of_pages_tells_nothing_of_the_file_that_came_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member whose file was found damaged fetches another one, which must not be given up for
    what was found in the first one.
    """
    began, goes_on = threading.Event(), threading.Event()

    def found(*_: Any) -> tuple[str, ...]:
        began.set()
        assert goes_on.wait(T)
        return ("a page is broken",)

    monkeypatch.setattr(copies, "broken_pages", found)
    async with SqliteMemberStore(str(tmp_path / "store.sqlite")) as store:
        check = asyncio.create_task(store.broken_pages())
        await asyncio.to_thread(began.wait, T)
        await store.set_aside("damaged")
        goes_on.set()
        assert await check == ()
        assert await store.broken_pages() == ("a page is broken",)
