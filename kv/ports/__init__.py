"""Declare what the parts expect of each other: Clock, Store, Cache, Broadcast, Consensus.

These are narrow protocols only, without any behaviour. Each port has one contract suite
(tests/contract), run against every adapter, fakes included.
"""

from kv.ports.broadcast import Broadcast, Change, UndoneRange
from kv.ports.cache import Cache, Space
from kv.ports.clock import Clock
from kv.ports.consensus import (
    Consensus,
    Leadership,
    LeaseTime,
    Listener,
    Member,
    Settled,
    Status,
)
from kv.ports.member_store import (
    LocalRetention,
    MemberStore,
    Note,
    StateCopy,
    Step,
)
from kv.ports.store import (
    Appended,
    Facts,
    Fenced,
    Identity,
    LeaseAsk,
    LeaseFacts,
    Listing,
    Outranked,
    Pruning,
    Read,
    Retention,
    Scrubbed,
    Span,
    Store,
    StoreReader,
    TakenOver,
)

__all__ = [
    "Appended",
    "Broadcast",
    "Cache",
    "Change",
    "Clock",
    "Consensus",
    "Facts",
    "Fenced",
    "Identity",
    "Leadership",
    "LeaseAsk",
    "LeaseFacts",
    "LeaseTime",
    "Listener",
    "Listing",
    "LocalRetention",
    "Member",
    "MemberStore",
    "Note",
    "Outranked",
    "Pruning",
    "Read",
    "Retention",
    "Scrubbed",
    "Settled",
    "Space",
    "Span",
    "StateCopy",
    "Status",
    "Step",
    "Store",
    "StoreReader",
    "TakenOver",
    "UndoneRange",
]
