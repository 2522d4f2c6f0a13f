"""Be a disk with a page cache, delays, errors and sudden ends, all of it decided by a seed.

It passes the same suite as `RealDisk`. It promises no more than POSIX does: names need a directory
sync, bytes a file sync, and nothing says in which order unsynced things reach the platter. A call
that blocks takes its time too: it holds up the simulated process that makes it, if one does.
"""

from __future__ import annotations

import asyncio
import errno
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

from coordinator.raft.storage.disk import SyncError
from tests.simulation.loop import OWNER

T = TypeVar("T")


class Died(BaseException):
    """The process ended inside a disk operation (see `SimDisk.die_at`)."""


class Step(NamedTuple):
    """One primitive operation, for tests that end the process at each of them."""

    operation: str
    name: str
    size: int
    """Bytes that it writes: it may be torn after any of them."""


class _Inode:
    """What is cached, what is on the platter, and what was done between the two."""

    def __init__(self) -> None:
        self.cached = bytearray()
        self.durable = b""
        self.unsynced: list[bytes | int] = []
        """Appended bytes and truncation lengths, in order."""
        self.poisoned = False
        """A sync failed: the kernel calls the pages clean, the platter does not have them."""

    def append(self, content: bytes) -> None:
        self.cached += content
        self.unsynced.append(content)

    def truncate(self, size: int) -> None:
        del self.cached[size:]
        self.unsynced.append(size)

    def sync(self) -> None:
        if not self.poisoned:
            self.durable, self.unsynced = bytes(self.cached), []

    def reread(self) -> None:
        """Read from the platter what the kernel had called clean."""
        if self.poisoned:
            self.cached, self.unsynced, self.poisoned = bytearray(self.durable), [], False

    def lose_power(self, rng: random.Random) -> None:
        """Keep any number of the unsynced steps, the last one torn at any byte."""
        kept = 0 if self.poisoned else rng.randint(0, len(self.unsynced))
        content = bytearray(self.durable)
        for position, step in enumerate(self.unsynced[: kept + 1]):
            if isinstance(step, int):
                if position < kept:
                    del content[step:]
            else:
                content += step if position < kept else step[: rng.randint(0, len(step))]
        self.cached, self.durable, self.unsynced, self.poisoned = content, bytes(content), [], False


class _Call(NamedTuple):
    """One asynchronous call."""

    delay_s: float
    apply: Callable[[], Any]
    tear: Callable[[], None]
    """Do half of it: the process ended."""
    done: asyncio.Future[Any]


class _Lane:
    """Calls that take effect one after another, as on one worker thread."""

    def __init__(self) -> None:
        self._calls: deque[_Call] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, delay_s: float, apply: Callable[[], T], tear: Callable[[], None]) -> T:
        return await self.submit(delay_s, apply, tear)

    def submit(
        self, delay_s: float, apply: Callable[[], T], tear: Callable[[], None]
    ) -> asyncio.Future[T]:
        call = _Call(delay_s, apply, tear, asyncio.get_running_loop().create_future())
        self._calls.append(call)
        self._maybe_start()
        return asyncio.shield(call.done)

    def drain(self) -> None:
        """Let all calls take effect now: a synchronous one comes behind them, and waits for
        them.
        """
        if self._timer is not None:
            left_s = max(0.0, self._timer.when() - asyncio.get_running_loop().time())
            block(left_s + sum(call.delay_s for call in list(self._calls)[1:]))
            self._timer.cancel()
        while self._calls:
            self._finish()

    def kill(self) -> None:
        """End the first call half-way, the others before they begin."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for position, call in enumerate(self._calls):
            if position == 0:
                call.tear()
            call.done.cancel()
        self._calls.clear()

    def _maybe_start(self) -> None:
        if self._timer is None and self._calls:
            self._timer = asyncio.get_running_loop().call_later(
                self._calls[0].delay_s, self._on_time
            )

    def _on_time(self) -> None:
        self._timer = None
        self._finish()
        self._maybe_start()

    def _finish(self) -> None:
        call = self._calls.popleft()
        self._timer = None
        try:
            result = call.apply()
        except BaseException as exc:  # noqa: BLE001  it belongs to whoever awaits the call
            if not call.done.done():
                call.done.set_exception(exc)
                call.done.exception()
        else:
            if not call.done.done():
                call.done.set_result(result)


class SimFile:
    """See `coordinator.raft.storage.disk.File`."""

    def __init__(self, disk: SimDisk, name: str, inode: _Inode) -> None:
        self._disk, self._name, self._inode = disk, name, inode
        self._life = disk.life
        self._lane = _Lane()
        self._closed = self._sync_failed = False
        disk.lanes.append(self._lane)

    @property
    def name(self) -> str:
        return self._name

    @property
    def size(self) -> int:
        return len(self._inode.cached)

    def read_now(self, offset: int, length: int) -> bytes:
        self._check()
        return bytes(self._inode.cached[offset : offset + length])

    def append_now(self, content: bytes) -> None:
        self._check()
        self._lane.drain()
        self._disk.block(sync=False)
        self._append(bytes(content))

    def truncate_now(self, size: int) -> None:
        self._check()
        self._lane.drain()
        self._disk.step("truncate", self._name)
        self._inode.truncate(size)

    def sync_now(self) -> None:
        self._check()
        self._lane.drain()
        self._disk.block(sync=True)
        self._sync()

    def append(self, content: bytes | memoryview, *, sync: bool) -> Awaitable[None]:
        self._check()
        kept = bytes(content)

        def apply() -> None:
            self._append(kept)
            if sync:
                self._sync()

        def tear() -> None:
            self._inode.append(kept[: self._disk.rng.randint(0, len(kept))])

        return self._lane.submit(self._disk.delay_s(sync), apply, tear)

    async def sync(self) -> None:
        self._check()
        await self._lane.run(self._disk.delay_s(True), self._sync, _nothing)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            if self._life == self._disk.life:
                self._lane.drain()
            if self._lane in self._disk.lanes:
                self._disk.lanes.remove(self._lane)

    def _check(self) -> None:
        if self._closed or self._life != self._disk.life:
            raise OSError(errno.EBADF, "the file was closed, or its process has died", self._name)

    def _append(self, content: bytes) -> None:
        room = self._disk.room_bytes()
        self._disk.step("append", self._name, content[:room], self._inode.append)
        if len(content) > room:
            raise OSError(errno.ENOSPC, "No space left on device", self._name)

    def _sync(self) -> None:
        self._disk.step("sync", self._name)
        if self._disk.sync_fails or self._sync_failed:
            self._inode.poisoned = self._sync_failed = True
            raise SyncError(errno.EIO, "Input/output error", self._name)
        self._inode.sync()


class SimDisk:
    """One machine's disk (see `coordinator.raft.storage.disk.Disk`): it outlives the processes that
    use it.

    `crash()` and `power_cut()` end the process: files opened before raise, calls under way are
    cancelled half-done, and the same object is given to the next process. `die_at(n, byte)` ends it
    inside the n-th primitive step from now.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        directory: str = "/sim",
        write_s: tuple[float, float] = (0.00002, 0.0002),
        sync_s: tuple[float, float] = (0.0003, 0.003),
        slow_share: float = 0.01,
        slow_s: float = 0.05,
        capacity_bytes: int | None = None,
    ) -> None:
        self.rng, self._directory = rng, directory
        self._write_s, self._sync_s = write_s, sync_s
        self._slow_share, self._slow_s = slow_share, slow_s
        self.capacity_bytes = capacity_bytes
        """Appending beyond it raises ENOSPC after what fits; None: endless."""
        self.slow_s = 0.0
        """Every sync of a file takes so much longer."""
        self.descriptors_out = False
        """Every create raises EMFILE."""
        self.sync_fails = False
        """Every sync of a file raises EIO, and what it was to make durable never is."""
        self.steps: list[Step] | None = None
        """Set to a list to record every primitive step."""
        self.counts: dict[str, int] = {"crash": 0, "power_cut": 0, "replaced": 0}
        self.life = 0
        self.lanes: list[_Lane] = []
        self._names: dict[str, _Inode] = {}
        self._durable_names: dict[str, _Inode] = {}
        self._unsynced_names: list[tuple[str | None, str | None, _Inode | None]] = []
        """(name that goes, name that comes, inode) since the last directory sync."""
        self._directory_lane, self._work_lane = _Lane(), _Lane()
        self._left: int | None = None
        self._tear_byte = 0

    # ------------------------------------------------------------------------------------- the port

    @property
    def directory(self) -> str:
        return self._directory

    def names(self) -> list[str]:
        return sorted(self._names)

    def exists(self, name: str) -> bool:
        return name in self._names

    def size(self, name: str) -> int:
        return len(self._found(name).cached)

    def load_now(self, name: str, *, sync: bool = True) -> bytes:
        inode = self._found(name)
        if sync:
            inode.reread()
            inode.sync()
        return bytes(inode.cached)

    def create(self, name: str) -> SimFile:
        self._check(name)
        if self.descriptors_out:
            raise OSError(errno.EMFILE, "Too many open files", name)
        self.step("create", name)
        if name in self._names:
            self._names[name].truncate(0)
        else:
            self._change(None, name, _Inode())
        return SimFile(self, name, self._names[name])

    def open(self, name: str) -> SimFile:
        self._check(name)
        return SimFile(self, name, self._found(name))

    def rename_now(self, old: str, new: str) -> None:
        self._check(old)
        inode = self._found(old)
        self.step("rename", new)
        self._change(old, new, inode)

    def remove_now(self, name: str) -> None:
        self._check(name)
        self._found(name)
        self.step("remove", name)
        self._change(name, None, None)

    async def remove(self, name: str) -> None:
        self._check(name)
        await self._directory_lane.run(self.delay_s(False), lambda: self.remove_now(name), _nothing)

    def sync_directory_now(self) -> None:
        self._check("")
        self._directory_lane.drain()
        self.block(sync=True)
        self._sync_directory()

    async def sync_directory(self) -> None:
        self._check("")
        await self._directory_lane.run(self.delay_s(True), self._sync_directory, _nothing)

    async def compute(self, work: Callable[[], T]) -> T:
        return await self._work_lane.run(self.delay_s(False), work, _nothing)

    def close(self) -> None:
        self._directory_lane.drain()

    # ----------------------------------------------------------------------------- what tests order

    def crash(self) -> None:
        """Kill -9: what was written stays, what was being written is torn at some byte."""
        self._end("crash")

    def power_cut(self) -> None:
        """Lose what was not synced: any of it, files and names alike, each independently of the
        others.
        """
        self._end("power_cut")
        for name, inode in self._lost_names():
            self._names[name] = inode
        self._durable_names, self._unsynced_names = dict(self._names), []
        for name in sorted(self._names):
            self._names[name].lose_power(self.rng)

    def replace(self) -> None:
        """Put an empty one in its place, of a machine whose process has ended."""
        self._end("replaced")
        self._names, self._durable_names, self._unsynced_names = {}, {}, []

    def die_at(self, step: int, byte: int = 0) -> None:
        """Raise `Died` inside the step-th primitive step from now (0: the next), after `byte` bytes
        if it writes.
        """
        self._left, self._tear_byte = step, byte

    def damage(self, name: str, offset: int, mask: int = 0xFF) -> None:
        """Flip bits of one byte, on the platter."""
        inode = self._found(name)
        inode.cached[offset] ^= mask
        inode.durable, inode.unsynced = bytes(inode.cached), []

    def write_whole(self, name: str, content: bytes) -> None:
        """Put a file there, durably."""
        inode = _Inode()
        inode.cached, inode.durable = bytearray(content), content
        self._names[name] = self._durable_names[name] = inode

    # ----------------------------------------------------------------------- what SimFile also uses

    def delay_s(self, sync: bool) -> float:
        extra_s = self.slow_s if sync else 0.0
        if self.rng.random() < self._slow_share:
            return extra_s + self.rng.uniform(0, self._slow_s)
        return extra_s + self.rng.uniform(*(self._sync_s if sync else self._write_s))

    def block(self, *, sync: bool) -> None:
        """Hold the caller's process up for as long as the call takes."""
        if OWNER.get() is not None:
            block(self.delay_s(sync))

    def room_bytes(self) -> int:
        if self.capacity_bytes is None:
            return 1 << 62
        return max(
            0, self.capacity_bytes - sum(len(inode.cached) for inode in self._names.values())
        )

    def step(
        self,
        operation: str,
        name: str,
        content: bytes = b"",
        write: Callable[[bytes], None] | None = None,
    ) -> None:
        """Take one primitive step, or die in it."""
        if self.steps is not None:
            self.steps.append(Step(operation, name, len(content)))
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                self._left = None
                if write is not None:
                    write(content[: self._tear_byte])
                raise Died(f"{operation} {name}")
        if write is not None:
            write(content)

    def _check(self, name: str) -> None:
        """What a process still does while its tasks are cancelled reaches no disk: the next one may
        run.
        """
        owner = OWNER.get()
        if owner is not None and not owner.alive:
            raise OSError(errno.EBADF, "its process has died", name)

    def _found(self, name: str) -> _Inode:
        if name not in self._names:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", name)
        return self._names[name]

    def _change(self, gone: str | None, come: str | None, inode: _Inode | None) -> None:
        self._unsynced_names.append((gone, come, inode))
        _apply(self._names, gone, come, inode)

    def _sync_directory(self) -> None:
        self.step("sync directory", "")
        self._durable_names, self._unsynced_names = dict(self._names), []

    def _lost_names(self) -> list[tuple[str, _Inode]]:
        kept = dict(self._durable_names)
        for gone, come, inode in self._unsynced_names:
            if self.rng.random() < 0.5:
                _apply(kept, gone, come, inode)
        self._names.clear()
        return sorted(kept.items(), key=lambda item: item[0])

    def _end(self, how: str) -> None:
        self.counts[how] += 1
        self.life += 1
        self._left = None
        for lane in (*self.lanes, self._directory_lane, self._work_lane):
            lane.kill()
        self.lanes.clear()


def _apply(
    names: dict[str, _Inode], gone: str | None, come: str | None, inode: _Inode | None
) -> None:
    if gone is not None:
        names.pop(gone, None)
    if come is not None and inode is not None:
        names[come] = inode


def block(seconds: float) -> None:
    """Hold the calling process up, if it is a simulated one."""
    owner = OWNER.get()
    if owner is not None:
        owner.stall(seconds)


def _nothing() -> None:
    """Be the half of what has no halves."""
