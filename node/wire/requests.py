"""Convert JSON bodies into intents of the model. Pure; it never guesses what a client left unclear.

Types are strict: an unknown field is refused. /openapi.json is generated from the same types.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from kv.branches import check
from kv.errors import BadRequest
from kv.model import (
    NESTING_MAX,
    OPERATIONS_MAX,
    REVISION_MAX,
    Absent,
    AtRevision,
    Compare,
    Delete,
    DeleteRange,
    Equals,
    Exists,
    Guard,
    Intent,
    Nested,
    Put,
    PutWith,
    value_hash,
)
from node.wire.byte_forms import Bytes, bytes_from, checked_value, key_from
from node.wire.conditions import REVISIONS_MAX
from node.wire.lease_forms import checked_lease
from node.wire.text_fields import TTL_S_MAX, ttl_ms_of

_TARGETS: Final[dict[str, Literal["create", "mod", "version", "lease", "value"]]] = {
    "create_revision": "create",
    "revision": "mod",
    "version": "version",
    "lease": "lease",
    "value": "value",
}
FormWrite: TypeAlias = Put | PutWith | Delete | DeleteRange | Nested
BATCH_PARTS_MAX: Final = 1024
"""Most guards, writes, otherwise and reads in all operations of one batch together."""
RevisionForm: TypeAlias = Annotated[int, Meta(ge=0, le=REVISION_MAX)]
TtlForm: TypeAlias = Annotated[
    float, Meta(description="Seconds until the key is deleted.", gt=0, le=TTL_S_MAX)
]


class GuardForm(
    Struct, frozen=True, forbid_unknown_fields=True, rename={"at": "revision", "is_": "is"}
):
    """A condition on one key: exactly one of `absent`, `exists`, `revision`, `value`, `compare`."""

    key: Bytes
    absent: Literal[True] | UnsetType = UNSET
    exists: Literal[True] | UnsetType = UNSET
    at: RevisionForm | list[RevisionForm] | UnsetType = UNSET
    """The key's newest version has this revision, or one of these; 0 alone means absent."""
    value: Bytes | UnsetType = UNSET
    """The key is present with this value."""
    compare: Literal["create_revision", "revision", "version", "lease", "value"] | UnsetType = UNSET
    """What `is` and `to` say something of. The numbers of an absent key are 0; no value compares
    with it.
    """
    is_: Literal["=", "!=", "<", ">"] | UnsetType = UNSET
    to: RevisionForm | Bytes | UnsetType = UNSET
    """A number, or the value; for a lease its name, or 0 for none."""
    end: Bytes | UnsetType = UNSET
    """With `compare`: every present key from `key` on, and before this one, has to hold; a zero
    byte means all keys from `key` on.
    """


class WriteForm(
    Struct, frozen=True, forbid_unknown_fields=True, rename={"if_": "if", "else_": "else"}
):
    """`{"put": key, "value": …, "ttl": seconds, "lease": id}`, `{"put": key, "keep_value": true}`,
    `{"delete": key}`, `{"delete": key, "end": key}` for a range, or
    `{"if": [guard…], "then": [write…], "else": [write…]}`, a transaction within this one.
    """

    put: Bytes | UnsetType = UNSET
    value: Bytes | UnsetType = UNSET
    ttl: TtlForm | UnsetType = UNSET
    lease: str | UnsetType = UNSET
    """The lease that the key ends with."""
    delete: Bytes | UnsetType = UNSET
    end: Bytes | UnsetType = UNSET
    """With `delete`: all keys from that one on, and before this one, RANGE_KEYS_MAX at most; a zero
    byte means all keys from `delete` on.
    """
    keep_value: Literal[True] | UnsetType = UNSET
    """With `put`: the key keeps its value; refused (`key_absent`) where it is absent."""
    keep_lease: Literal[True] | UnsetType = UNSET
    """With `put`: the key keeps its lease; likewise."""
    if_: list[GuardForm] | UnsetType = UNSET
    """Guards that see what those of the whole transaction see: the state before all writes."""
    then: list[WriteForm] | UnsetType = UNSET
    """The writes if all of them hold. At most four transactions are in one another."""
    else_: list[WriteForm] | UnsetType = UNSET


class TransactionForm(Struct, frozen=True, forbid_unknown_fields=True):
    """A transaction: `writes` if all `guards` hold, else `otherwise`; without `otherwise` it is
    then refused. All of it happens at one revision.
    """

    guards: list[GuardForm] = []
    writes: list[WriteForm] = []
    otherwise: list[WriteForm] | None = None
    reads: list[Bytes] = []
    """Keys whose values are returned as they were when the guards were evaluated."""
    op_id: str | None = None


class BatchForm(Struct, frozen=True, forbid_unknown_fields=True):
    """Independent operations, each with its own outcome; not atomic."""

    operations: Annotated[list[TransactionForm], Meta(min_length=1, max_length=OPERATIONS_MAX)]


class LegacyPair(Struct, frozen=True, forbid_unknown_fields=True):
    """The key and the value of `/kv`."""

    key: Bytes
    value: Bytes


class LegacyForm(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `PUT /kv`, and the answer of `GET /kv`."""

    data: LegacyPair


class TransferForm(Struct, frozen=True, forbid_unknown_fields=True):
    """The member that takes over the leadership; without `to`, the most advanced voter."""

    to: str | None = None


class AdoptForm(Struct, frozen=True, forbid_unknown_fields=True):
    """The operator's consent to a loss: the number of settled revisions to be given up, which
    /v1/cluster shows as `gives_up`.
    """

    gives_up: Annotated[int, Meta(ge=0)] | None = None


class MemberForm(Struct, frozen=True, forbid_unknown_fields=True):
    """A member to add; an observer unless `voter`."""

    id: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    raft_address: Annotated[
        str, Meta(min_length=3, max_length=256, pattern=r"^[^\s:]+.*:[0-9]{1,5}$")
    ]
    url: Annotated[str, Meta(max_length=1024, pattern=r"^https?://[^\s/]+.*$")]
    voter: bool = False


class NothingForm(Struct, frozen=True, forbid_unknown_fields=True):
    """An empty object, or no body at all."""


def parts_of(form: TransactionForm) -> int:
    """Return the number of guards, writes and reads in a transaction, at every depth."""
    return len(form.guards) + len(form.reads) + _parts(form.writes) + _parts(form.otherwise or ())


def _parts(forms: Iterable[WriteForm], depth: int = NESTING_MAX) -> int:
    if not depth:
        raise _too_deep()
    count = 0
    for form in forms:
        if _is_nested(form):
            count += len(form.if_ or ()) + _parts(form.then or (), depth - 1)
            count += _parts(form.else_ or (), depth - 1)
        else:
            count += 1
    return count


def _too_deep() -> BadRequest:
    return BadRequest(
        "too_deep", "a transaction is nested too deep", allowed=f"depth {NESTING_MAX}"
    )


def _is_nested(form: WriteForm) -> bool:
    parts = (form.if_, form.then, form.else_)
    return not all(isinstance(each, UnsetType) for each in parts)


def intent_of(form: TransactionForm, op_id: str) -> Intent:
    """Return the intent of a form, with its deadline not set yet. Raises BadRequest."""
    if parts_of(form) > OPERATIONS_MAX:
        raise BadRequest(
            "too_many_operations",
            f"{parts_of(form)} guards, writes and reads in one transaction",
            allowed=f"up to {OPERATIONS_MAX}",
        )
    intent = Intent(
        op_id=op_id,
        deadline_ms=0,
        guards=tuple(_guard(g) for g in form.guards),
        writes=_writes(form.writes, "writes"),
        otherwise=None if form.otherwise is None else _writes(form.otherwise, "otherwise"),
        reads=tuple(key_from(key) for key in form.reads),
    )
    writes = intent.writes + (intent.otherwise or ())
    if any(isinstance(write, DeleteRange | Nested) for write in writes):
        check(intent)
    return intent


def put_of(key: bytes, value: bytes, ttl_ms: int | None, lease: int) -> Put | PutWith:
    """Return a put; `lease` 0: the key is attached to none."""
    return PutWith(key, value, ttl_ms, lease) if lease else Put(key, value, ttl_ms)


def _guard(form: GuardForm) -> Guard:
    given = [
        name
        for name in ("absent", "exists", "at", "value", "compare")
        if getattr(form, name) is not UNSET
    ]
    if len(given) != 1:
        raise BadRequest(
            "bad_guard",
            "a guard has one condition",
            allowed="exactly one of absent, exists, revision, value, compare",
        )
    key = key_from(form.key)
    if not isinstance(form.compare, UnsetType):
        return _compare(form, key, form.compare)
    if not all(isinstance(each, UnsetType) for each in (form.is_, form.to, form.end)):
        raise BadRequest("bad_guard", "is, to and end go with compare", allowed="compare, is, to")
    if form.absent is True or form.at == 0:
        return Absent(key)
    if form.exists is True:
        return Exists(key)
    if not isinstance(form.value, UnsetType):
        return Equals(key, value_hash(checked_value(bytes_from(form.value, "value"))))
    revisions = form.at if isinstance(form.at, list) else [form.at]
    found = tuple(r for r in revisions if isinstance(r, int) and r > 0)
    if not found or len(found) < len(revisions) or len(found) > REVISIONS_MAX:
        raise BadRequest(
            "bad_guard",
            "revision is no list of revisions",
            allowed=f"1 to {REVISIONS_MAX} of them, or 0 for absent",
        )
    return AtRevision(key, found)


def _compare(form: GuardForm, key: bytes, what: str) -> Compare:
    if isinstance(form.is_, UnsetType) or isinstance(form.to, UnsetType):
        raise BadRequest("bad_guard", "compare without is and to", allowed="compare, is, to")
    fits = {
        "value": not isinstance(form.to, int),
        "lease": form.to == 0 or isinstance(form.to, str),
    }
    if not fits.get(what, isinstance(form.to, int)):
        raise BadRequest(
            "bad_guard",
            f"{what} is not compared to that",
            allowed="a number; for value a value, for lease a lease or 0",
        )
    target = _TARGETS[what]
    if isinstance(form.to, int):
        operand: int | bytes = form.to
    elif what == "lease":
        operand = checked_lease(str(form.to))
    else:
        operand = checked_value(bytes_from(form.to, "to"))
    end = b"" if isinstance(form.end, UnsetType) else key_from(form.end)
    return Compare(key, end, target, form.is_, operand)


def _writes(forms: Iterable[WriteForm], where: str) -> tuple[FormWrite, ...]:
    writes = tuple(_write(form) for form in forms)
    keys = [write.key for write in writes if not isinstance(write, Nested)]
    if len(set(keys)) < len(keys):
        raise BadRequest("duplicate_key", f"a key stands twice in {where}", allowed="each key once")
    return writes


def _write(form: WriteForm) -> FormWrite:
    if _is_nested(form):
        return _nested(form)
    if isinstance(form.delete, UnsetType):
        return _put(form)
    others = (form.put, form.value, form.ttl, form.lease, form.keep_value, form.keep_lease)
    if not all(isinstance(other, UnsetType) for other in others):
        raise BadRequest("bad_write", "a delete has nothing else", allowed='{"delete": key}')
    if isinstance(form.end, UnsetType):
        return Delete(key_from(form.delete))
    return DeleteRange(key_from(form.delete), key_from(form.end))


def _put(form: WriteForm) -> Put | PutWith:
    if not isinstance(form.end, UnsetType):
        raise BadRequest("bad_write", "end goes with delete", allowed="delete and end")
    keeps_value, keeps_lease = form.keep_value is True, form.keep_lease is True
    if isinstance(form.put, UnsetType) or isinstance(form.value, UnsetType) is not keeps_value:
        raise BadRequest(
            "bad_write",
            "neither a put with a value nor a delete",
            allowed="put and value, put and keep_value, or delete",
        )
    if keeps_lease and not isinstance(form.lease, UnsetType):
        raise BadRequest("bad_write", "a lease, and keep_lease", allowed="one of the two")
    key = key_from(form.put)
    value = (
        b"" if isinstance(form.value, UnsetType) else checked_value(bytes_from(form.value, "value"))
    )
    ttl = None if isinstance(form.ttl, UnsetType) else ttl_ms_of(form.ttl)
    lease = 0 if isinstance(form.lease, UnsetType) else checked_lease(form.lease)
    if keeps_value or keeps_lease:
        return PutWith(key, value, ttl, lease, keeps_value, keeps_lease)
    return put_of(key, value, ttl, lease)


def _nested(form: WriteForm) -> Nested:
    others = (
        *(form.put, form.value, form.ttl, form.lease, form.keep_value, form.keep_lease),
        *(form.delete, form.end),
    )
    if not all(isinstance(other, UnsetType) for other in others):
        raise BadRequest("bad_write", "a transaction has nothing else", allowed="if, then and else")
    return Nested(
        tuple(_guard(each) for each in form.if_ or ()),
        _writes(form.then or (), "then"),
        _writes(form.else_ or (), "else"),
    )
