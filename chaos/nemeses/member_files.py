"""Change the files of one member while it is down: of its own store, or all that it has.

The member must mend itself from the others, or be replaced. No more than a minority is ever hit, so
that nothing acknowledged is lost.
"""

from __future__ import annotations

import asyncio
import shutil
from abc import abstractmethod
from functools import partial
from pathlib import Path
from random import Random
from typing import ClassVar, Final, Protocol, runtime_checkable

from typing_extensions import override

from chaos.nemeses.base import Nemesis, some
from chaos.nemeses.disks import Files
from chaos.nemeses.processes import READY_WITHIN_S, is_running
from chaos.targets.base import NodeProcesses, Target
from chaos.targets.memberdisk import MemberDisk
from chaos.waiting import until

STORE: Final = "store.sqlite"
WAL: Final = "store.sqlite-wal"
SHARED_MEMORY: Final = "store.sqlite-shm"
AGE_S: Final = (0.5, 2.0)
"""Shortest and longest time for which a member goes on between the copy of its store and the day it
gets it back.
"""
BACK_WITHIN_S: Final = 20.0
"""Longest wait for a wiped member to answer before it is replaced."""


@runtime_checkable
class Replaceable(Protocol):
    """A target whose members can be replaced, and whose files may be watched by a library."""

    disks: dict[str, MemberDisk]

    async def replace(self, node: str) -> str:
        """Put a new member into the place of `node`; return its id."""
        ...


class OfOneMember(Nemesis):
    """A fault of the files of one member, which is down meanwhile and starts again at healing."""

    needs: ClassVar[frozenset[str]] = frozenset({"processes", "files", "own-stores"})
    whom: ClassVar[str] = "one"

    def __init__(self, target: Target, rng: Random) -> None:
        super().__init__(target, rng)
        self.pids: dict[str, int | None] = {}

    @property
    def processes(self) -> NodeProcesses:
        """Return the target, typed as one whose nodes are processes."""
        assert isinstance(self.target, NodeProcesses)
        return self.target

    def file(self, node: str, name: str = STORE) -> Path:
        """Return the path of one of a member's files."""
        assert isinstance(self.target, Files)
        return self.target.folder(node) / name

    @override
    async def choose(self) -> tuple[str, ...]:
        chosen = await some(self.target, self.rng, self.whom)
        self.pids = {node: self.processes.pid(node) for node in chosen}
        return chosen

    def settled(self, node: str) -> None:
        """Take for synced whatever a member's files are now: their numbers may be given anew."""
        disks = getattr(self.target, "disks", {})
        if node in disks:
            disks[node].forget()

    async def down(self, node: str) -> bool:
        """Return whether the member's process from before is gone and none answers."""
        pid = self.pids.get(node)
        return pid is not None and not is_running(pid) and not await self.target.answers(node)

    @override
    async def heal(self) -> None:
        for node in self.targets:
            self.processes.start(node)


class StoreDamage(OfOneMember):
    """The store of a member is changed while the member is down."""

    needed: ClassVar[str] = STORE
    """The file that must have something in it."""

    def __init__(self, target: Target, rng: Random) -> None:
        super().__init__(target, rng)
        self.before: dict[str, bytes] = {}

    @override
    async def start(self) -> None:
        for node in self.targets:
            # A store that was closed has no write-ahead log; one that is new may have nothing else.
            needed = self.file(node, self.needed)
            if not await until(partial(_has_bytes, needed), READY_WITHIN_S):
                raise FileNotFoundError(f"{node} has nothing in {self.needed}")
            await self.processes.kill(node)
            self.before = self.contents(node)
            self.damage(node)
            self.file(node, SHARED_MEMORY).unlink(missing_ok=True)
            self.settled(node)

    @abstractmethod
    def damage(self, node: str) -> None:
        """Change the member's files."""

    def contents(self, node: str) -> dict[str, bytes]:
        """Return the bytes of the store's files."""
        paths = (self.file(node, name) for name in (STORE, WAL))
        return {path.name: path.read_bytes() for path in paths if path.exists()}

    @override
    async def proof(self) -> str | None:
        for node in self.targets:
            if not self.before or not await self.down(node):
                return None
            now = self.contents(node)
            if now == self.before:
                return None
            changed = [
                f"{name} had {len(old)} bytes, {_now(old, now.get(name))}"
                for name, old in self.before.items()
                if now.get(name) != old
            ]
            return f"{node}: " + ", ".join(changed)
        return None


async def _has_bytes(path: Path) -> bool:
    return _size(path) > 0


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _now(old: bytes, new: bytes | None) -> str:
    if new is None:
        return "is gone"
    if len(new) != len(old):
        return f"has {len(new)}"
    at = next(n for n, (a, b) in enumerate(zip(old, new, strict=True)) if a != b)
    return f"differs from byte {at} on"


class StoreTruncated(StoreDamage):
    """The end of a member's store file is cut off, at any byte; its write-ahead log stays."""

    name: ClassVar[str] = "store-truncated"

    @override
    def damage(self, node: str) -> None:
        path = self.file(node)
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.truncate(self.rng.randrange(size))


class StoreFlipped(StoreDamage):
    """One bit of a member's store is flipped, in the file or in its write-ahead log."""

    name: ClassVar[str] = "store-flipped"

    @override
    def damage(self, node: str) -> None:
        names = [name for name, found in self.contents(node).items() if found]
        path = self.file(node, self.rng.choice(names))
        with path.open("r+b") as file:
            at = self.rng.randrange(path.stat().st_size)
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << self.rng.randrange(8)]))


class StoreDeleted(StoreDamage):
    """A member's store is deleted; its log and votes stay."""

    name: ClassVar[str] = "store-deleted"

    @override
    def damage(self, node: str) -> None:
        for name in (STORE, WAL):
            self.file(node, name).unlink(missing_ok=True)


class WalDeleted(StoreDamage):
    """The write-ahead log of a member's store is deleted, without the store."""

    name: ClassVar[str] = "store-wal-deleted"
    needed: ClassVar[str] = WAL

    @override
    def damage(self, node: str) -> None:
        self.file(node, WAL).unlink()


class StoreOld(StoreDamage):
    """A member gets back a copy of its store from before, as from a careless backup. Its log and
    votes stay.
    """

    name: ClassVar[str] = "store-old"

    def __init__(self, target: Target, rng: Random) -> None:
        super().__init__(target, rng)
        self.copy: dict[str, bytes] = {}

    @override
    async def start(self) -> None:
        (node,) = self.targets
        await self.processes.kill(node)
        self.copy = self.contents(node)
        self.processes.start(node)
        if not await until(partial(self.target.ready, node), READY_WITHIN_S):
            raise TimeoutError(f"{node} was not ready again within {READY_WITHIN_S:g} s")
        await asyncio.sleep(self.rng.uniform(*AGE_S))
        self.pids[node] = self.processes.pid(node)
        await super().start()

    @override
    def damage(self, node: str) -> None:
        for name in (STORE, WAL):
            self.file(node, name).unlink(missing_ok=True)
        for name, content in self.copy.items():
            self.file(node, name).write_bytes(content)


class MemberWiped(OfOneMember):
    """A member's whole directory is emptied. It comes back without its log and its vote, and is
    then replaced by a new member.
    """

    name: ClassVar[str] = "member-wiped"
    needs: ClassVar[frozenset[str]] = frozenset({"processes", "files", "replacements"})
    heal_within_s: ClassVar[float] = 180.0

    def __init__(self, target: Target, rng: Random) -> None:
        super().__init__(target, rng)
        self.wiped: dict[str, str] = {}
        """What each wiped member lost."""

    @override
    async def start(self) -> None:
        for node in self.targets:
            await self.wipe(node)

    async def wipe(self, node: str) -> None:
        """Kill a member and empty its directory."""
        await self.processes.kill(node)
        folder = self.file(node, "")
        lost = sorted(path.name for path in folder.iterdir())
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        self.settled(node)
        if not any(folder.iterdir()) and await self.down(node):
            self.wiped[node] = f"{node}: lost {', '.join(lost)}"

    async def replace(self, node: str) -> None:
        """Let the emptied member come back, and replace it."""
        self.processes.start(node)
        await until(partial(self.target.answers, node), BACK_WITHIN_S)
        assert isinstance(self.target, Replaceable)
        new = await self.target.replace(node)
        if not await until(partial(self.target.ready, node), READY_WITHIN_S):
            raise TimeoutError(f"{new} in the place of {node} was not ready")
        self.wiped[node] += f", replaced by {new}"

    @override
    async def proof(self) -> str | None:
        if not self.targets or set(self.wiped) != set(self.targets):
            return None
        return "; ".join(self.wiped[node] for node in self.targets)

    @override
    async def heal(self) -> None:
        for node in self.targets:
            if node in self.wiped:
                await self.replace(node)
            else:
                self.processes.start(node)


class MembersWipedInTurn(MemberWiped):
    """Each member in turn is emptied and replaced, until no file of the first ones is left in the
    cluster.
    """

    name: ClassVar[str] = "members-wiped-in-turn"
    whom: ClassVar[str] = "all"
    heal_within_s: ClassVar[float] = 240.0

    @override
    async def start(self) -> None:
        """Do nothing yet: the steps are taken while it holds."""

    @override
    async def hold(self, seconds: float) -> None:
        for node in self.rng.sample(self.targets, len(self.targets)):
            await self.wipe(node)
            await asyncio.sleep(seconds / len(self.targets))
            await self.replace(node)

    @override
    async def heal(self) -> None:
        """Let whoever is still in its place run: those that were wiped are replaced already."""
        for node in self.targets:
            self.processes.start(node)
