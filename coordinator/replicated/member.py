"""Compose what keeps one member's own store: its parts, and what the rest of the member asks of
them. It decides nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from coordinator.log import Log
from coordinator.machine.machine import Machine
from coordinator.replicated.condition import Condition
from coordinator.replicated.cursors import OrderedCursors
from coordinator.replicated.keeping import Keeping
from coordinator.replicated.leading import Leading, LeadingMember
from coordinator.replicated.marks import ContentMarks
from coordinator.replicated.mending import Mending
from coordinator.replicated.settling import Settling
from coordinator.settings import CoordinatorSettings
from kv.ports import Clock
from kv.ports.member_store import MemberStore


class OwnParts(NamedTuple):
    """The parts of a member that has its own store."""

    store: MemberStore
    condition: Condition
    marks: ContentMarks
    settling: Settling
    keeping: Keeping
    leading: Leading
    mending: Mending
    cursors: OrderedCursors

    @property
    def counts(self) -> dict[str, int]:
        """Running totals, by the names of their metrics."""
        return {
            "rows_settled": self.settling.rows,
            "intents_settled": self.settling.intents,
            "rows_replayed": self.settling.replayed,
            "prefix_losses": self.settling.prefix_losses,
            "store_installs": self.keeping.installs,
            "store_refetches": self.mending.refetches,
            "store_set_aside": self.mending.set_aside,
            "store_spoils": self.condition.spoils,
            "apply_holds": self.mending.holds,
        }


def own_parts(
    member: LeadingMember,
    own: MemberStore,
    log: Log,
    clock: Clock,
    *,
    name: str,
    rng: random.Random,
    settings: CoordinatorSettings,
    entropy: Callable[[int], bytes] | None,
    members: bytes,
) -> OwnParts:
    """Compose the parts without any I/O."""
    machine: Machine = member.machine
    condition = Condition(own, unwritten_bytes_max=settings.unwritten_bytes_max)
    marks = ContentMarks()
    keeping = Keeping(machine, own, condition, marks)
    leading = Leading(
        member,
        log,
        clock,
        condition,
        name=name,
        rng=rng,
        settings=settings,
        entropy=entropy,
        members=members,
    )
    mending = Mending(machine, own, log, leading=leading, condition=condition, keeping=keeping)
    settling = Settling(machine, own, condition, marks)
    cursors = OrderedCursors(machine, log)
    return OwnParts(own, condition, marks, settling, keeping, leading, mending, cursors)
