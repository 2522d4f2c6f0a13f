"""Define what is written, read and recorded: keys, guards, intents, outcomes, versions, ledger
rows.

Pure data. Nothing here uses a clock, a socket or a store, or knows of HTTP, Raft or SQL.

Every type is a frozen `msgspec.Struct` encoded as an array, so the same value is what travels
through the log, what the store keeps and what digests are computed over. Fields are only ever
appended, with defaults.
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal, TypeAlias

import msgspec

from kv.leases import lease_key

KEY_BYTES_MAX: Final = 1024
VALUE_BYTES_MAX: Final = 1024 * 1024
INLINE_BYTES_MAX: Final = 64 * 1024
"""A larger value is staged in the store, and the log carries a `Reference` to it."""
OP_ID_CHARS_MAX: Final = 128
OPERATIONS_MAX: Final = 128
"""The maximal number of operations in one batch, and of guards + writes + otherwise + reads in one
transaction, at every depth of nesting.
"""
NESTING_MAX: Final = 4
"""The maximal depth of nested transactions; one without any nested in it has depth 1."""
RANGE_KEYS_MAX: Final = 10_000
"""The maximal number of keys that the deletes of ranges of one intent remove, and that a guard on a
range looks at. Beyond it the intent is refused with the reason `too_many_keys`.
"""
RANGES_KEYS_MAX: Final = 20_000
"""The maximal number of keys that all ranges of one intent have together, each counted as often as
it is named. Beyond it the intent is refused for the same reason.
"""
RANGE_VALUES_MAX: Final = 128
"""The maximal number of keys whose values a guard on a range compares by order."""
FROM_KEY: Final = b"\0"
"""The end of a range that has none: all keys from its beginning on."""
REQUEST_BYTES_MAX: Final = 4 * 1024 * 1024
TTL_MS_MAX: Final = 10 * 366 * 24 * 3600 * 1000
REVISION_MAX: Final = 2**53 - 1
NODE_OP_ID_PREFIX: Final = "~"
"""The prefix of op_ids made by a node; a client's never has it. They are not recorded in `ops`."""
GENESIS_DIGEST: Final = bytes(32)

ASYNC_OP_ID_PREFIX: Final = "async-"
"""The prefix of op_ids that a node makes for POST /v1/async; a client's never has it. `ops` records
them, because workers may submit the same operation twice.
"""
RESERVED_PREFIXES: Final = (NODE_OP_ID_PREFIX, ASYNC_OP_ID_PREFIX)
"""No op_id that a client chooses has one of these prefixes."""

Key: TypeAlias = bytes
"""1 … KEY_BYTES_MAX bytes."""
Revision: TypeAlias = int
"""Given by the machine, +1 for each intent; the first is 1; 0 means "absent" or "nothing yet"."""
Digest: TypeAlias = bytes
"""32 bytes (BLAKE2b), rolled over (op_id, body hash) of every intent in order."""
OpId: TypeAlias = str


class _Frozen(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The base class of every value in this module."""


# ------------------------------------------------------------------------------------------- values


class Reference(_Frozen, frozen=True):
    """A reference to a large value that is staged in the store under (op_id, hash)."""

    op_id: OpId
    hash: bytes
    """BLAKE2b-256 of the value."""
    size: int


Value: TypeAlias = bytes | Reference


class Version(_Frozen, frozen=True):
    """What one revision made of one key. Immutable; `value` None is a tombstone."""

    key: bytes
    revision: int
    value: bytes | Reference | None
    expires_ms: int | None = None
    """The log time from which the sweeper may delete the key. Until that delete commits the key is
    present.
    """
    create_revision: int = 0
    """The revision that made the key present, after it was absent; 0 for a tombstone."""
    version: int = 0
    """The number of puts since then, this one included; 0 for a tombstone."""
    lease: int = 0
    """The lease that the key ends with; 0: none."""

    @property
    def present(self) -> bool:
        """Whether the key had a value at this revision; False for a tombstone."""
        return self.value is not None


class Entry(_Frozen, frozen=True):
    """What a cache holds for a key: its newest version (None: never written) in the store's state
    at `as_of`.
    """

    key: bytes
    version: Version | None
    as_of: int
    """The head revision of the snapshot that the entry was read in, or the last revision of the
    group that settled it.
    """


# ------------------------------------------------------------------------------------------ intents


class Absent(_Frozen, frozen=True, tag="a"):
    """A guard that holds iff the key is absent."""

    key: bytes


class Exists(_Frozen, frozen=True, tag="e"):
    """A guard that holds iff the key is present, at any revision."""

    key: bytes


class AtRevision(_Frozen, frozen=True, tag="r"):
    """A guard that holds iff a present key's newest version is one of `revisions` (never empty)."""

    key: bytes
    revisions: tuple[int, ...]


class Equals(_Frozen, frozen=True, tag="v"):
    """A guard that holds iff the key is present with this value.

    Values are compared by BLAKE2b-256, so that large ones need not be fetched.
    """

    key: bytes
    hash: bytes


class Compare(_Frozen, frozen=True, tag="c"):
    """A guard that holds iff what `target` names stands in `relation` to `operand`, for every
    present key of a range.

    Where the range has no present key it is judged by a key whose numbers are all 0, and never
    holds for a value. Values are compared as bytes, by order.
    """

    key: bytes
    end: bytes
    """Empty: `key` alone. FROM_KEY: all keys from `key` on. Else the first key behind the range."""
    target: Literal["create", "mod", "version", "lease", "value"]
    relation: Literal["=", "!=", "<", ">"]
    operand: int | bytes
    """Bytes for a value, else a number."""


Guard: TypeAlias = Absent | Exists | AtRevision | Equals | Compare


class Put(_Frozen, frozen=True, tag="p"):
    """A write that sets the key. `ttl_ms` counts from the log time of the ledger row that commits
    it.
    """

    key: bytes
    value: bytes | Reference
    ttl_ms: int | None = None


class Delete(_Frozen, frozen=True, tag="d"):
    """A write that makes the key absent. Deleting an absent key writes nothing."""

    key: bytes


class PutWith(_Frozen, frozen=True, tag="w"):
    """A Put with a lease, or one that keeps what the key has. A type of its own, so that a plain
    Put travels as before.
    """

    key: bytes
    value: bytes | Reference
    """Empty with `keep_value`."""
    ttl_ms: int | None = None
    lease: int = 0
    keep_value: bool = False
    """Keep the value. Where the key is absent the intent is refused for `key_absent`."""
    keep_lease: bool = False
    """Keep the lease; likewise."""


class DeleteRange(_Frozen, frozen=True, tag="k"):
    """A write that makes all keys of a range absent, RANGE_KEYS_MAX at most. `end` is as that of
    `Compare`.
    """

    key: bytes
    end: bytes


class EndLease(_Frozen, frozen=True, tag="l"):
    """A write that ends a lease with all keys attached to it. Where there is none it writes
    nothing. It stands alone in its intent.
    """

    lease: int
    term: int = 0
    """Not 0: the term of the leader whose memory says that its time is over. In a ledger row of
    another term the intent expires.
    """

    @property
    def key(self) -> bytes:
        """The key of the lease itself."""
        return lease_key(self.lease)


class Nested(_Frozen, frozen=True, tag="n"):
    """A transaction among the writes of another: `writes` if all `guards` hold, else `otherwise`.

    Its guards see what those of the whole intent see: the state before any of its writes.
    """

    guards: tuple[Absent | Exists | AtRevision | Equals | Compare, ...]
    writes: tuple[Put | Delete | PutWith | DeleteRange | EndLease | Nested, ...]
    otherwise: tuple[Put | Delete | PutWith | DeleteRange | EndLease | Nested, ...] = ()


KeyWrite: TypeAlias = Put | Delete | PutWith | DeleteRange | EndLease
"""A write that is not a transaction."""
Write: TypeAlias = Put | Delete | PutWith | DeleteRange | EndLease | Nested


class Intent(_Frozen, frozen=True, tag="i"):
    """An operation that changes data: `writes` if all `guards` hold, else `otherwise`.

    docs/DESIGN.md section 3 specifies how it takes effect. No two puts that one path through its
    branches takes have the same key, and none puts a key that a delete on the same path names
    (`kv.branches.check`).
    """

    op_id: str
    deadline_ms: int
    """The log time after which it may no longer take effect. Not part of the body hash."""
    guards: tuple[Absent | Exists | AtRevision | Equals | Compare, ...] = ()
    writes: tuple[Put | Delete | PutWith | DeleteRange | EndLease | Nested, ...] = ()
    otherwise: tuple[Put | Delete | PutWith | DeleteRange | EndLease | Nested, ...] | None = None
    """None: a failed guard refuses the intent. A tuple, even an empty one: a failed guard makes the
    intent apply `otherwise` instead.
    """
    reads: tuple[bytes, ...] = ()
    """The keys whose revisions, in the state that the guards saw, are returned in the outcome."""

    @property
    def body_hash(self) -> bytes:
        """BLAKE2b-128 over guards, writes, otherwise and reads.

        It detects that an op_id is used again with another body.
        """
        return hashlib.blake2b(
            _encode((self.guards, self.writes, self.otherwise, self.reads)), digest_size=16
        ).digest()

    @property
    def touched(self) -> tuple[bytes, ...]:
        """Every key that the intent names and may write; those in ranges that it deletes are not
        named.
        """
        return _named(self.writes) + _named(self.otherwise or ())


class Cancel(_Frozen, frozen=True, tag="c"):
    """An intent that matches any body and records `Expired` unless its op_id is known by then."""

    op_id: str

    @property
    def body_hash(self) -> bytes:
        """Empty, because a Cancel matches any body."""
        return b""

    @property
    def touched(self) -> tuple[bytes, ...]:
        """Empty, because a Cancel writes no key."""
        return ()


Ordered: TypeAlias = Intent | Cancel

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


def _named(writes: tuple[Write, ...]) -> tuple[bytes, ...]:
    found: tuple[bytes, ...] = ()
    for write in writes:
        if isinstance(write, Nested):
            found += _named(write.writes) + _named(write.otherwise)
        elif not isinstance(write, DeleteRange):
            found += (write.key,)
    return found


def roll(before: Digest, op_id: OpId, body_hash: bytes) -> Digest:
    """Return the digest after one more intent."""
    return hashlib.blake2b(_encode((op_id, body_hash)), digest_size=32, key=before).digest()


def value_hash(value: bytes) -> bytes:
    """Return the BLAKE2b-256 of a value, as in `Reference.hash` and `Equals.hash`."""
    return hashlib.blake2b(value, digest_size=32).digest()


# ----------------------------------------------------------------------------------------- outcomes


class Applied(_Frozen, frozen=True, tag="A"):
    """The outcome of an intent that took effect at its revision, by `writes` or `otherwise`."""

    branch: Literal["then", "otherwise"] = "then"
    seen: tuple[int, ...] = ()
    """For each of `Intent.reads`: the revision of the key as the guards saw it, 0 when absent."""
    taken: tuple[bool, ...] = ()
    """For each Nested on the path that was taken, in order (one that is nested comes right behind
    the one that it is in): whether its guards held.
    """


class Refused(_Frozen, frozen=True, tag="R"):
    """The outcome when a guard did not hold and there is no otherwise, or when a write cannot be
    done: no effect, ever.
    """

    guard: int
    """The index of the first guard that failed; -1: none of the guards, see `reason`."""
    current: int
    """The revision of that guard's key, 0 when absent."""
    seen: tuple[int, ...] = ()
    reason: str = ""
    """Why it was refused if not for a guard: too_many_keys, key_absent, lease_not_found,
    lease_full."""


class Expired(_Frozen, frozen=True, tag="X"):
    """The outcome of an intent that came too late, was cancelled, or lacks its staged value.

    It has no effect, ever.
    """


class Again(_Frozen, frozen=True, tag="G"):
    """The outcome when the op_id was known with the same body.

    The attempt has no second effect. It carries the outcome and revision of the first one.
    """

    revision: int
    outcome: Applied | Refused | Expired


class Mismatch(_Frozen, frozen=True, tag="M"):
    """The outcome when the op_id was known with another body: no effect, ever."""


Outcome: TypeAlias = Applied | Refused | Expired | Again | Mismatch
FirstOutcome: TypeAlias = Applied | Refused | Expired


class Answer(_Frozen, frozen=True):
    """The answer to a waiting client: the outcome and the revision of its attempt.

    The revision of the first attempt is in `Again`.
    """

    revision: int
    outcome: Applied | Refused | Expired | Again | Mismatch


class Recorded(_Frozen, frozen=True):
    """One intent in a ledger row. The n-th (from 0) has revision `first + n`."""

    op_id: str
    body_hash: bytes
    outcome: Applied | Refused | Expired | Again | Mismatch
    keys: tuple[bytes, ...] = ()
    """The keys that it changed: exactly those with a version at its revision."""
    numbers: tuple[tuple[int, int, int], ...] = ()
    """What a Settle says of each of `keys`: create_revision, version, lease. Empty in ledger rows,
    because the versions themselves say it.
    """


class RecordedOperation(_Frozen, frozen=True):
    """A client's op_id as `ops` records it: the first body, revision and outcome."""

    op_id: str
    body_hash: bytes
    revision: int
    outcome: Applied | Refused | Expired
    log_time_ms: int = 0
    """The log time at which it was recorded. The retention counts from here."""


# ------------------------------------------------------------------------------------------- ledger


class Head(_Frozen, frozen=True):
    """The position and identity of a ledger row, which the next row must be built on."""

    seq: int = 0
    term: int = 0
    committer: str = ""
    last: int = 0
    digest: bytes = GENESIS_DIGEST


GENESIS: Final = Head()


class LedgerRow(_Frozen, frozen=True):
    """One committed group. An empty row (take-over, adopt) has no body and its predecessor's
    digest.
    """

    seq: int
    term: int
    committer: str
    first: int
    last: int
    digest: bytes
    log_time_ms: int
    body: tuple[Recorded, ...] = ()
    index: int = 0
    """In a replicated store: the log index of the command that made the row. 0 in a shared one."""
    content: bytes = b""
    """In a replicated store: the content digest after this row (`kv.content`). Empty in a shared
    one.
    """

    @property
    def head(self) -> Head:
        """The head that the next row must be built on."""
        return Head(self.seq, self.term, self.committer, self.last, self.digest)


class Group(_Frozen, frozen=True):
    """What one store transaction writes: a row built on `base`, the versions that it made, and the
    op_ids that it records first.
    """

    base: Head
    row: LedgerRow
    versions: tuple[Version, ...] = ()
    operations: tuple[RecordedOperation, ...] = ()
