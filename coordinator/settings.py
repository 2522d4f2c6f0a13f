"""Bound the coordinator's loops: counts, waits and retentions, all with working defaults.

These are plain values of one member. What all members must agree on is in `limits` and goes through
the log; the `limits` here are only what this member would propose.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator.machine.book import LEVEL
from coordinator.machine.limits import Limits


@dataclass(frozen=True, slots=True)
class CoordinatorSettings:
    """The bounds of one member's loops. None of them may change what is true, only how soon and how
    much. Units come last in the names.
    """

    limits: Limits = field(default_factory=Limits)
    """Proposed when the history is founded. Afterwards the limits in the log apply, and the member
    reports where its own differ.
    """

    # Admission: beyond these bounds a submit is refused, definitely (INV-4).
    pending_intents_max: int = 20_000
    pending_bytes_max: int = 64 * 1024 * 1024
    stall_s: float = 3.0
    """When the oldest ordered intent has waited this long for its commit, no more are admitted
    until it is committed.
    """
    waiters_max: int = 50_000

    # The committer.
    group_intents_max: int = 512
    group_bytes_max: int = 4 * 1024 * 1024
    settles_in_flight_max: int = 8
    """Committed groups whose Settle may be in flight; at this number the committer waits."""
    store_timeout_s: float = 5.0
    propose_timeout_s: float = 10.0
    """When one of the committer's own commands gets no answer for this long, it takes over again.
    """
    backoff_s_min: float = 0.02
    backoff_s_max: float = 1.0
    rows_page: int = 16
    """Ledger rows past the settled revision that taking over adopts at a time: verifying them
    occupies the event loop.
    """
    rebase_bytes_max: int = 512 * 1024
    hand_on_s: float = 2.0
    """How long a leader that would refuse its store tries to transfer the leadership to one other
    voter.
    """
    refused_check_s: float = 2.0
    """How often a leader that refuses its store reads the head again."""

    # A member's own store.
    unwritten_bytes_max: int = 64 * 1024 * 1024
    """When this much is settled and not in the file yet, no further command is applied (R9)."""
    level: int = LEVEL
    """The feature level that this member speaks (R14). Tests of upgrades set that of a version that
    does not exist yet.
    """
    level_look_s: float = 5.0
    """How often a leader looks whether a higher feature level may be switched on."""

    # The sweeper.
    sweep_interval_s: float = 1.0
    """Time between the starts of two sweeps. A key outlives its ttl by at most this and half a
    second.
    """
    sweep_retry_s: float = 0.1
    """Pause before a retry, after a delete failed or the store did not answer."""
    sweep_keys_max: int = 200
    """Due keys deleted by one command; when there are more, the next sweep follows at once."""
    sweep_deadline_s: float = 5.0
    staged_ms: int = 15 * 60_000
    """Age at which a large value that was staged and never ordered is deleted: far longer than a
    request may take.
    """
    scrub_interval_s: float = 2.0
    """Pause between two steps of the scrub; a step reads a few MB at most."""
    scrub_rest_s: float = 6 * 3600.0
    """Pause after all versions were scrubbed."""
    prune_interval_s: float = 30.0
    prune_steps_max: int = 50
    """Small steps in one round of pruning."""
    prune_rows_max: int = 500
    """Rows deleted in one small step."""

    # The publisher.
    publish_rows_max: int = 64
    publish_changes_max: int = 1_000
    publish_buffer_max: int = 256
    """Settled groups kept in memory. A publisher that is further behind reads the ledger."""
    publish_timeout_s: float = 10.0
    cursor_interval_s: float = 0.5
    """The durable cursor moves at most this often. After a crash, the changes since its last move
    are published again.
    """

    # Reads of the log.
    recover_rows_max: int = 10_000
    """Ledger rows searched for the outcomes of waiting clients after a snapshot was installed."""
