"""Expose the state of a node's services and of its consensus as metrics at a scrape. It never
counts anything itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from kv.ports import Status
from node.http.connections import HttpConnections
from node.http.request_metrics import counter, gauge
from node.services import NodeServices

OWN_STORE_STATES: Final = (
    "sound", "catching_up", "fetching", "set_aside", "diverged", "undecided", "full", "emptied"
)  # fmt: skip


def service_metrics(services: NodeServices) -> Iterator[Metric]:
    """Yield the metrics of every service."""
    settings, load = services.settings, services.load
    yield gauge(
        "acordo_node_info", "This node.", 1, node=settings.node_id, version=settings.version
    )
    yield from _consensus(services)
    yield from _reads(services)
    yield from _writes(services)
    yield from _requests(services)
    if load.connections is not None:
        yield from _connections(load.connections)
    yield gauge("acordo_draining", "1 while this node is stopping.", load.draining or load.leaving)
    yield from _watches(services)
    yield from _readiness(services)


def _consensus(services: NodeServices) -> Iterator[Metric]:
    status = services.consensus.status()
    yield gauge("acordo_has_leader", "1 while this node knows a leader.", status.leader is not None)
    yield gauge("acordo_is_leader", "1 while this node leads.", status.role == "leader")
    votes = any(member.id == status.node and member.voter for member in status.members)
    yield gauge(
        "acordo_voter",
        "1 while this node votes, 0 for an observer or a member that was removed.",
        votes,
    )
    yield gauge("acordo_has_quorum", "1 while a quorum answers.", status.quorum)
    yield gauge("acordo_term", "Raft election epoch.", status.term)
    yield gauge("acordo_revision_ordered", "Newest revision given.", status.ordered)
    yield gauge(
        "acordo_revision_settled", "Newest revision known to be in the store.", status.settled
    )
    yield gauge(
        "acordo_intents_pending", "Intents ordered, their commit not yet known.", status.pending
    )
    yield gauge(
        "acordo_read_floor", "Revision below which touched keys are forgotten.", status.floor
    )
    yield gauge(
        "acordo_store_refused",
        "1 while the store is not what was settled.",
        status.refusal is not None,
    )
    yield from _own_store(status)
    lag = GaugeMetricFamily(
        "acordo_member_lag_entries", "Log entries behind the leader.", labels=("member",)
    )
    for member in status.members:
        if member.lag is not None:
            lag.add_metric((member.id,), member.lag)
    yield lag
    yield gauge(
        "acordo_log_unsynced_age_seconds",
        "Age of the oldest log entry not on disk.",
        status.unsynced_age_s,
    )
    if status.broadcast_lag is not None:
        yield gauge(
            "acordo_broadcast_lag_revisions",
            "Settled revisions not broadcast yet.",
            status.broadcast_lag,
        )
    for name, total in sorted(status.counts.items()):
        yield counter(
            f"acordo_{name}", f"Since this node started: {name.replace('_', ' ')}.", total
        )


def _own_store(status: Status) -> Iterator[Metric]:
    if status.store_kind == "shared":
        return
    states = GaugeMetricFamily(
        "acordo_own_store", "1 for the state that this member's own store is in.", labels=("state",)
    )
    for state in OWN_STORE_STATES:
        states.add_metric((state,), float(status.store_state == state))
    yield states
    yield gauge(
        "acordo_own_store_unwritten_bytes",
        "Bytes settled, not in its file.",
        status.unwritten_bytes,
    )
    yield gauge(
        "acordo_unsafe_fsync",
        "1 while a power cut may lose acknowledged writes, as an operator chose.",
        status.fsync != "always",
    )


def _reads(services: NodeServices) -> Iterator[Metric]:
    reads = services.reads
    served = CounterMetricFamily(
        "acordo_reads", "Reads of one key, by level and tier.", labels=("level", "source")
    )
    for (level, source), count in sorted(reads.served.items()):
        served.add_metric((level, source), count)
    yield served
    yield counter(
        "acordo_read_index_rounds", "ReadIndex rounds asked for.", reads.rounds.rounds_total
    )
    yield counter(
        "acordo_read_index_rounds_failed", "Those without a quorum.", reads.rounds.failed_total
    )
    yield counter(
        "acordo_read_fetches",
        "Batches of keys fetched from cache and store.",
        reads.fetches.batches_total,
    )
    yield gauge("acordo_memory_entries", "Entries held in this process.", len(reads.memory))
    yield gauge("acordo_memory_bytes", "Their bytes.", reads.memory.entry_bytes)
    yield gauge(
        "acordo_memory_blob_bytes",
        "Bytes of large values held in this process.",
        reads.memory.blob_bytes,
    )


def _writes(services: NodeServices) -> Iterator[Metric]:
    writes = services.writes
    yield gauge("acordo_writes_waiting", "Intents admitted and not yet answered.", writes.held)
    yield gauge("acordo_write_bytes_waiting", "Bytes of these.", writes.held_bytes)
    yield counter(
        "acordo_submits",
        "Raft commands that took queued intents to the log.",
        writes.queue.submits_total,
    )
    yield counter("acordo_submitted_intents", "Intents in them.", writes.queue.intents_total)
    yield counter(
        "acordo_writes_acknowledged",
        "Writes told to be applied, once each.",
        writes.activity.total,
    )


def _requests(services: NodeServices) -> Iterator[Metric]:
    load = services.load
    yield gauge("acordo_http_requests_in_flight", "Requests being worked on.", load.at_work)
    yield gauge(
        "acordo_http_body_bytes", "Bytes of bodies being worked on.", load.bodies.bytes.held
    )
    yield gauge(
        "acordo_http_bodies_arriving",
        "Requests whose bodies are on their way.",
        load.bodies.receiving.held,
    )
    yield counter("acordo_http_requests_refused", "Requests not admitted.", load.refused)
    limited = CounterMetricFamily(
        "acordo_http_rate_limited",
        "Refused because one client had its share, by the limit that was reached.",
        labels=("limit",),
    )
    of_address = 0 if load.connections is None else load.connections.of_address_refused_total
    for limit, count in sorted({**services.allowances.refused, "connections": of_address}.items()):
        limited.add_metric((limit,), count)
    yield limited


def _connections(connections: HttpConnections) -> Iterator[Metric]:
    yield gauge("acordo_http_connections", "Open connections.", len(connections))
    yield gauge("acordo_http_connections_max", "Open connections at most.", connections.most)
    yield gauge(
        "acordo_http_answer_bytes", "Bytes of answers not yet taken.", connections.answer_bytes
    )
    yield counter(
        "acordo_http_connections_refused", "Connections refused.", connections.refused_total
    )
    yield counter(
        "acordo_http_connections_idle_closed",
        "Idle connections closed to make room for another.",
        connections.idle_closed_total,
    )
    if connections.acceptor is not None:
        short = connections.acceptor.short_total
        yield counter(
            "acordo_http_accepts_short", "Times without a descriptor for a connection.", short
        )
        if (handshakes := connections.acceptor.handshakes) is not None:
            yield gauge("acordo_http_tls_handshakes", "TLS handshakes under way.", len(handshakes))
            yield counter(
                "acordo_http_tls_handshakes_failed",
                "TLS handshakes that failed, those of plain and of silent clients among them.",
                handshakes.failed_total,
            )
    yield counter(
        "acordo_http_answers_stalled",
        "Answers cut: nobody read them.",
        connections.stalled_total,
    )


def _watches(services: NodeServices) -> Iterator[Metric]:
    watches = services.watches
    yield gauge("acordo_watchers", "Open watches.", len(watches))
    yield gauge("acordo_watchers_max", "Open watches at most.", services.settings.watchers_max)
    yield counter("acordo_watch_changes", "Changes told to watchers.", watches.events_total)
    yield counter(
        "acordo_watch_ledger_reads",
        "Reads of the ledger for watchers behind.",
        watches.gaps.reads_total,
    )
    yield counter(
        "acordo_watch_events_made",
        "Events made for watchers, each once for all.",
        watches.frames.made_total,
    )
    yield gauge(
        "acordo_watch_unsent_bytes",
        "Bytes of events that watchers do not take.",
        watches.unsent.bytes,
    )
    yield counter(
        "acordo_watch_cut", "Watches cut because their reader was slow.", watches.cut_total
    )


def _readiness(services: NodeServices) -> Iterator[Metric]:
    yield gauge(
        "acordo_store_up",
        "1 while the store answers.",
        services.readiness.store_probe.trouble is None,
    )
    found = services.readiness.known()
    yield gauge(
        "acordo_ready", "1 while this node should get traffic.", not any(f.counts for f in found)
    )
    reasons = GaugeMetricFamily(
        "acordo_unready", "1 while this makes the node unready.", labels=("reason",)
    )
    for finding in found:
        if finding.required:
            reasons.add_metric((finding.code or finding.name,), float(finding.counts))
    yield reasons
    yield gauge("acordo_cache_up", "1 while the shared cache answers.", services.cache.healthy())
    yield gauge("acordo_broadcast_up", "1 while the broker answers.", services.broadcast.healthy())
