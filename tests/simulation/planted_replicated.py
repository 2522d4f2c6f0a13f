"""Name the cases in which a rule of the replicated store is taken away (R1 … R15), and what of a
plan makes each likely.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from tests.planted import own_stores, replicated  # noqa: F401 (they fill the registry)

OWN: Final[dict[str, Any]] = {
    "kind": "replicated", "fsync": "always", "nodes": 3, "ghosts": False, "upgrades": False,
    "chaos_s": 10.0, "clients": 6, "apart": False, "compact_entries": 25, "keep_entries": 10,
    "window_ms": 24 * 3_600_000, "segment_bytes": 16 << 20, "unwritten_bytes": 0, "eager": False,
    "faults": ("crash", "power", "transfer"),
}  # fmt: skip
"""Members end and start, and their logs are cut all the time."""
FILES: Final[dict[str, Any]] = {**OWN, "faults": ("file_hurt", "file_old", "crash", "power")}
"""Files are damaged, replaced, taken away."""
COPIES: Final[dict[str, Any]] = {**OWN, "faults": ("copies", "copies", "compact", "transfer")}
"""States are on their way all the time, and are interrupted."""
LOSES: Final[dict[str, Any]] = {
    **OWN, "fsync": "off", "faults": ("amnesia", "amnesia", "power", "blackout", "partition"),
    "compact_entries": 60,
}  # fmt: skip
"""A quorum loses what it had acknowledged, again and again."""
FORGETS: Final[dict[str, Any]] = {
    **OWN, "window_ms": 3_000, "again": 5.0, "chaos_s": 10.0, "faults": ("transfer", "power"),
}  # fmt: skip
"""Op_ids are used again after their retention."""
BROKEN_BROKER: Final[dict[str, Any]] = {
    **OWN, "faults": ("broker", "broker", "transfer", "crash"), "chaos_s": 14.0,
}  # fmt: skip
LATE_POSITION: Final[dict[str, Any]] = {
    **OWN, "chaos_s": 16.0, "clients": 8, "faults": ("late_position",),
}  # fmt: skip
"""A deposed leader's position is ordered while its successor waits for the broker."""
REUSED: Final[dict[str, Any]] = {**LOSES, "window_ms": 700, "again": 12.0}
"""Op_ids are used again after their retention, and a quorum loses that."""
LARGE: Final[dict[str, Any]] = {**OWN, "clients": 12, "chaos_s": 12.0}
AWAY: Final[dict[str, Any]] = {**OWN, "chaos_s": 12.0, "faults": ("broker_away",)}
SLOW_FILES: Final[dict[str, Any]] = {
    **OWN, "unwritten_bytes": 2_000, "faults": ("file_slow", "file_full"),
}  # fmt: skip
EMPTIED: Final[dict[str, Any]] = {**OWN, "faults": ("lost_disk", "emptied")}
DIVERGE: Final[dict[str, Any]] = {**OWN, "faults": ("diverge",)}
EAGER: Final[dict[str, Any]] = {**OWN, "eager": True}

LEVELS: Final[dict[str, Any]] = {
    **OWN, "levels": True, "faults": ("upgrade", "upgrade", "crash", "transfer"),
}  # fmt: skip
"""Members are upgraded one by one, and now and then one is taken back."""
TAKEN_BACK: Final[dict[str, Any]] = {**LEVELS, "compact_entries": 100_000, "faults": ("upgrade",)}
"""Who is taken back meets the level in its log, not in its dump."""
SPOILT: Final[dict[str, Any]] = {**COPIES, "strikes": ("spoil",)}
"""Bits of states that are on their way change."""
TIES: Final[dict[str, Any]] = {**OWN, "faults": ("tie",), "chaos_s": 14.0}
"""One witness stands against one: a member has fetched its state, and another one's contents went
another way.
"""
TWINS: Final[dict[str, Any]] = {**OWN, "faults": ("twins", "crash", "transfer")}
APART: Final[dict[str, Any]] = {
    **OWN, "apart": True, "again": 5.0, "clients": 8, "faults": ("crash", "membership", "transfer"),
}  # fmt: skip
"""Members are set to other retentions, from their second start on or when they join."""

RARE_DUMPS: Final[dict[str, Any]] = {**OWN, "compact_entries": 100_000, "faults": ("transfer",)}


class OwnCase(NamedTuple):
    """One rule away, and what of a plan makes it likely."""

    name: str
    plan: dict[str, Any]
    faults: tuple[str, ...]


LEASED: Final[dict[str, Any]] = {
    **OWN, "leases": True, "faults": ("partition", "one_way", "crash", "transfer"),
}  # fmt: skip
"""Leases are kept alive through leaders that lead no more."""
LEASED_DEAF: Final[dict[str, Any]] = {
    **OWN, "leases": True, "faults": ("deaf_leader",), "clients": 16, "writes": 0.3,
}  # fmt: skip
LATE_ENDS: Final[dict[str, Any]] = {**OWN, "leases": True, "faults": ("late_end", "transfer")}
CACHED_LEASES: Final[dict[str, Any]] = {**OWN, "leases": True, "faults": ("cache", "transfer")}
DOUBTFUL_CACHE: Final[dict[str, Any]] = {
    **OWN, "hostile": True, "memory_bytes": 1, "writes": 0.6, "faults": ("transfer",),
}  # fmt: skip
"""Old cache entries are at hand."""

CASES: Final = (
    OwnCase("a deleted range is not touched", DOUBTFUL_CACHE, ("range_untouched",)),
    OwnCase("own: a keep-alive is answered without a round", LEASED_DEAF, ("lease_no_round",)),
    OwnCase("own: a new leader does not give leases their ttl", LEASED, ("lease_short_ttl",)),
    OwnCase("own: an end of another term ends a lease", LATE_ENDS, ("lease_old_term",)),
    OwnCase("own: the end of a lease touches no key", CACHED_LEASES, ("lease_end_untouched",)),
    # A lease that is kept alive while it ends: there is next to no time between an end that is
    # ordered and one that took effect. The shared world shows it.
    OwnCase("R1: a row carries the member's own time", OWN, ("r1_row_time",)),
    OwnCase("R2: evaluated by the member's clock", OWN, ("r2_own_clock",)),
    OwnCase("R2: an op_id is known by what pruning left", FORGETS, ("r2_known_by_pruning",)),
    OwnCase("R2: a later record of an op_id replaces the first", REUSED, ("r2_overwritten",)),
    OwnCase("R2: each member goes by its own limits", APART, ("limits_ordered",)),
    OwnCase("R3: contents are not compared", DIVERGE, ("r3_compare",)),
    OwnCase("R3: less than half is a majority", DIVERGE, ("r3_count",)),
    OwnCase("R3: a difference that is over hides a new one", DIVERGE, ("r3_outlived",)),
    OwnCase("R3: without a majority each takes itself for right", TIES, ("r3_majority",)),
    OwnCase("R3: who fetched its state is a witness for it", TIES, ("r3_witness",)),
    OwnCase("R4: the log is cut before rows are durable", OWN, ("r4_durable",)),
    OwnCase("R4: the dump is put in place before rows are durable", OWN, ("r4_order",)),
    OwnCase("R4: a power cut takes the middle", OWN, ("power_takes_the_middle",)),
    OwnCase("R5: file and dump are not compared", FILES, ("r5_dump_file",)),
    OwnCase("R5: file and log are not compared", LOSES, ("r5_file_log",)),
    OwnCase("R5: it serves before its log has reached its file", LOSES, ("r5_head_wait",)),
    OwnCase("R5: a file of another history is taken", FILES, ("r5_history", "r5_dump_file")),
    OwnCase("R5: two processes have one file open", TWINS, ("file_opened_twice",)),
    OwnCase("R6: the copy is older than its dump", COPIES, ("r6_copy_first", "r5_dump_file")),
    OwnCase(
        "R6: what has arrived is not verified", SPOILT, ("r6_unverified", "file_installs_torn")
    ),
    OwnCase("R6: a state in doubt is given away", TIES, ("r6_sure",)),
    OwnCase("R6: the log is dropped for a fetched state", COPIES, ("r6_log_wiped",)),
    OwnCase("R8: pruned above the dump", RARE_DUMPS, ("r8_prune_dump",)),
    OwnCase("R8: the floor passes the publisher", AWAY, ("r8_prune_cursor",)),
    OwnCase("R9: what is unwritten has no bound", SLOW_FILES, ("r9_bound",)),
    OwnCase("R10: a new leader publishes from its head", BROKEN_BROKER, ("r10_cursor_ordered",)),
    OwnCase("R10: ordered before it is confirmed", BROKEN_BROKER, ("r10_cursor_after",)),
    OwnCase("R10: a position that was ordered late", LATE_POSITION, ("r10_cursor_follows",)),
    OwnCase("R11: a large value is kept by a node", LARGE, ("r11_staged",)),
    OwnCase("R12: an overwritten machine goes on", LOSES, ("r12_reset",)),
    OwnCase("R12: a file is not cut back", LOSES, ("r12_cut_back",)),
    OwnCase("R12: a history that was lost whole is not told", REUSED, ("r12_watchers",)),
    OwnCase("R12: watchers do not hear of a lost suffix", LOSES, ("r12_watchers",)),
    OwnCase("R12: kept positions are bare revisions", LOSES, ("r12_kept_positions",)),
    OwnCase("R13: an emptied member votes", EMPTIED, ("r13_blank_votes",)),
    OwnCase("R14: intents before the history", EAGER, ("r14_founded_first",)),
    OwnCase("R14: a level that one member does not speak", LEVELS, ("r14_all_speak",)),
    OwnCase("R14: it goes on at a level that it does not speak", TAKEN_BACK, ("r14_speaks",)),
)
