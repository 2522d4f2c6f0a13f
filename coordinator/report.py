"""Assemble a member's status and counters from its parts.

Read-only: it decides nothing.
"""

from __future__ import annotations

from typing import Final

import msgspec

from coordinator.background.publisher import Publisher
from coordinator.background.scrubber import Scrubber
from coordinator.background.sweeper import Sweeper
from coordinator.commit.leadership import LeadersPart
from coordinator.log import RaftStatus
from coordinator.machine.book import LEVEL
from coordinator.machine.machine import Machine
from coordinator.peers.roster import Roster
from coordinator.replicated.member import OwnParts
from kv.ports import Status


def status_of(
    *,
    node: str,
    cluster: str,
    raft: RaftStatus,
    machine: Machine,
    committer: LeadersPart,
    roster: Roster,
    refusal: str | None,
    store_trouble: str | None,
    limits_differ: tuple[str, ...],
    diverged: bool,
    broadcast_lag: int | None,
    stamped: bool,
    counts: dict[str, int],
    own: OwnParts | None,
) -> Status:
    """Return a member's status, as `/v1/cluster` shows it."""
    leads, members = committer.term is not None, tuple(roster.members(raft))
    given = committer.gives_up if leads else roster.word.gives_up
    status = Status(
        node=node,
        role=raft.role,
        term=raft.term,
        leader=raft.leader,
        leader_url=(roster.url_of(raft.leader, members) or None) if raft.leader else None,
        leader_since_ms=(roster.leader.since_ms or None) if raft.leader else None,
        quorum=raft.quorum,
        taken_over=raft.role == "leader" and committer.taken_over,
        ordered=machine.revision,
        settled=machine.settled.revision,
        digest=machine.settled.digest.hex(),
        pending=len(machine.pending),
        gives_up=None if given is None else given.revisions,
        gives_up_after=None if given is None else given.after,
        cluster_id=cluster,
        history=machine.founded.history.hex() if machine.founded else None,
        limits_differ=limits_differ,
        diverged=diverged,
        floor=machine.recent.floor,
        namespace=machine.namespace,
        log_time_ms=machine.log_time_ms,
        refusal=refusal,
        fsync=raft.fsync,
        members=members,
        broadcast_lag=broadcast_lag,
        conflicts=raft.conflicts,
        stamped=stamped,
        unsynced_age_s=round(raft.unsynced_age_s, 3),
        store_trouble=store_trouble,
        unfit=raft.unfit,
        limits=msgspec.structs.asdict(machine.limits),
        counts=counts,
        leaderships=tuple(roster.leaderships),
    )
    return status if own is None else _with_own(status, own, machine, raft)


EMPTIED: Final = (
    "log and votes are gone from its disk: it never votes again under its id, and serves nothing; "
    "`python -m cluster replace` gives its place to a new member"
)


def _with_own(status: Status, own: OwnParts, machine: Machine, raft: RaftStatus) -> Status:
    """Add what is to say of a member's own store."""
    book, condition, durable = machine.book, own.condition, own.keeping.durable
    emptied = raft.unfit == "disk_lost"
    return msgspec.structs.replace(
        status,
        store_kind="replicated",
        store_state="emptied" if emptied else condition.state,
        store_detail=EMPTIED if emptied else condition.detail,
        unwritten_bytes=own.store.unwritten_bytes,
        content_seq=book.seq,
        content_digest=book.content.hex(),
        dump_index=0 if durable is None else durable.index,
        feature_level=book.level,
        feature_level_spoken=LEVEL,
    )


def counts_of(
    committer: LeadersPart, sweeper: Sweeper, scrubber: Scrubber, publisher: Publisher
) -> dict[str, int]:
    """Return the counters of a member's loops, by the names of its metrics."""
    return {
        **committer.counts,
        "keys_expired": sweeper.expired,
        "versions_pruned": sweeper.pruned_versions,
        "ledger_rows_pruned": sweeper.pruned_rows,
        "operations_pruned": sweeper.pruned_operations,
        "blobs_pruned": sweeper.pruned_blobs,
        "versions_scrubbed": scrubber.scrubbed,
        "versions_damaged": len(scrubber.damaged),
        "changes_broadcast": publisher.published,
        "broadcasts_failed": publisher.failures,
    }
