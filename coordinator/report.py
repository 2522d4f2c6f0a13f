"""Assemble a member's status and counters from its parts.

Read-only: it decides nothing.
"""

from __future__ import annotations

from coordinator.background.publisher import Publisher
from coordinator.background.scrubber import Scrubber
from coordinator.background.sweeper import Sweeper
from coordinator.commit.committer import Committer
from coordinator.log import RaftStatus
from coordinator.machine.machine import Machine
from coordinator.peers.roster import Roster
from kv.ports import Status


def status_of(
    *,
    node: str,
    cluster: str,
    raft: RaftStatus,
    machine: Machine,
    committer: Committer,
    roster: Roster,
    refusal: str | None,
    store_trouble: str | None,
    limits_differ: tuple[str, ...],
    diverged: bool,
    broadcast_lag: int | None,
    stamped: bool,
    counts: dict[str, int],
) -> Status:
    """Return a member's status, as `/v1/cluster` shows it."""
    leads, members = committer.term is not None, tuple(roster.members(raft))
    given = committer.gives_up if leads else roster.word.gives_up
    return Status(
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
        counts=counts,
    )


def counts_of(
    committer: Committer, sweeper: Sweeper, scrubber: Scrubber, publisher: Publisher
) -> dict[str, int]:
    """Return the counters of a member's loops, by the names of its metrics."""
    return {
        "groups_committed": committer.groups,
        "intents_committed": committer.intents,
        "take_overs": committer.takeovers,
        "rebases": committer.rebases,
        "commits_unknown": committer.unknown_commits,
        "groups_fenced": committer.fenced,
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
