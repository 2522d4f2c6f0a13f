"""Define the set of services that every handler of a node works with. It creates none of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from kv.ports import Broadcast, Cache, Clock, Consensus, MemberStore, Store, StoreReader
from node.access.access import Access, Grant
from node.access.audit import Audit
from node.access.changes import Changes
from node.access.sessions import Sessions
from node.access.webhooks import WebhookRecords
from node.http.allowances import Allowances
from node.http.load import NodeLoad
from node.http.request_metrics import RequestMetrics
from node.readiness.readiness import NodeReadiness
from node.reads.reads import Reads
from node.settings import ServerSettings
from node.watching.watches import Watches
from node.writes.leases import Leases
from node.writes.lookups import Lookups
from node.writes.take_backs import TakeBacks
from node.writes.writes import Writes


class AsyncWrites(Protocol):
    """A broker that accepts a write durably; a worker submits it later."""

    async def accept(self, op_id: str, transaction: bytes, *, timeout_s: float) -> None:
        """Return once the broker has confirmed the message. `transaction` is the JSON of POST
        /v1/txn, already validated.

        Raises BackendUnavailable when the broker does not have the message, or OutcomeUnknown when
        that is not known.
        """
        ...


def anybody(begin: bytes, end: bytes) -> None:
    """Let everybody read everything."""


@dataclass(frozen=True, slots=True)
class NodeServices:
    """The services of one node."""

    consensus: Consensus
    store: StoreReader
    """The store that is read: `shared` or `own`."""
    shared: Store | None
    """The store that all members share, if there is one."""
    own: MemberStore | None
    """This member's own store, if there is no shared one."""
    cache: Cache
    broadcast: Broadcast
    clock: Clock
    settings: ServerSettings
    reads: Reads
    writes: Writes
    lookups: Lookups
    leases: Leases
    take_backs: TakeBacks
    watches: Watches
    metrics: RequestMetrics
    readiness: NodeReadiness
    load: NodeLoad
    allowances: Allowances
    openapi: bytes
    """The body of GET /openapi.json."""
    host_names: frozenset[str]
    """Host names accepted for this node; IP addresses are always accepted."""
    access: Access
    changes: Changes
    audit: Audit
    webhooks: WebhookRecords
    sessions: Sessions
    """It begins and ends what the caller's own credentials allow."""
    async_writes: AsyncWrites | None = None
    grant: Grant | None = None
    """Of the caller whose services these are; None: they are the node's own."""
    check_read: Callable[[bytes, bytes], None] = anybody
    """Raises NotAllowed unless the caller may read a range (`end` as in `kv.model.Compare`): for
    what is read only after a write took effect.
    """
    reach_whole: Callable[[], NodeServices] | None = None

    @property
    def whole(self) -> NodeServices:
        """The node's own services, for what concerns the whole store. Raises NotAllowed unless the
        caller is an admin.
        """
        return self if self.reach_whole is None else self.reach_whole()
