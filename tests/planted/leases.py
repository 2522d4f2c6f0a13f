"""Take the rules of leases away, one by one (coordinator/DESIGN.md, section Leases). The simulation
has to find each in both worlds; `docs/model/lease_model.py` says how.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from coordinator.leases.deadlines import Deadlines, Granted
from coordinator.leases.keeper import LeaseKeeper
from coordinator.machine.evaluate import _Group
from kv.model import Entry, Intent
from node.reads import fetches, reads
from tests.planted.registry import Patches, fault

LONG_AGO_S = 1e6


@fault("Lease")
def lease_old_term() -> Patches:
    """The end of a lease takes effect in a row of another term than its leader's."""
    yield _Group, "_is_of_another_term", lambda self, intent: _never(intent)


@fault("Lease")
def lease_no_round() -> Patches:
    """A keep-alive is answered without a round: also by a leader that leads no more."""

    async def confirm(self: LeaseKeeper) -> None:
        return

    yield LeaseKeeper, "_confirm", confirm


@fault("Lease")
def lease_short_ttl() -> Patches:
    """A new leader does not give leases their whole ttl: it takes them for old."""
    right = Deadlines.keep_only

    def keep_only(self: Deadlines, leases: Mapping[int, Granted], now_s: float) -> None:
        right(self, leases, now_s - LONG_AGO_S)

    yield Deadlines, "keep_only", keep_only


@fault("Lease")
def lease_renewed_while_ending() -> Patches:
    """A leader answers keep-alives of a lease whose end it has ordered."""
    right = Deadlines.due

    def due(self: Deadlines, now_s: float, limit: int) -> dict[int, int]:
        found = right(self, now_s, limit)
        for lease in found:
            self._leases[lease].ending = False
        return found

    yield Deadlines, "due", due


@fault("INV-5")
def lease_end_untouched() -> Patches:
    """The end of a lease touches none of its keys: a cached entry of one is judged by what named
    the key itself.
    """

    def touched_by(touched: Callable[[bytes], int], entry: Entry) -> int:
        return touched(entry.key)

    yield reads, "touched_by", touched_by
    yield fetches, "touched_by", touched_by


def _never(intent: Intent) -> bool:
    return False
