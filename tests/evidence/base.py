"""Let the published reproductions of the library's hazards, and our regression tests, drive the
core as they drive it.

Never part of a running node. `Core` here takes the library's own constructor arguments: a subclass
with `@replicated` methods, ticks and messages delivered by hand, no event loop. Underneath are the
same protocol, journal and snapshots.

    python acked_truncation.py --base tests.evidence.base:Core
"""

from __future__ import annotations

import asyncio
import gzip
import os
import random
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.journal import MemoryJournal
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from coordinator.log import Position
from coordinator.raft.core.protocol import Core as HardenedCore
from coordinator.raft.core.pysyncobj_library import REGULAR, Library
from coordinator.raft.storage.journal import Journal
from coordinator.raft.storage.real_disk import RealDisk
from coordinator.raft.storage.snapshot import SnapshotStore
from coordinator.raft.storage.snapshot_stream import Incoming
from tests.replica import InMemory, SharedKind
from tests.unit.raft.cores import forget_leader, note_nothing


class WallClock:
    """The machine's clock: these scripts fire their timers by hand."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return 0


class MemoryLog(InMemory, MemoryJournal):
    """A disk that forgets nothing while the script runs; a node that is built again finds its own
    again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.on_synced: Callable[[int], None] = lambda index: None

    @property
    def synced_index(self) -> int:
        return self[-1][1] if len(self) else 0

    @property
    def policy(self) -> str:
        return "off"

    def maybe_sync(self, *, at_once: bool = False) -> bool:
        return False


class Shelf:
    """The snapshots of one node: the product's store in a folder of its own, and the published file
    beside it.

    The scripts judge a node's dump file with gzip: it is written from the store's own verified dump
    each time.
    """

    def __init__(self, store: SnapshotStore, published: str | None) -> None:
        self._store, self._published = store, published

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def save(self, *args: Any) -> Any:
        header = await self._store.save(*args)
        self.publish()
        return header

    def incoming(self) -> _Published:
        return _Published(self._store.incoming(), self.publish)

    def publish(self) -> None:
        snapshot = self._store.load_now()
        if self._published is not None and snapshot is not None:
            with gzip.open(self._published + ".new", "wb", compresslevel=1) as file:
                file.write(snapshot.body)
            os.replace(self._published + ".new", self._published)


class _Published:
    """A snapshot that comes in; the published file follows it."""

    def __init__(self, incoming: Incoming, publish: Callable[[], None]) -> None:
        self._incoming, self._publish = incoming, publish

    def __getattr__(self, name: str) -> Any:
        return getattr(self._incoming, name)

    async def install(self) -> None:
        await self._incoming.install()
        self._publish()


_loop = asyncio.new_event_loop()
_disks: WeakKeyDictionary[Any, dict[str, MemoryLog]] = WeakKeyDictionary()


def _spawn(
    work: Coroutine[Any, Any, Any], done: Callable[[Any, BaseException | None], None]
) -> None:
    try:
        result = _loop.run_until_complete(work)
    except Exception as exc:  # noqa: BLE001 handed on, as a task's would be
        done(None, exc)
    else:
        done(result, None)


class Attributes(SharedKind):
    """The replica of such a script: the attributes that its class sets after the library's
    constructor.
    """

    def __init__(self) -> None:
        self.node: Core | None = None
        self.early: dict[str, Any] | None = None
        self.results: dict[int, Any] = {}
        """What the decorated methods returned, by index, until it is asked for."""

    def _kept(self) -> dict[str, Any]:
        assert self.node is not None
        return {k: v for k, v in vars(self.node).items() if k not in self.node._SyncObj__properies}

    def apply(self, position: Position, stamp_ms: int, command: bytes) -> None:
        """Call the decorated method that the command names."""
        assert self.node is not None
        self.results.clear()  # who waits is notified right after each entry
        self.results[position.index] = SyncObj._SyncObj__doApplyCommand(
            self.node, REGULAR + command
        )

    def stamp_ms(self) -> int:
        return 0

    def snapshot(self) -> Callable[[], bytes]:
        state = msgspec.msgpack.encode(self._kept())
        return lambda: state

    def restore(self, snapshot: bytes) -> None:
        state = msgspec.msgpack.decode(snapshot)
        if self.node is None:
            self.early = state
        else:
            vars(self.node).update(state)

    def reset(self) -> None: ...

    def led(self, term: int) -> None: ...

    def deposed(self, term: int) -> None: ...

    def note(self) -> bytes:
        return b""


class Core(Library):
    """The library's node as a script knows it, with the hardened core for its handler."""

    def __init__(  # noqa: PLR0917 the library's own order
        self,
        selfNode: Node | str,
        otherNodes: Iterable[Node | str],
        conf: SyncObjConf | None = None,
        consumers: Any = None,
        nodeClass: type[Node] = Node,
        transport: Transport | None = None,
    ) -> None:
        conf = conf or SyncObjConf(autoTick=False)
        member = selfNode.id if isinstance(selfNode, Node) else selfNode
        replica = Attributes()
        if conf.journalFile is not None and conf.fullDumpFile is not None:
            folder = Path(conf.fullDumpFile + ".d")
            store = SnapshotStore(RealDisk(folder, lock=False), cluster="")
            journal: Any = Journal(conf.journalFile)
        else:
            nothing: Any = _NoDisk()
            store = SnapshotStore(nothing, cluster="")
            shared = _disks.setdefault(getattr(transport, "net", transport), {})
            journal = shared.setdefault(member, MemoryLog())
        shelf: Any = Shelf(store, conf.fullDumpFile)
        super().__init__(selfNode, otherNodes, conf, consumers, nodeClass, transport)
        self.replica = replica
        self.core = HardenedCore(
            self,
            clock=WallClock(),
            rng=random.Random(member),
            replica=replica,
            journal=journal,
            snapshots=shelf,
            spawn=_spawn,
        )
        note_nothing(self.core)
        self._SyncObj__properies = set(vars(self)) | {"_SyncObj__properies"}
        self._early = replica.early
        self._SyncObj__properies.add("_early")
        replica.node = self

    def _onTick(self, timeToWait: float = 0.0) -> None:
        # The scripts tick by hand, at once: the rest after a command that takes long (the report of
        # one that raises does) would last longer than all their ticks.
        self.core.applier._rests_until = 0.0
        if self._early is not None:
            # What the dump held, once the subclass's constructor has set its empty attributes.
            state, self._early = self._early, None
            vars(self).update(state)
        super()._onTick(timeToWait)

    def _applyCommand(self, command: bytes, callback: Any, commandType: int | None = None) -> None:
        """Order it; a script's callback gets what its decorated method returned."""

        def answered(result: Any, reason: int) -> None:
            if isinstance(result, Position):
                result = self.replica.results.pop(result.index, None)
            callback(result, reason)

        wrapped = answered if callback is not None else None
        super()._applyCommand(command, wrapped, commandType)

    def forget_leader(self) -> None:
        forget_leader(self.core)

    def forceLogCompaction(self) -> None:
        self.core.compaction.force()


class _NoDisk:
    """For the scripts without files: nothing there, nothing kept."""

    directory = "memory"

    def names(self) -> list[str]:
        return []

    def exists(self, name: str) -> bool:
        return False
