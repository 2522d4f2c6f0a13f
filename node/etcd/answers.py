"""Form the answers of etcd's JSON gateway: 64-bit numbers as text, bytes in base64, and nothing
that has its default. Pure.
"""

from __future__ import annotations

from msgspec import UNSET, Raw, Struct, UnsetType

from kv.model import Version

Number = str | UnsetType


def number(value: int) -> str | UnsetType:
    """Return a number in an answer; 0 is left out."""
    return str(value) if value else UNSET


class Header(Struct, frozen=True):
    """What every answer begins with."""

    cluster_id: Number = UNSET
    member_id: Number = UNSET
    revision: Number = UNSET
    raft_term: Number = UNSET


class KeyValue(Struct, frozen=True):
    """A key with all its numbers."""

    key: bytes
    create_revision: Number = UNSET
    mod_revision: Number = UNSET
    version: Number = UNSET
    value: bytes | UnsetType = UNSET
    lease: Number = UNSET


class RangeResponse(Struct, frozen=True):
    """The keys of a range. Many are encoded already."""

    header: Header
    kvs: list[KeyValue] | Raw | UnsetType = UNSET
    more: bool | UnsetType = UNSET
    count: Number = UNSET


class PutResponse(Struct, frozen=True):
    """A put that took effect."""

    header: Header
    prev_kv: KeyValue | UnsetType = UNSET


class DeleteRangeResponse(Struct, frozen=True):
    """A delete that took effect, perhaps of nothing."""

    header: Header
    deleted: Number = UNSET
    prev_kvs: list[KeyValue] | UnsetType = UNSET


class ResponseOp(Struct, frozen=True):
    """What one step of a transaction answers."""

    response_range: RangeResponse | UnsetType = UNSET
    response_put: PutResponse | UnsetType = UNSET
    response_delete_range: DeleteRangeResponse | UnsetType = UNSET
    response_txn: TxnResponse | UnsetType = UNSET


class TxnResponse(Struct, frozen=True):
    """A transaction that took one of its branches."""

    header: Header
    succeeded: bool | UnsetType = UNSET
    responses: list[ResponseOp] | UnsetType = UNSET


class HeaderResponse(Struct, frozen=True):
    """An answer that says nothing but that it was done."""

    header: Header


class AuthenticateResponse(Struct, frozen=True):
    """The token that later requests bring."""

    header: Header
    token: str


class LeaseResponse(Struct, frozen=True):
    """A lease that was granted or renewed."""

    header: Header
    ID: Number = UNSET
    TTL: Number = UNSET


class TimeToLiveResponse(Struct, frozen=True):
    """How long a lease lives."""

    header: Header
    ID: Number = UNSET
    TTL: Number = UNSET
    grantedTTL: Number = UNSET  # noqa: N815  # etcd's name
    keys: list[bytes] | UnsetType = UNSET


class LeaseStatus(Struct, frozen=True):
    """A lease in a list."""

    ID: str


class LeasesResponse(Struct, frozen=True):
    """All leases."""

    header: Header
    leases: list[LeaseStatus] | UnsetType = UNSET


class Streamed(Struct, frozen=True):
    """A message of a stream."""

    result: object


class ErrorForm(Struct, frozen=True):
    """An error that a stream tells."""

    grpc_code: int
    http_code: int
    message: str


class StreamedError(Struct, frozen=True):
    """A message of a stream that failed."""

    error: ErrorForm


class Event(Struct, frozen=True):
    """A change that a watch tells; without a type it is a put."""

    type: str | UnsetType
    kv: KeyValue
    prev_kv: KeyValue | UnsetType = UNSET


class WatchResponse(Struct, frozen=True):
    """A message of a watch."""

    header: Header
    watch_id: Number = UNSET
    created: bool | UnsetType = UNSET
    canceled: bool | UnsetType = UNSET
    compact_revision: Number = UNSET
    cancel_reason: str | UnsetType = UNSET
    events: list[Event] | UnsetType = UNSET


class LockResponse(Struct, frozen=True):
    """A lock that was taken: its key is its ownership."""

    header: Header
    key: bytes


class LeaderKeyForm(Struct, frozen=True):
    """What a leader is known by."""

    name: bytes
    key: bytes
    rev: Number
    lease: Number


class CampaignResponse(Struct, frozen=True):
    """An election that was won."""

    header: Header
    leader: LeaderKeyForm


class LeaderResponse(Struct, frozen=True):
    """Who leads."""

    header: Header
    kv: KeyValue


class MemberForm(Struct, frozen=True):
    """A member."""

    ID: str
    name: str
    peerURLs: list[str]  # noqa: N815  # etcd's name
    clientURLs: list[str]  # noqa: N815  # etcd's name
    isLearner: bool | UnsetType = UNSET  # noqa: N815  # etcd's name


class MembersResponse(Struct, frozen=True):
    """All members."""

    header: Header
    members: list[MemberForm]


class StatusResponse(Struct, frozen=True):
    """What a node says of itself."""

    header: Header
    version: str
    dbSize: Number  # noqa: N815  # etcd's name
    leader: Number
    raftIndex: Number  # noqa: N815  # etcd's name
    raftTerm: Number  # noqa: N815  # etcd's name
    raftAppliedIndex: Number  # noqa: N815  # etcd's name
    errors: list[str] | UnsetType = UNSET
    dbSizeInUse: Number = UNSET  # noqa: N815  # etcd's name
    isLearner: bool | UnsetType = UNSET  # noqa: N815  # etcd's name


class HashResponse(Struct, frozen=True):
    """A hash of what a node holds."""

    header: Header
    hash: int


class HashKvResponse(Struct, frozen=True):
    """A hash of the contents at a revision."""

    header: Header
    hash: int
    compact_revision: Number = UNSET


class AlarmForm(Struct, frozen=True):
    """What is wrong with a member."""

    memberID: str  # noqa: N815  # etcd's name
    alarm: str


class AlarmResponse(Struct, frozen=True):
    """What is wrong with the answering member."""

    alarms: list[AlarmForm] | UnsetType = UNSET


def key_value(version: Version, value: bytes | None) -> KeyValue:
    """Return a present key; `value` None: it was not asked for."""
    return KeyValue(
        version.key,
        number(version.create_revision),
        str(version.revision),
        number(version.version),
        value or UNSET,
        number(version.lease),
    )


def deleted_key(version: Version) -> KeyValue:
    """Return a key that was deleted, as a watch tells it."""
    return KeyValue(version.key, mod_revision=str(version.revision))
