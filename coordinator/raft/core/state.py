"""Name the parts that hold a member's state, and that every part which acts is built on.

Each of them alone writes what it holds; DESIGN.md has the table.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.raft.core.eligibility import Eligibility
from coordinator.raft.core.environment import Environment
from coordinator.raft.core.library import Library
from coordinator.raft.core.log import RaftLog
from coordinator.raft.core.roster import Roster
from coordinator.raft.core.terms import Terms


@dataclass(frozen=True)
class State:
    """What one member is: its log, its term, its members, and whether it may vote."""

    library: Library
    environment: Environment
    log: RaftLog
    roster: Roster
    eligibility: Eligibility
    terms: Terms
