"""Hold everything of one seed: the machines, what lies between them, what has happened, and which
promises were broken.

All of it is decided by the seed: it never reads real time and never draws from anything else.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from itertools import count
from typing import Any

from coordinator.log import PeerAddress, Position
from coordinator.raft.core.pysyncobj_library import MEMBERSHIP
from tests.simulation.lease_harms import HeldEnds
from tests.simulation.leasing import Leasing
from tests.simulation.network import Network
from tests.simulation.node import SimNode
from tests.simulation.plans import Plan, Plant
from tests.simulation.reference import Reference
from tests.simulation.stores import SimBroker, SimCache, SimDatabase, StoreFaults
from tests.simulation.timekeeping import Timekeeper


class Violation(Exception):
    """A promise was broken. `name` begins with what was broken: INV-n, Raft, or Liveness."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(f"{name}: {detail}")
        self.name, self.detail = name, detail


def _digest(command: bytes) -> bytes:
    return hashlib.blake2b(command, digest_size=8).digest()


class World:
    """Everything of one seed."""

    level_sent = 0
    """The highest feature level that was handed to a log."""
    held_ends: HeldEnds | None = None
    """Ends of leases that wait on their way to the log."""

    def __init__(self, plan: Plan, plant: Plant | None = None) -> None:
        self.plan, self.plant = plan, plant or Plant()
        self.trace: list[str] = []
        self.violations: list[Violation] = []
        self.openers: list[Callable[[SimNode, AsyncExitStack], Awaitable[None]]] = []
        """What stands before the nodes besides, opened with each of their processes."""
        self.failed: asyncio.Event | None = None
        """Set by the first violation, when the story is to end there."""
        self.counts: dict[str, int] = {
            "crashes": 0,
            "power cuts": 0,
            "partitions": 0,
            "membership changes": 0,
            "resets": 0,
            "cache hits": 0,
            "elections": 0,
            "operations": 0,
            "unknown": 0,
            "disk faults": 0,
            "clock jumps": 0,
            "transfers": 0,
            "restores": 0,
            "store outages": 0,
            "log checks": 0,
            "expired keys": 0,
            "leases": 0,
            "leases kept": 0,
            "keys of leases read": 0,
            "leases ended": 0,
            "sessions": 0,
            "watched": 0,
            "redelivered": 0,
            "disks lost": 0,
            "slow disks": 0,
            "upgrades": 0,
            "times lost": 0,
            "lives judged": 0,
            "founded alone": 0,
            "suffixes lost": 0,
            "prefix losses": 0,
            "positions undone": 0,
            "installs": 0,
            "levels refused": 0,
            "ties": 0,
            "twins refused": 0,
            "levels ordered": 0,
            "files set aside": 0,
            "files hurt": 0,
            "disks checked": 0,
            "stores compared": 0,
            "stores compared row by row": 0,
        }
        self.settled_as: dict[int, str] = {}
        """What each revision was told to be: no restore and no adoption gives one twice."""
        self.kept: dict[tuple[int, int], str] = {}
        """What was told at a position (a revision, and the term that gave it): a client may have
        kept it.
        """
        self.over = False
        self.bursts = 0
        self.holds_rebases_s: float | None = None
        """A Rebase is sent to the log only so long after it is heard that another leads (with
        `slow_orders`).
        """
        self.popular: SimNode | None = None
        """Where most clients read just now."""
        self.impatient: list[asyncio.Task[None]] = []
        """Writes whose outcome nobody looks at."""
        self.gave_state: list[str] = []
        """Who gave a copy of its own store away, each time."""
        self.astray: dict[bytes, None] = {}
        """Content digests of what was given away by members whose contents went another way."""
        self.steps = 0
        self.network = Network(
            self.rng_of("network"), self.say, ghosts=plan.ghosts, reads_apart=plan.reads_apart
        )
        self.times = Timekeeper(self)
        self.leasing = Leasing(self)
        self.database = SimDatabase(self)
        """The shared store."""
        self.reference = Reference(self)
        """What the log makes of members' own stores."""
        self.landed: SimDatabase | Reference = self.reference if plan.replicated else self.database
        """What the ledger is, whatever keeps it."""
        self.store_faults = StoreFaults(self.rng_of("store"))
        self.cache = SimCache(self.rng_of("cache"), others=plan.others)
        self.cache.hostile = plan.hostile
        self.broker = SimBroker(self.rng_of("broker"))
        first = tuple(PeerAddress(f"n{i}", f"n{i}:1") for i in range(1, plan.nodes + 1))
        self.nodes: dict[str, SimNode] = {peer.id: SimNode(self, peer.id, first) for peer in first}
        self.newcomers = count(1)
        self.disks_lost: dict[str, None] = {}
        """Members whose disks were replaced by empty ones: they never count again, and have to be
        removed.
        """
        self.founded_alone: dict[str, None] = {}
        """Those that were told of other first members just now: they are to stop by themselves."""
        self._leaders: dict[int, str] = {}
        self._applied: dict[int, tuple[int, bytes]] = {}
        self._highest: dict[int, int] = {}
        """Term -> highest index applied anywhere of an entry of that term."""

    def rng_of(self, what: str) -> random.Random:
        return random.Random(f"{self.plan.seed} {what}")

    def say(self, event: str, **fields: Any) -> None:
        """Write one line of the trace."""
        text = " ".join(f"{name}={value}" for name, value in fields.items())
        self.trace.append(f"{asyncio.get_running_loop().time():10.6f} {event} {text}".rstrip())

    def violate(self, name: str, detail: str) -> None:
        self.say("VIOLATION", name=name, detail=detail)
        self.violations.append(Violation(name, detail))
        if self.failed is not None and name != "Crash":
            self.failed.set()  # what the product says of itself is no promise: others may break yet

    # ------------------------------------------------------------------------------ Raft's promises

    def applied(self, node: SimNode, position: Position, command: bytes) -> None:
        """State machine safety: every member applies the same entry at the same place."""
        self.steps += 1
        entry = (position.term, _digest(command))
        known = self._applied.setdefault(position.index, entry)
        if known != entry:
            if self.plan.raft_keeps:
                self.violate(
                    "Raft: state machine safety", f"{node.name} applies another entry at {position}"
                )
            self._applied[position.index] = entry
        self.check_configuration(node)
        if position.index > self._highest.get(position.term, 0):
            self._highest[position.term] = position.index

    def check_configuration(self, node: SimNode) -> None:
        """What is in force is the newest configuration that the log holds, if it is not a
        snapshot's or the first.
        """
        core, journal = node.member._core, node.member._journal
        index, first = core.roster.history.newest_index, journal[0][1]
        if index <= first or len(core.roster.history._held) == 1:
            return
        held = journal[index - first] if index - first < len(journal) else None
        if held is None or held[0][:1] != MEMBERSHIP:
            self.violate(
                "Raft: configuration in force",
                f"{node.name} goes by one of {index}, which its log has not",
            )

    def elected(self, node: SimNode, term: int) -> None:
        """Election safety: at most one leader in a term."""
        known = self._leaders.setdefault(term, node.name)
        if known != node.name and self.plan.raft_keeps:
            self.violate(
                "Raft: one leader per term", f"{known} and {node.name} are elected in term {term}"
            )

    def led(self, node: SimNode, term: int) -> None:
        self.say("leads", node=node.name, term=term)
        self.counts["elections"] += 1
        self.check_logs()
        if not self.plan.raft_keeps:
            return
        older = max((index for other, index in self._highest.items() if other < term), default=0)
        if node.member.applied.index <= older:
            self.violate(
                "Raft: leader completeness",
                f"{node.name} leads term {term} without the entry at {older}",
            )

    def check_logs(self) -> None:
        """Log matching: where two logs agree in index and term, they agree in that entry and all
        before it.
        """
        if not self.plan.raft_keeps:
            return
        logs = {node.name: node.entries() for node in self.serving}
        self.counts["log checks"] += 1
        names = list(logs)
        for position, one in enumerate(names):
            for other in names[position + 1 :]:
                a, b = logs[one], logs[other]
                shared = [index for index in a if index in b]
                same = [index for index in shared if a[index][0] == b[index][0]]
                if same and any(a[i] != b[i] for i in shared if i <= same[-1]):
                    self.violate(
                        "Raft: log matching",
                        f"{one} and {other} agree at {same[-1]}, not before it",
                    )

    def cutting(self, node: SimNode, entries: Sequence[tuple[bytes, int, int]]) -> None:
        """Watch a log being cut: what was committed never leaves it (it is in every later leader's
        log).
        """
        if not self.plan.raft_keeps:
            return
        for command, index, term in entries:
            known = self._applied.get(index)
            if known is not None and known == (term, _digest(command[9:])):
                self.violate(
                    "Raft: committed entries stay",
                    f"{node.name} cuts {index} of term {term}, applied already",
                )
                return

    # ------------------------------------------------------------------------------------ questions

    def op_id_at(self, revision: int) -> str | None:
        """Return the op_id that has a revision in the ledger as it is now."""
        row = self.landed.landed.get(revision)
        return None if row is None else row.body[revision - row.first].op_id

    @property
    def serving(self) -> list[SimNode]:
        return [node for node in self.nodes.values() if node.up and node.serving]

    def leader(self) -> SimNode | None:
        """Return the node that leads the newest term, if one does."""
        leading = [n for n in self.serving if n.member.status().role == "leader"]
        return max(leading, key=lambda n: n.member.status().term) if leading else None

    async def until(
        self, holds: Callable[[], bool], within_s: float, what: Callable[[], str]
    ) -> bool:
        """Wait for a condition; a violation of liveness, told as things stand then, when it does
        not come in time.
        """
        ends = asyncio.get_running_loop().time() + within_s
        while not holds():
            if asyncio.get_running_loop().time() > ends:
                self.violate("Liveness", f"{what()} within {within_s:g} s")
                return False
            await asyncio.sleep(0.02)
        return True


Step = Callable[[World], Awaitable[None]]
