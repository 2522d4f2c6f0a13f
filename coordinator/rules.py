"""Name the protective rules of the protocol, so that a test can take one away and see what breaks.

Outside tests every part uses `PROTOCOL`, the defaults. The names and what breaks without each: the
protocol's model, and `coordinator/DESIGN.md`. It never decides anything itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Rules:
    """The defaults are the protocol of DESIGN sections 3 and 4."""

    fence: bool = True
    """A group lands only where the ledger ends at (first - 1). This and the next three are the
    store's to keep.
    """
    fence_digest: bool = True
    """… with the digest that the committer built on."""
    fence_row: bool = True
    """… and only right behind the very row it was built on; taking over appends an empty row in
    that place.
    """
    fence_ordered: bool = True
    """… if that row's term is not above its own."""
    digest_check: bool = True
    """Head and Settle are compared by digest, not by revision alone."""
    reads_head: bool = True
    """Taking over reads the head."""
    waits_noop: bool = True
    """Taking over first applies the no-op of the leader's own term (the Log calls `led`
    only then).
    """
    ledger_outcomes: bool = True
    """A resolved commit takes outcomes from the ledger, not from the evaluation in hand."""
    rebase_rows: bool = True
    """Rebase carries op_id and outcome of every ledger row after the settled revision."""
    rebase_floor: bool = True
    """Rebase raises the floor to the head."""
    rebase_touch: bool = True
    """Intents that Rebase orders again enter last[key] with their new revision."""
    rebase_stale: bool = True
    """A Rebase or Settle at or below the settled revision does nothing."""
    rebase_base: bool = True
    """A Rebase whose rows do not continue the settled revision and digest does nothing."""
    rebase_feeds: bool = True
    """Watchers get the ledger rows that a Rebase steps over."""
    judge_floor: bool = True
    """An entry holds iff max(last[key], floor) <= as_of, also when the key is known."""
    readindex_taken: bool = True
    """A leader answers ReadIndex only once it has taken over."""
    readindex_entry: bool = True
    """A reader waits for the very entry (term too) at the read index."""
    as_of: Literal["head", "settled_start", "settled_end", "applied_start", "row_only"] = "head"
    """What a cache entry read from the store carries as `as_of` (the node's read path asks)."""
    touch: Literal["submit", "settle"] = "submit"
    """last[key] is raised when the intent is ordered."""
    dedupe: bool = True
    """The machine keeps op_id -> outcome, and which op_ids are pending."""
    store_dedupe: bool = True
    """An op_id that the store knows lands without effect."""
    reset: bool = True
    """A node whose applied log was overwritten drops its machine and starts again."""
    publish: Literal["cursor", "own"] = "cursor"
    """The leader publishes ledger rows in order from a durable cursor, not what it committed
    itself.
    """
    publish_whole: bool = True
    """The publisher passes nothing that the store lacks while it should have it, and tells what an
    adoption undid.
    """
    refuse_behind: bool = True
    """A node that knows a settled revision above the head refuses writes and reads of the store."""

    # Rules that the model does not have.
    answer_committed: bool = True
    """Waiting clients hear of an outcome after COMMIT, never before (INV-2)."""
    settle_committed: bool = True
    """Settle is proposed after COMMIT, never before (INV-2)."""
    late_expires: bool = True
    """An intent that is late when it is ordered, or when its group is built, is recorded
    expired.
    """
    snapshot_floor: bool = True
    """A snapshot that leaves `last` out raises the floor to the newest ordered revision."""
    forget_floor: bool = True
    """Forgetting an entry of `last` raises the floor to its revision."""
    machines_alike: bool = True
    """A member whose machine lacks what the leader settled, after applying the same log, confirms
    no read by it.
    """
    limits_ordered: bool = True
    """What a machine remembers goes by the limits of the log, not by its member's own settings."""
    store_identity: bool = True
    """A store that carries another cluster's id, or another history's, is refused."""
    adopt_above: bool = True
    """An adoption ends above every revision ever given; one that was ordered too late for that does
    nothing.
    """


PROTOCOL: Final = Rules()
