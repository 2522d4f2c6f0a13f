"""Compose what keeps one member's own store: its parts, and what the rest of the member asks of
them. It decides nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from coordinator.log import Log
from coordinator.machine.machine import Machine
from coordinator.replicated.condition import Condition
from coordinator.replicated.contents import Contents
from coordinator.replicated.cursors import OrderedCursors
from coordinator.replicated.keeping import Keeping
from coordinator.replicated.leading import Leading, LeadingMember
from coordinator.replicated.marks import ContentMarks
from coordinator.replicated.mending import Mending
from coordinator.replicated.pruning import Pruning
from coordinator.replicated.scrubbing import RowScrub
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
    contents: Contents
    pruning: Pruning
    row_scrub: RowScrub

    def refusal(self, leaders: str | None) -> str | None:
        """Return why nothing is served here: this member's own reason, or that the leader says that
        nobody knows whose contents are right. What else hinders the leader does not hinder others.
        """
        undecided = leaders if leaders == "own_store_undecided" else None
        return self.condition.refusal or undecided

    def held_back(self, longer_than_s: float) -> str:
        """Return why what is ordered has not been applied here for so long (R9); empty when it is
        applied.
        """
        if self.mending.held_for_s() <= longer_than_s:
            return ""
        return self.condition.detail or "the own store is being replaced"

    def loops(self) -> tuple[tuple[str, Coroutine[Any, Any, None]], ...]:
        """Return the loops of these parts by name, but for the leader's."""
        return (
            ("mending", self.mending.run()),
            ("pruning", self.pruning.run()),
            ("row-scrub", self.row_scrub.run()),
        )

    @property
    def counts(self) -> dict[str, int]:
        """Running totals, by the names of their metrics."""
        return {
            "groups_committed": self.settling.rows,
            "intents_committed": self.settling.intents,
            "rows_replayed": self.settling.replayed,
            "prefix_losses": self.settling.prefix_losses,
            "store_installs": self.keeping.installs,
            "store_refetches": self.mending.refetches,
            "store_set_aside": self.mending.set_aside,
            "store_spoils": self.condition.spoils,
            "apply_holds": self.mending.holds,
            "content_comparisons": self.contents.comparisons,
            "content_divergences": self.contents.divergences,
            "row_scrub_rounds": self.row_scrub.rounds,
            "rows_damaged": len(self.row_scrub.damaged),
            "versions_pruned": self.pruning.versions,
            "ledger_rows_pruned": self.pruning.rows,
            "operations_pruned": self.pruning.operations,
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
    broadcasts: bool,
) -> OwnParts:
    """Compose the parts without any I/O."""
    machine: Machine = member.machine
    condition = Condition(own, unwritten_bytes_max=settings.unwritten_bytes_max)
    marks = ContentMarks()
    keeping = Keeping(machine, own, condition, marks, level=settings.level)
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
    settling = Settling(machine, own, condition, marks, level=settings.level)
    cursors = OrderedCursors(machine, log, holds=broadcasts)
    return OwnParts(
        store=own,
        condition=condition,
        marks=marks,
        settling=settling,
        keeping=keeping,
        leading=leading,
        mending=Mending(own, log, clock, condition=condition, keeping=keeping, settling=settling),
        cursors=cursors,
        contents=Contents(machine, marks, condition, keeping),
        pruning=Pruning(
            machine,
            own,
            log,
            leading=leading,
            condition=condition,
            keeping=keeping,
            cursors=cursors,
            settings=settings,
        ),
        row_scrub=RowScrub(own, log, condition, settings),
    )
