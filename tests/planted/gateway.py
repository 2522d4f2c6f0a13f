"""Break a node's leases, and its locks by etcd's gateway, on purpose. Each of these is to be seen
from outside a real cluster (`python -m chaos teeth`).
"""

from __future__ import annotations

from typing import Any

from coordinator.leases.deadlines import Deadlines
from coordinator.leases.keeper import LeaseKeeper
from coordinator.machine.evaluate import _Group
from kv.model import Compare
from node.etcd.election import _Candidate
from tests.planted.nodes import bug
from tests.planted.registry import Patches


@bug("Lease")
def lock_is_given_out_of_turn() -> Patches:
    """Who asks for a lock of etcd's gateway gets it as soon as its key is there."""

    async def before(self: _Candidate, revision: int) -> None:
        return None

    yield _Candidate, "_before", before


@bug("Lease")
def fence_of_a_lost_lock_holds() -> Patches:
    """A condition on the revision that created a key holds for what was created since, too."""
    right = _Group._compares

    def compares(self: _Group, guard: Compare) -> bool:
        fence = guard.target == "create" and guard.relation == "=" and guard.operand
        return bool(fence) or right(self, guard)

    yield _Group, "_compares", compares


@bug("Lease")
def keep_alive_moves_no_deadline() -> Patches:
    """A keep-alive is answered, and the lease ends as if none had come."""
    yield Deadlines, "renew", lambda self, lease, now_s: None


class _WallClock:
    """A clock whose monotonic time is the wall clock's."""

    def __init__(self, right: Any) -> None:
        self._right = right

    def monotonic(self) -> float:
        seconds: float = self._right.wall_ms() / 1000
        return seconds


@bug("Lease")
def leases_end_by_the_wall_clock() -> Patches:
    """A leader reckons when leases end by its wall clock."""
    right = LeaseKeeper.__init__

    def begin(self: LeaseKeeper, member: Any, store: Any, clock: Any, **rest: Any) -> None:
        right(self, member, store, _WallClock(clock), **rest)  # type: ignore[arg-type]

    yield LeaseKeeper, "__init__", begin
