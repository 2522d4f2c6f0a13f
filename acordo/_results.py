"""Define what the client returns: typed and frozen, without any trace of HTTP. Never decides
anything.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias

import msgspec

Level: TypeAlias = Literal["linearizable", "session", "stale"]
"""How fresh a read has to be: as new as any acknowledged write (linearizable), as what this client
has seen (session), or whatever the answering node has (stale).
"""
LEVELS: Final[tuple[Level, ...]] = ("linearizable", "session", "stale")


class _Result(msgspec.Struct, frozen=True, kw_only=True):
    """The base of every result."""


class Served(_Result, frozen=True, kw_only=True):
    """The node that answered, and how fresh its answer was."""

    node: str
    """The id of the node."""
    position: int
    """`Acordo-Revision`: the answer reflects at least everything up to this revision."""
    level: str | None = None
    """The read level that was served; None for writes."""
    age_ms: int | None = None
    """How old a `stale` answer may be, in milliseconds."""


class Reading(_Result, frozen=True, kw_only=True):
    """The result of reading one key, present or absent."""

    key: bytes
    value: bytes | None
    """None: the key is absent, or, if `revision` is above 0, the value is no longer kept or was not
    asked for.
    """
    revision: int
    """Revision of the newest version; 0 when absent."""
    expires_ms: int | None = None
    """Log time at which the key will be deleted, in milliseconds since 1970 (approximately); None:
    never.
    """
    lease: str | None = None
    """The lease that the key ends with; None: there is none."""
    create_revision: int = 0
    """The revision that made the key present, after it was absent; 0: absent, or not said."""
    version: int = 0
    """How often the key was put since then, this one included; 0: absent, or not said."""
    served: Served

    @property
    def expires_at(self) -> datetime | None:
        """When the key will be deleted, approximately; None: never."""
        return _moment(self.expires_ms)

    @property
    def present(self) -> bool:
        """Whether the key is present."""
        return self.revision > 0

    @property
    def text(self) -> str:
        """Return the value decoded as UTF-8. Raises UnicodeDecodeError, or ValueError when it is
        None.
        """
        if self.value is None:
            raise ValueError("the key is absent")
        return self.value.decode()


class Found(Reading, frozen=True, kw_only=True):
    """A key that is present."""

    value: bytes

    @property
    def text(self) -> str:
        """Return the value decoded as UTF-8. Raises UnicodeDecodeError."""
        return self.value.decode()


ListOrder: TypeAlias = Literal["key", "revision", "create_revision", "version"]
"""By what a listing is put in order."""


class Page(_Result, frozen=True, kw_only=True):
    """One page of a listing."""

    found: tuple[Found, ...]
    token: str | None
    """Continues the listing after this page; None: this was the last page."""
    revision: int
    """The revision of the listing, the same for all its pages."""
    served: Served


class KeyPage(_Result, frozen=True, kw_only=True):
    """One page of keys without their values."""

    keys: tuple[tuple[bytes, int], ...]
    """(key, revision) of each key."""
    token: str | None
    revision: int
    prefixes: tuple[bytes, ...] = ()
    """With a separator: what further keys begin with."""


class Child(_Result, frozen=True, kw_only=True):
    """What stands right under a prefix: a key, or all keys that go on to a separator, as a folder.
    A key may have the name of a folder; then it is in the folder.
    """

    name: bytes
    """The whole key, or what the keys in the folder begin with, the separator included."""
    revision: int | None
    """The key's newest revision; None: it is a folder."""

    @property
    def is_folder(self) -> bool:
        """Return whether keys stand under it."""
        return self.revision is None


class Written(_Result, frozen=True, kw_only=True):
    """A write that took effect."""

    op_id: str
    revision: int
    """The revision given to the write; all writes of a transaction share one."""
    served: Served
    existed: bool | None = None
    """Whether the key was present before the write; None: the node did not say."""
    again: bool = False
    """Whether an earlier attempt with the same op_id took effect; this is that attempt's
    outcome.
    """
    attempts: int = 1


class TransactionDone(_Result, frozen=True, kw_only=True):
    """A transaction that took effect or, with reads alone, read one snapshot."""

    op_id: str | None
    """None for a transaction of reads alone, which needs no op_id."""
    revision: int
    branch: Literal["then", "otherwise"]
    """"then": all guards held, and `writes` took effect; "otherwise": a guard failed, and
    `otherwise` did.
    """
    reads: tuple[Reading, ...]
    """The keys as the guards saw them, in the order asked for."""
    taken: tuple[bool, ...] = ()
    """Whether the guards of each `nested` transaction held, along the path that was taken; one that
    is in another comes right behind it.
    """
    served: Served
    again: bool = False
    """Whether an earlier attempt with the same op_id took effect; this is that attempt's
    outcome.
    """
    attempts: int = 1


class Lease(_Result, frozen=True, kw_only=True):
    """A lease that is there."""

    id: str
    """16 hexadecimal digits."""
    ttl_s: float
    left_s: float | None = None
    """Seconds that it still lives, at least, unless it is kept alive; None: not told."""
    keys: tuple[bytes, ...] | None = None
    """The keys attached to it; None: not asked for."""


class AccessState(_Result, frozen=True, kw_only=True):
    """Whether access is controlled, and who asks."""

    on: bool
    principal: str | None
    """None: access is not controlled."""
    admin: bool


class AccessToken(_Result, frozen=True, kw_only=True):
    """A token of a principal."""

    id: str
    principal: str
    roles: tuple[str, ...]
    created_ms: int
    expires_ms: int | None = None
    token: str | None = None
    """What its bearer sends. Only the call that creates it returns it."""


class AccessRule(_Result, frozen=True, kw_only=True):
    """What may be done to the keys under a prefix."""

    prefix: bytes
    read: bool = False
    write: bool = False


class AccessRole(_Result, frozen=True, kw_only=True):
    """What those may do who have a role."""

    name: str
    rules: tuple[AccessRule, ...] = ()
    admin: bool = False
    metrics: bool = False


class Webhook(_Result, frozen=True, kw_only=True):
    """A subscription to the changes under a prefix, which are sent to a URL."""

    name: str
    url: str
    prefix: bytes
    owner: str | None
    """The principal whose rights decide what is delivered; None: access was not controlled when it
    was created.
    """
    revision: int
    created_ms: int
    delivers: bool
    """Whether its owner may be told anything now."""
    after: int | None = None
    """Revision after which deliveries began; None: its own."""
    secret: str | None = None
    """What deliveries are signed with. Only the call that creates it returns it."""


class Signed(_Result, frozen=True, kw_only=True):
    """The signatures of a delivery. `told` false: the owner of its webhook may not be told that."""

    told: bool
    standard: str | None = None
    """For the header `webhook-signature` (Standard Webhooks)."""
    acordo: str | None = None
    """For the header `Acordo-Signature`."""


class Item(_Result, frozen=True, kw_only=True):
    """The outcome of one operation of a batch. Only an `unknown` one may still take effect."""

    op_id: str
    outcome: Literal[
        "applied", "refused", "expired", "mismatch", "not_applied", "unknown", "bad_request"
    ]
    revision: int = 0
    again: bool = False
    guard: int | None = None
    """If refused: the index of the guard that did not hold."""
    current: int | None = None
    """If refused: the revision of that guard's key, 0 when absent."""
    branch: Literal["then", "otherwise"] = "then"
    detail: str = ""

    @property
    def applied(self) -> bool:
        """Whether the operation took effect."""
        return self.outcome == "applied"


class Operation(_Result, frozen=True, kw_only=True):
    """The known state of the operation with an op_id."""

    op_id: str
    outcome: Literal["applied", "refused", "expired", "pending", "unknown"]
    """pending and unknown are not definite yet; the other outcomes never change."""
    revision: int = 0
    guard: int | None = None
    current: int | None = None
    branch: Literal["then", "otherwise"] = "then"
    code: str | None = None
    """The reason of an unknown outcome; `not_ordered`: no node knows the op_id (yet)."""
    detail: str = ""

    @property
    def definite(self) -> bool:
        """Whether the outcome is known and final."""
        return self.outcome in ("applied", "refused", "expired")


class Accepted(_Result, frozen=True, kw_only=True):
    """The receipt of a write that the broker has accepted, to be submitted later; poll
    `Client.operation(op_id)` for its outcome.
    """

    op_id: str
    url: str
    """Path of the operation on any node, for looking it up by other means."""
    served: Served


class Member(_Result, frozen=True, kw_only=True):
    """One member, as the answering node sees it. Unknown figures are None."""

    id: str
    url: str | None = None
    raft_address: str | None = None
    role: str = "unknown"
    voter: bool = True
    term: int | None = None
    applied: int | None = None
    """The newest revision ordered on it."""
    settled: int | None = None
    """The revision up to which its machine is settled."""
    digest: str | None = None
    """Hexadecimal digest of its machine at `settled`; two members with the same revision must have
    the same digest.
    """
    lag: int | None = None
    """Number of log entries that it is behind the leader."""
    last_seen_s: float | None = None
    """Seconds since the answering node last had contact with it."""


class Inspected(msgspec.Struct, frozen=True, kw_only=True):
    """How far a node has come with checking all of its store, and what it has found."""

    node: str
    revision: int
    """The revision as of which the keys are digested."""
    versions: int = 0
    """Versions whose values are what was written."""
    rows: int = 0
    """The newest row of the member's own ledger that was recomputed."""
    keys: int = 0
    digest: str = ""
    """Over every present key: the same on every member. Empty until the end."""
    flaws: tuple[str, ...] = ()
    flaws_total: int = 0
    done: bool = False


class Leader(_Result, frozen=True, kw_only=True):
    """The leader of the cluster."""

    id: str
    url: str | None
    term: int
    quorum: bool = True
    since_ms: int | None = None
    """When it became the leader, in milliseconds since 1970; None: not known."""


class Unready(_Result, frozen=True, kw_only=True):
    """One reason why a node is not ready: the failed check, its code, and the cause."""

    check: str
    code: str
    why: str


class Cluster(_Result, frozen=True, kw_only=True):
    """The cluster as the answering node sees it; `raw` is the whole answer."""

    node: str
    role: str
    term: int
    leader: str | None
    quorum: bool
    """Whether the leader has contact with enough members to order writes."""
    settled: int
    """The revision up to which everything is settled in the store."""
    members: tuple[Member, ...]
    refusal: str | None = None
    """Why writes are refused until an operator decides; None: they are not refused."""
    now_ms: int = 0
    """The current log time in milliseconds; 0: the node did not say."""
    unready: tuple[Unready, ...] = ()
    """Why the answering node should get no traffic; empty: it is ready."""
    raw: dict[str, object]


class Change(_Result, frozen=True, kw_only=True):
    """One change of one key, from a watch."""

    kind: Literal["put", "delete"]
    key: bytes
    value: bytes | None
    revision: int
    expires_ms: int | None = None
    """Log time at which the key will be deleted; None: never."""
    create_revision: int = 0
    version: int = 0
    """As those of a `Reading`; 0 for a delete."""
    lease: str | None = None
    """The lease that the key ends with; None: there is none."""
    op_id: str | None = None
    last: bool
    """Whether this is the last change of its revision, after which a watch can resume."""
    position: str = ""
    """What to resume a watch with (`after`), if this is the last change of its revision. It is
    opaque, and says more than the revision: a node recognises it if the revision was undone and
    given again.
    """

    @property
    def expires_at(self) -> datetime | None:
        """When the key will be deleted, approximately; None: never."""
        return _moment(self.expires_ms)


class Changes(_Result, frozen=True, kw_only=True):
    """The changes that a poll has found, oldest first, each revision whole."""

    events: tuple[Change, ...]
    """Empty: there were none in time."""
    position: str
    """What to poll after next."""
    revision: int
    """Everything under the prefix up to here has been told."""


class Bookmark(_Result, frozen=True, kw_only=True):
    """A position to resume after: every change under the prefix up to `revision` has been
    yielded.
    """

    revision: int
    position: str = ""
    """What to resume a watch with (`after`): opaque, and says more than the revision."""


Event: TypeAlias = Change | Bookmark
"""The items of a watch with bookmarks."""


class LedgerRow(_Result, frozen=True, kw_only=True):
    """One committed group of the ledger."""

    seq: int
    """Position in the ledger, from 1 without a gap."""
    term: int
    committer: str
    """The member that wrote it."""
    first: int
    """Revision of its first intent."""
    last: int
    """Revision of its last intent; below `first` when it has none, as after a take-over."""
    digest: str
    """In hexadecimal; computed over all intents up to here."""
    log_time_ms: int
    """Log time in milliseconds since 1970 (approximately)."""
    body: tuple[dict[str, object], ...] = ()
    """Its intents: op_id, body hash and outcome of each."""
    index: int = 0
    """Log index of the command that made it, the same on all members; 0 in a shared store."""
    content: str = ""
    """In hexadecimal; computed over all that the rows up to here made, outcomes and versions; empty
    in a shared store.
    """


def _moment(ms: int | None) -> datetime | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC)
