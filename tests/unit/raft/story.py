"""Members on a stage: every message, timer and disk in the hands of a story that is told in text.

Only messages that a member really produced are delivered, through the real codec and in order; they
are lost, kept back or doubled only where the story says so. Time stands still but for `wait`.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

from pysyncobj import SyncObjConf
from pysyncobj.journal import MemoryJournal
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from coordinator.log import PeerAddress, Position
from coordinator.raft.core.messages import ALL
from coordinator.raft.core.protocol import Core
from coordinator.raft.core.pysyncobj_library import SUCCESS, Library
from coordinator.raft.core.rules.membership import bootstrap
from coordinator.raft.net.codec import Codec
from coordinator.raft.storage.snapshot import SnapshotStore
from tests.replica import InMemory, SharedKind
from tests.simulation.disk import SimDisk
from tests.unit.raft.cores import note_nothing
from tests.unit.raft.story_text import REASONS, Words, configuration

CODEC: Final = Codec(*ALL)
NEVER_S: Final = 1000.0
QUEUE_MAX: Final = 8
ROUNDS_MAX: Final = 50
"""Rounds of `settle` after which a story goes nowhere."""


class Clock:
    def __init__(self) -> None:
        self.at_s = 0.0

    def monotonic(self) -> float:
        return self.at_s

    def wall_ms(self) -> int:
        return 0


class Disk(InMemory, MemoryJournal):
    """A journal whose entries are durable when the story has it so."""

    policy = "always"

    def __init__(self) -> None:
        super().__init__()
        self.on_synced: Callable[[int], None] = lambda index: None
        self.synced_index = 0
        self.hangs = self._pending = False
        self.snapshots = SimDisk(random.Random(1))

    @property
    def unsynced_bytes(self) -> int:
        return 0

    def maybe_sync(self, *, at_once: bool = False) -> bool:
        self._pending = len(self) > 0 and self[-1][1] > self.synced_index
        return self._pending

    def flush(self) -> None:
        self.synced_index = self[-1][1]

    def complete(self) -> None:
        """Make durable what a sync was begun for, unless it hangs."""
        if self._pending and not self.hangs:
            self._pending = False
            self.flush()
            self.on_synced(self.synced_index)

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        super().deleteEntriesFrom(entryFrom)
        self.synced_index = min(self.synced_index, self[-1][1])

    def clear(self) -> None:
        super().clear()
        self.synced_index = 0

    def lose_unsynced(self) -> None:
        """Cut the power: what is not durable is gone."""
        self._pending = False
        kept = [entry for entry in self[:] if entry[1] <= max(self.synced_index, self[0][1])]
        super().deleteEntriesFrom(len(kept))


class Tape(SharedKind):
    """A machine that keeps what was applied."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.commands: list[bytes] = []
        self._tell = tell

    def apply(self, position: Position, stamp_ms: int, command: bytes) -> None:
        self.commands.append(command)
        if command.startswith(b"raises"):
            raise ValueError("bad input")

    def stamp_ms(self) -> int:
        return 0

    def snapshot(self) -> Callable[[], bytes]:
        body = b"\n".join([b"tape", *self.commands])
        return lambda: body

    def restore(self, snapshot: bytes) -> None:
        self.commands = snapshot.split(b"\n")[1:]
        self._tell(f"machine restored: {self.text}")

    def reset(self) -> None:
        self.commands = []
        self._tell("machine reset")

    def led(self, term: int) -> None:
        self._tell(f"has applied all before term {term}, which it leads")

    def deposed(self, term: int) -> None:
        self._tell(f"leads term {term} no more")

    def note(self) -> bytes:
        return b""

    @property
    def text(self) -> str:
        return " ".join(command.decode()[:12] for command in self.commands) or "nothing"


class Link(Transport):
    def __init__(self, stage: Stage, me: str) -> None:
        super().__init__(None, None, None)
        self.stage, self.me = stage, me

    def send(self, node: Node, message: Any) -> bool:
        return self.stage.send(self.me, node.id, message)

    def addNode(self, node: Node) -> None:
        self.stage.wanted.add((self.me, node.id))

    def dropNode(self, node: Node) -> None:
        self.stage.leaving.add((self.me, node.id))


class Stage:
    """The members of one story."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.clock, self.words = Clock(), Words()
        self.cores: dict[str, Core] = {}
        self.tapes: dict[str, Tape] = {}
        self.disks: dict[str, Disk] = {}
        self.queues: defaultdict[tuple[str, str], deque[dict[str, Any]]] = defaultdict(deque)
        self.kept: dict[str, tuple[str, str, list[dict[str, Any]]]] = {}
        self.wanted: set[tuple[str, str]] = set()
        self.leaving: set[tuple[str, str]] = set()
        """Who leaves whom, once what is on its way there has arrived."""
        self.up: set[frozenset[str]] = set()
        self.cut: set[frozenset[str]] = set()
        self.first: tuple[PeerAddress, ...] = ()
        self.joins, self.batch_bytes = False, 100
        self._loop = asyncio.new_event_loop()
        self._seen: dict[str, str] = {}

    def close(self) -> None:
        self._loop.close()

    # ------------------------------------------------------------------------------- members

    def start(self, name: str) -> None:
        disk = self.disks.setdefault(name, Disk())
        link = Link(self, name)
        tape = self.tapes[name] = Tape(lambda what: self.say(f"{name} {what}"))
        conf = SyncObjConf(
            autoTick=False,
            appendEntriesPeriod=0.05,
            raftMinTimeout=0.3,
            raftMaxTimeout=0.6,
            leaderFallbackTimeout=0.6,
            connectionTimeout=1.5,
            appendEntriesBatchSizeBytes=self.batch_bytes,
            logCompactionBatchSize=80,
            logCompactionMinEntries=10**6,
            commandsWaitLeader=False,
            commandsQueueSize=QUEUE_MAX,
        )
        members = self.first
        if all(each.id != name for each in members):
            members = (*members, PeerAddress(name, f"{name}:1", voter=False))
        others = [Node(each.id, address=each.address) for each in members if each.id != name]
        core = Core(
            Library(Node(name, address=f"{name}:1"), others, conf, transport=link),
            clock=self.clock,
            rng=random.Random(name),
            replica=tape,
            journal=disk,
            snapshots=SnapshotStore(disk.snapshots, cluster="story"),
            spawn=self._spawn,
            configuration=bootstrap(members),
        )
        if not self.joins:
            note_nothing(core)
        self.cores[name] = core
        disk.maybe_sync()
        self.complete(name)
        self.cores[name].pysyncobj.election_deadline = self.clock.at_s + NEVER_S
        self.connect()

    def stop(self, name: str, *, power: bool) -> None:
        """End a member; with `power` what its disk had not synced is gone too."""
        link = self.cores.pop(name).pysyncobj.transport
        assert isinstance(link, Link)
        self.wanted = {pair for pair in self.wanted if pair[0] != name}
        self._seen.pop(name, None)
        self.connect()
        self.disks[name].on_synced = lambda index: None
        if power:
            self.disks[name].lose_unsynced()

    def _spawn(
        self, work: Coroutine[Any, Any, Any], done: Callable[[Any, BaseException | None], None]
    ) -> None:
        try:
            result = self._loop.run_until_complete(work)
        except (OSError, ValueError) as exc:
            done(None, exc)
        else:
            done(result, None)

    # ------------------------------------------------------------------------------- network

    def connect(self) -> None:
        """Bring up every link that both ends want and that is not cut; the rest down."""
        left = {pair for pair in self.leaving if not self.queues[pair]}
        self.leaving -= left
        self.wanted -= left
        names = sorted(self.cores.keys() | {name for pair in self.up for name in pair})
        for a in names:
            for b in names:
                pair = frozenset((a, b))
                both = (a, b) in self.wanted and (b, a) in self.wanted and pair not in self.cut
                if a < b and both != (pair in self.up):
                    (self.up.add if both else self.up.discard)(pair)
                    self.queues[a, b].clear()
                    self.queues[b, a].clear()
                    self._tell_link(a, b, up=both)
                    self._tell_link(b, a, up=both)

    def _tell_link(self, me: str, peer: str, *, up: bool) -> None:
        if me in self.cores:
            link = self.cores[me].pysyncobj.transport
            (link._onNodeConnected if up else link._onNodeDisconnected)(Node(peer))

    def send(self, source: str, target: str, message: dict[str, Any]) -> bool:
        if frozenset((source, target)) not in self.up:
            return False
        self.queues[source, target].append(CODEC.decode(CODEC.encode(message)))
        return True

    def deliver(self, source: str, target: str, count: int = 10**6) -> int:
        """Deliver what is on the way, and say it; messages that only say where members are go
        along unsaid.
        """
        queue, said = self.queues[source, target], 0
        while queue and said < count and target in self.cores:
            message = queue.popleft()
            if message["type"] != "contacts":
                said += 1
                self.say(f"{source} → {target}: {self.words.message(message)}")
            self.cores[target].pysyncobj.transport._onMessageReceived(Node(source), message)
            self.complete(target)
        return said

    # ------------------------------------------------------------------------------ the rest

    def say(self, line: str) -> None:
        self.lines.append(line)

    def tick(self, name: str) -> None:
        self.cores[name].tick()
        self.complete(name)

    def complete(self, name: str) -> None:
        """Let the disk catch up, and say what has changed in that member."""
        self.disks[name].complete()
        self.connect()
        self.look(name)

    def settle(self, names: list[str]) -> None:
        """Tick and deliver among these until nothing happens any more."""
        for _ in range(ROUNDS_MAX):
            before = len(self.lines)
            for name in names:
                self.tick(name)
            for source in names:
                for target in names:
                    self.deliver(source, target)
            if len(self.lines) == before:
                return
        raise AssertionError(f"not settled after {ROUNDS_MAX} rounds")

    def answered(self, what: str) -> Callable[[Any, int], None]:
        def answered(result: Any, reason: int) -> None:
            at = f" at {result.index}@{result.term}" if isinstance(result, Position) else ""
            failed = reason == SUCCESS and isinstance(result, Exception)
            why = getattr(result, "reason", "")
            told = "done, and raised" if failed else REASONS[reason]
            self.say(f"{what}: {told}{at}{f' ({why})' if why else ''}")

        return answered

    def state(self, name: str) -> str:
        """Say in one line what a member is."""
        core = self.cores[name]
        log, library = core.log, core.pysyncobj
        of = f" of {library.leader.id}" if library.leader and not library.leads else ""
        role = f"{core.role}{of}{f', {core.unfit}' if core.unfit else ''}"
        begins = f"{log.first_index}–" if log.first_index > 1 else ""
        return (
            f"{name}: {role}, term {library.term}, vote {library.voted_for or '–'}, "
            f"log {begins}{log.last_index}@{log.last_term}, "
            f"commit {library.commit_index}, applied {library.applied_index}"
        )

    def look(self, name: str) -> None:
        """Say the state of a member that runs, if it is another than it was."""
        if name not in self.cores:
            return
        state = self.state(name)
        if self._seen.get(name) != state:
            self._seen[name] = state
            self.say(f"    {state}")

    def members(self, name: str) -> str:
        return f"{name}: {configuration(self.cores[name].configuration)}"
