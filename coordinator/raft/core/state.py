"""Bundle the six parts that hold a member's state; every part that acts is built on them.

Each part alone writes the state that it holds; DESIGN.md has the table.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.raft.core.eligibility import Eligibility
from coordinator.raft.core.environment import Environment
from coordinator.raft.core.log import RaftLog
from coordinator.raft.core.pysyncobj_library import Library
from coordinator.raft.core.roster import Roster
from coordinator.raft.core.terms import Terms


@dataclass(frozen=True)
class State:
    """The state of one member: its log, its term, its members, and whether it may vote."""

    pysyncobj: Library
    environment: Environment
    log: RaftLog
    roster: Roster
    eligibility: Eligibility
    terms: Terms
