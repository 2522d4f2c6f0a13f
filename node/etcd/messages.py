"""Define the requests of etcd's JSON gateway, as far as they are spoken. Pure data.

A field that a request does not name has its default, as in protocol buffers.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from msgspec import Struct

FROM_KEY: Final = b"\0"
"""A `range_end` that stands for all keys from `key` on."""


class SortOrder(IntEnum):
    """In which order keys are returned."""

    NONE = 0
    ASCEND = 1
    DESCEND = 2


class SortTarget(IntEnum):
    """What they are sorted by."""

    KEY = 0
    VERSION = 1
    CREATE = 2
    MOD = 3
    VALUE = 4


class CompareResult(IntEnum):
    """The relation of a comparison."""

    EQUAL = 0
    GREATER = 1
    LESS = 2
    NOT_EQUAL = 3


class CompareTarget(IntEnum):
    """What of a key is compared."""

    VERSION = 0
    CREATE = 1
    MOD = 2
    VALUE = 3
    LEASE = 4


class FilterType(IntEnum):
    """Events that a watch leaves out."""

    NOPUT = 0
    NODELETE = 1


class AlarmAction(IntEnum):
    """What to do with alarms."""

    GET = 0
    ACTIVATE = 1
    DEACTIVATE = 2


NAMES: Final[dict[type[IntEnum], str]] = {
    SortOrder: "etcdserverpb.RangeRequest_SortOrder",
    SortTarget: "etcdserverpb.RangeRequest_SortTarget",
    CompareResult: "etcdserverpb.Compare_CompareResult",
    CompareTarget: "etcdserverpb.Compare_CompareTarget",
    FilterType: "etcdserverpb.WatchCreateRequest_FilterType",
    AlarmAction: "etcdserverpb.AlarmRequest_AlarmAction",
}
"""What etcd calls them in its errors."""


class RangeRequest(Struct, frozen=True):
    """Read keys."""

    key: bytes = b""
    range_end: bytes = b""
    limit: int = 0
    revision: int = 0
    sort_order: SortOrder = SortOrder.NONE
    sort_target: SortTarget = SortTarget.KEY
    serializable: bool = False
    keys_only: bool = False
    count_only: bool = False
    min_mod_revision: int = 0
    max_mod_revision: int = 0
    min_create_revision: int = 0
    max_create_revision: int = 0


class PutRequest(Struct, frozen=True):
    """Write a key."""

    key: bytes = b""
    value: bytes = b""
    lease: int = 0
    prev_kv: bool = False
    ignore_value: bool = False
    ignore_lease: bool = False


class DeleteRangeRequest(Struct, frozen=True):
    """Delete keys."""

    key: bytes = b""
    range_end: bytes = b""
    prev_kv: bool = False


class Compare(Struct, frozen=True):
    """A condition of a transaction. Of the operands the target's own counts."""

    result: CompareResult = CompareResult.EQUAL
    target: CompareTarget = CompareTarget.VERSION
    key: bytes = b""
    version: int = 0
    create_revision: int = 0
    mod_revision: int = 0
    value: bytes = b""
    lease: int = 0
    range_end: bytes = b""


class RequestOp(Struct, frozen=True):
    """One step of a branch: the first member that is given counts."""

    request_range: RangeRequest | None = None
    request_put: PutRequest | None = None
    request_delete_range: DeleteRangeRequest | None = None
    request_txn: TxnRequest | None = None


class TxnRequest(Struct, frozen=True):
    """A transaction: `success` if all of `compare` hold, else `failure`."""

    compare: tuple[Compare, ...] = ()
    success: tuple[RequestOp, ...] = ()
    failure: tuple[RequestOp, ...] = ()


class CompactionRequest(Struct, frozen=True):
    """Forget what was before a revision."""

    revision: int = 0
    physical: bool = False


class LeaseGrantRequest(Struct, frozen=True):
    """Begin a lease; times are in seconds."""

    TTL: int = 0
    ID: int = 0


class LeaseRequest(Struct, frozen=True):
    """Name a lease: to revoke it, keep it alive, or look at it, with its `keys`."""

    ID: int = 0
    keys: bool = False


class EmptyRequest(Struct, frozen=True):
    """A request that says nothing."""


class AuthenticateRequest(Struct, frozen=True):
    """Sign in. The password is a token."""

    name: str = ""
    password: str = ""


class WatchCreateRequest(Struct, frozen=True):
    """Begin a watch on a stream."""

    key: bytes = b""
    range_end: bytes = b""
    start_revision: int = 0
    progress_notify: bool = False
    filters: tuple[FilterType, ...] = ()
    prev_kv: bool = False
    watch_id: int = 0
    fragment: bool = False


class WatchCancelRequest(Struct, frozen=True):
    """End a watch of a stream."""

    watch_id: int = 0


class WatchRequest(Struct, frozen=True):
    """One message of a watching client."""

    create_request: WatchCreateRequest | None = None
    cancel_request: WatchCancelRequest | None = None
    progress_request: EmptyRequest | None = None


class LockRequest(Struct, frozen=True):
    """Take a lock; without a lease the server begins one."""

    name: bytes = b""
    lease: int = 0


class UnlockRequest(Struct, frozen=True):
    """Give a lock back, by the key that `LockRequest` got."""

    key: bytes = b""


class CampaignRequest(Struct, frozen=True):
    """Become the leader of an election."""

    name: bytes = b""
    lease: int = 0
    value: bytes = b""


class LeaderKey(Struct, frozen=True):
    """What a leader is known by."""

    name: bytes = b""
    key: bytes = b""
    rev: int = 0
    lease: int = 0


class LeaderRequest(Struct, frozen=True):
    """Ask who leads an election."""

    name: bytes = b""


class ProclaimRequest(Struct, frozen=True):
    """Give a leader a new value, or resign (which has none)."""

    leader: LeaderKey | None = None
    value: bytes = b""


class MemberRequest(Struct, frozen=True):
    """Name a member: to remove or promote it."""

    ID: int = 0


class AlarmRequest(Struct, frozen=True):
    """Ask for alarms."""

    action: AlarmAction = AlarmAction.GET


class HashKvRequest(Struct, frozen=True):
    """Ask for a hash of the contents at a revision."""

    revision: int = 0
