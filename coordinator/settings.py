"""Bound the coordinator's loops: counts, waits and retentions, all with working defaults.

Plain values; what all members keep alike is in `limits` and goes through the log: here it is only
what this member would propose.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator.machine.limits import Limits


@dataclass(frozen=True, slots=True)
class CoordinatorSettings:
    """The bounds of one member's loops. Units last. Nothing here may change what is true, only how
    soon and how much.
    """

    limits: Limits = field(default_factory=Limits)
    """Proposed when the history is founded; later the log's count, and this member says where its
    own differ.
    """

    # Admission: beyond these a submit is refused, definitely (INV-4).
    pending_intents_max: int = 20_000
    pending_bytes_max: int = 64 * 1024 * 1024
    stall_s: float = 3.0
    """The oldest ordered intent waits this long for its commit: no more are admitted until it is
    through.
    """
    waiters_max: int = 50_000

    # The committer.
    group_intents_max: int = 512
    group_bytes_max: int = 4 * 1024 * 1024
    settles_in_flight_max: int = 8
    """Groups committed whose Settle is still on its way; then the committer waits."""
    store_timeout_s: float = 5.0
    propose_timeout_s: float = 10.0
    """A command of the committer's own that nobody hears of for so long: it takes over again."""
    backoff_s_min: float = 0.02
    backoff_s_max: float = 1.0
    rows_page: int = 16
    """Ledger rows past the settled revision that taking over adopts at once: checking them takes
    the loop's time.
    """
    rebase_bytes_max: int = 512 * 1024
    hand_on_s: float = 2.0
    """So long a leader that would refuse tries to hand the leadership to one other voter."""
    refused_check_s: float = 2.0
    """How often a leader that refuses looks at the store's head again."""

    # The sweeper.
    sweep_interval_s: float = 1.0
    """From the begin of one look at what is due to the next: a key outlives its ttl by no more, and
    half a second.
    """
    sweep_retry_s: float = 0.1
    """What did not work is tried again after this: a delete that failed, a store that did not
    answer.
    """
    sweep_keys_max: int = 200
    """Due keys deleted by one command; when there are more, the sweep goes on at once."""
    sweep_deadline_s: float = 5.0
    staged_ms: int = 15 * 60_000
    """A large value that was staged and never ordered goes after so long: far longer than a request
    may take.
    """
    scrub_interval_s: float = 2.0
    """Between two steps of looking versions through: a step reads some MB at most."""
    scrub_rest_s: float = 6 * 3600.0
    """After all of them were looked through."""
    prune_interval_s: float = 30.0
    prune_steps_max: int = 50
    """Small steps in one round."""
    prune_rows_max: int = 500
    """Rows deleted in one small step."""

    # The publisher.
    publish_rows_max: int = 64
    publish_changes_max: int = 1_000
    publish_buffer_max: int = 256
    """Settled groups kept at hand; further behind, it reads the ledger."""
    publish_timeout_s: float = 10.0
    cursor_interval_s: float = 0.5
    """The durable cursor moves at most this often; after a crash what lies between is published
    again.
    """

    # Reads of the log.
    recover_rows_max: int = 10_000
    """Ledger rows searched for the outcomes of waiting clients after a snapshot was installed."""
