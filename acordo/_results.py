"""Say what the client returns: typed, frozen, and without a trace of HTTP. Never decides
anything.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

Level: TypeAlias = Literal["linearizable", "session", "stale"]
"""How fresh a read has to be: as new as any acknowledged write, as what this client has seen, or
whatever the node that answers has.
"""
LEVELS: Final[tuple[Level, ...]] = ("linearizable", "session", "stale")


class _Result(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every value here."""


class Served(_Result, frozen=True, kw_only=True):
    """Who answered, and how fresh the answer was."""

    node: str
    """The id of the node."""
    position: int
    """`Acordo-Revision`: the answer reflects at least everything up to here."""
    level: str | None = None
    """Read level that was served; None for writes."""
    age_ms: int | None = None
    """How old a `stale` answer may be, in milliseconds."""


class Reading(_Result, frozen=True, kw_only=True):
    """What a read of one key observed, present or not."""

    key: bytes
    value: bytes | None
    """None: absent; or, with a revision, no longer kept or not asked for."""
    revision: int
    """Revision of the newest version; 0 when absent."""
    expires_ms: int | None = None
    """Log time (milliseconds since 1970, near enough) at which the key will be deleted; None:
    never.
    """
    served: Served

    @property
    def present(self) -> bool:
        """Whether the key is present."""
        return self.revision > 0

    @property
    def text(self) -> str:
        """Return the value as UTF-8. Raises UnicodeDecodeError, or ValueError when absent."""
        if self.value is None:
            raise ValueError("the key is absent")
        return self.value.decode()


class Found(Reading, frozen=True, kw_only=True):
    """A key that is present."""

    value: bytes

    @property
    def text(self) -> str:
        """Return the value as UTF-8. Raises UnicodeDecodeError."""
        return self.value.decode()


class Page(_Result, frozen=True, kw_only=True):
    """One page of a listing."""

    found: tuple[Found, ...]
    token: str | None
    """Goes on after this page; None: it was the last."""
    revision: int
    """The revision at which all pages of the listing are."""
    served: Served


class KeyPage(_Result, frozen=True, kw_only=True):
    """One page of keys without their values."""

    keys: tuple[tuple[bytes, int], ...]
    """Key and revision."""
    token: str | None
    revision: int


class Written(_Result, frozen=True, kw_only=True):
    """A write that took effect."""

    op_id: str
    revision: int
    """The revision that the write was given; all writes of a transaction have the same."""
    served: Served
    existed: bool | None = None
    """The key was present before it; None: the node did not say."""
    again: bool = False
    """An earlier attempt with the same op_id had done it; this is that one's outcome."""
    attempts: int = 1


class TransactionDone(_Result, frozen=True, kw_only=True):
    """A transaction that took effect (or, with reads alone, observed one snapshot)."""

    op_id: str | None
    """None: reads alone, nothing to identify."""
    revision: int
    branch: Literal["then", "otherwise"]
    """"then": all guards held."""
    reads: tuple[Reading, ...]
    """As the guards saw them, in the order asked for."""
    served: Served
    again: bool = False
    """An earlier attempt with the same op_id had done it; this is that one's outcome."""
    attempts: int = 1


class Item(_Result, frozen=True, kw_only=True):
    """How one operation of a batch ended. Only an `unknown` one may still take effect."""

    op_id: str
    outcome: Literal[
        "applied", "refused", "expired", "mismatch", "not_applied", "unknown", "bad_request"
    ]
    revision: int = 0
    again: bool = False
    guard: int | None = None
    """Refused: index of the guard."""
    current: int | None = None
    """Refused: revision of that guard's key, 0 when absent."""
    branch: Literal["then", "otherwise"] = "then"
    detail: str = ""

    @property
    def applied(self) -> bool:
        """Whether it took effect."""
        return self.outcome == "applied"


class Operation(_Result, frozen=True, kw_only=True):
    """What is known of an op_id."""

    op_id: str
    outcome: Literal["applied", "refused", "expired", "pending", "unknown"]
    """pending, unknown: not definite yet; all others never change."""
    revision: int = 0
    guard: int | None = None
    current: int | None = None
    branch: Literal["then", "otherwise"] = "then"
    code: str | None = None
    """With unknown: `not_ordered`, nobody knows it (yet)."""
    detail: str = ""

    @property
    def definite(self) -> bool:
        """Whether the outcome is known, and stays what it is."""
        return self.outcome in ("applied", "refused", "expired")


class Accepted(_Result, frozen=True, kw_only=True):
    """The receipt of a command that is in the broker's hands and will be submitted; poll
    `Client.operation(op_id)`.
    """

    op_id: str
    url: str
    """Path of the operation, for looking it up by other means."""
    served: Served


class Member(_Result, frozen=True, kw_only=True):
    """One member, as the answering node knows it. Unknown figures are None."""

    id: str
    url: str | None = None
    raft_address: str | None = None
    role: str = "unknown"
    voter: bool = True
    term: int | None = None
    applied: int | None = None
    """Entries of the log that it has applied."""
    settled: int | None = None
    """Revision up to which its machine's state is settled in the store."""
    digest: str | None = None
    """Of the ledger at `settled`: two members with the same revision must have the same."""
    lag: int | None = None
    """Entries of the log that it is behind."""
    last_seen_s: float | None = None
    """Seconds since it was heard of."""


class Leader(_Result, frozen=True, kw_only=True):
    """Who leads."""

    id: str
    url: str | None
    term: int
    quorum: bool = True
    since_ms: int | None = None
    """When it began to lead, in milliseconds since 1970; None: not known."""


class Unready(_Result, frozen=True, kw_only=True):
    """One thing that makes a node unready: which check failed, by which code, and why."""

    check: str
    code: str
    why: str


class Cluster(_Result, frozen=True, kw_only=True):
    """How the answering node sees the cluster; `raw` is its whole answer."""

    node: str
    role: str
    term: int
    leader: str | None
    quorum: bool
    """Whether the leader hears enough members to order writes."""
    settled: int
    """Revision up to which all is settled in the store."""
    members: tuple[Member, ...]
    refusal: str | None = None
    """Why writes are refused until an operator decides; None: they are not."""
    now_ms: int = 0
    """Log time now; 0: the node did not say."""
    unready: tuple[Unready, ...] = ()
    """Why the answering node should get no traffic; empty: it should."""
    raw: dict[str, object]


class Change(_Result, frozen=True, kw_only=True):
    """One change of one key, as a watch gives it out."""

    kind: Literal["put", "delete"]
    key: bytes
    value: bytes | None
    revision: int
    expires_ms: int | None = None
    """Log time at which the key will be deleted; None: never."""
    op_id: str | None = None
    last: bool
    """The last change of its revision: a position to resume after."""


class Bookmark(_Result, frozen=True, kw_only=True):
    """A position to resume after: nothing under the prefix changed up to `revision`."""

    revision: int


Event: TypeAlias = Change | Bookmark
"""What a watch with bookmarks iterates over."""


class LedgerRow(_Result, frozen=True, kw_only=True):
    """One committed group of the ledger."""

    seq: int
    """Place in the ledger, from 1 without a gap."""
    term: int
    committer: str
    """The member that wrote it."""
    first: int
    """Revision of the first intent in it."""
    last: int
    """Revision of the last one; below `first` when there is none, as after a take-over."""
    digest: str
    """Hexadecimal; rolled over all intents up to here."""
    log_time_ms: int
    """Log time, in milliseconds since 1970, near enough."""
    body: tuple[dict[str, object], ...] = ()
    """The intents: op_id, body hash and outcome of each."""
