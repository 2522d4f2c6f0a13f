"""Turn JSON into the model and the model into JSON. Pure; never fills in what the client left
unclear.

Keys and values are strings when they are UTF-8, else `{"base64": "…"}`; both forms are taken
everywhere. Types are strict: an unknown field is refused. The same types make /openapi.json.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from kv.errors import BadRequest
from kv.model import (
    KEY_BYTES_MAX,
    OP_ID_CHARS_MAX,
    OPERATIONS_MAX,
    RESERVED_PREFIXES,
    REVISION_MAX,
    TTL_MS_MAX,
    VALUE_BYTES_MAX,
    Absent,
    Again,
    Answer,
    Applied,
    AtRevision,
    Delete,
    Equals,
    Exists,
    Expired,
    Guard,
    Intent,
    LedgerRow,
    Mismatch,
    Operation,
    Outcome,
    Put,
    Recorded,
    Refused,
    Write,
    value_hash,
)
from node.wire import documents

decoded: Final = documents.decoded
encode: Final = documents.encode

BATCH_PARTS_MAX: Final = 1024
"""Guards, writes, otherwise and reads of all operations of one batch together."""
REVISIONS_MAX: Final = 64
"""Revisions in one guard or If-Match."""
TTL_S_MAX: Final = TTL_MS_MAX // 1000


# ---------------------------------------------------------------------------------- keys and values


class Base64(Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes that are not UTF-8."""

    base64: str


Bytes: TypeAlias = str | Base64
"""A key or value: a string when it is UTF-8, else `{"base64": "…"}`; both are taken."""


def bytes_of(form: Bytes, what: str) -> bytes:
    """Return the bytes of a JSON form. Raises BadRequest."""
    if isinstance(form, str):
        try:
            return form.encode()
        except UnicodeEncodeError as exc:
            raise BadRequest(
                "not_utf8", f"the {what} is not valid Unicode", allowed='UTF-8 or {"base64": …}'
            ) from exc
    try:
        return base64.b64decode(form.base64, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise BadRequest(
            "bad_base64", f"the {what} is not base64", allowed="RFC 4648 section 4, padded"
        ) from exc


def form_of(raw: bytes) -> str | dict[str, str]:
    """Return the JSON form of bytes."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}


def checked_key(raw: bytes) -> bytes:
    """Return the key if its length is allowed. Raises BadRequest."""
    if not raw:
        raise BadRequest("key_empty", "the key is empty", allowed=f"1 to {KEY_BYTES_MAX} bytes")
    if len(raw) > KEY_BYTES_MAX:
        raise BadRequest(
            "key_too_long", f"the key has {len(raw)} bytes", allowed=f"1 to {KEY_BYTES_MAX} bytes"
        )
    return raw


def checked_prefix(raw: bytes) -> bytes:
    """Return the prefix if its length is allowed; an empty one stands for every key. Raises
    BadRequest.
    """
    if len(raw) > KEY_BYTES_MAX:
        raise BadRequest(
            "key_too_long",
            f"the prefix has {len(raw)} bytes",
            allowed=f"0 to {KEY_BYTES_MAX} bytes",
        )
    return raw


def checked_value(raw: bytes) -> bytes:
    """Return the value if its length is allowed. Raises BadRequest."""
    if len(raw) > VALUE_BYTES_MAX:
        raise BadRequest(
            "value_too_large",
            f"the value has {len(raw)} bytes",
            allowed=f"0 to {VALUE_BYTES_MAX} bytes",
        )
    return raw


def key_of(form: Bytes) -> bytes:
    return checked_key(bytes_of(form, "key"))


# ----------------------------------------------------------------------------- scalars in text form

_DIGITS: Final = re.compile(r"[0-9]{1,16}")
_SECONDS: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")
_ETAG: Final = re.compile(r'\s*"([0-9]{1,16})"\s*')


def revision_of(text: str, name: str, *, low: int = 0) -> int:
    """Return a revision given as text. Raises BadRequest."""
    if not _DIGITS.fullmatch(text) or not low <= int(text) <= REVISION_MAX:
        raise BadRequest(
            "bad_revision",
            f"{name}={text[:40]!r} is no revision",
            allowed=f"{low} to {REVISION_MAX}",
        )
    return int(text)


def count_of(text: str, name: str, most: int) -> int:
    """Return a count from 1 to `most` given as text. Raises BadRequest."""
    if not _DIGITS.fullmatch(text) or not 1 <= int(text) <= most:
        raise BadRequest(
            f"bad_{name}", f"{name}={text[:40]!r} is out of range", allowed=f"1 to {most}"
        )
    return int(text)


def seconds_of(text: str, name: str, most: float) -> float:
    """Return a time above 0 given as text in seconds. Raises BadRequest."""
    if not _SECONDS.fullmatch(text) or not 0 <= float(text) <= most:
        raise BadRequest(
            f"bad_{name}",
            f"{name}={text[:40]!r} is no such time",
            allowed=f"seconds, up to {most:.12g}",
        )
    return float(text)


def ttl_ms_of(seconds: float) -> int:
    """Return milliseconds of a ttl in seconds. Raises BadRequest."""
    if not 0.001 <= seconds <= TTL_S_MAX:
        raise BadRequest(
            "bad_ttl",
            f"ttl={seconds:.12g} is out of range",
            allowed=f"seconds, 0.001 to {TTL_S_MAX}",
        )
    return round(seconds * 1000)


def flag_of(text: str, name: str) -> bool:
    """Return a yes or no given as text; an empty one is yes. Raises BadRequest."""
    match text.lower():
        case "" | "1" | "true" | "yes":
            return True
        case "0" | "false" | "no":
            return False
    raise BadRequest(
        "bad_flag", f"{name}={text[:40]!r} is neither yes nor no", allowed="true or false"
    )


def checked_op_id(text: str, *, reserved: tuple[str, ...] = RESERVED_PREFIXES) -> str:
    """Return a client's op_id, as it was given. Raises BadRequest, also for one that begins as
    those of nodes do.
    """
    if (
        not 1 <= len(text) <= OP_ID_CHARS_MAX
        or not text.isascii()
        or not text.isprintable()
        or text != text.strip()
    ):
        raise BadRequest(
            "bad_op_id",
            "the op_id is not allowed",
            allowed=f"1 to {OP_ID_CHARS_MAX} printable ASCII",
        )
    for prefix in reserved:
        if text.startswith(prefix):
            raise BadRequest(
                "bad_op_id",
                f"op_ids that begin with {prefix} are made by nodes",
                allowed="any other",
            )
    return text


def unquoted(text: str) -> str:
    """Return an Idempotency-Key without the quotes of a structured field (RFC 8941); bare ones are
    taken too.
    """
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


def preconditions(key: bytes, if_match: str | None, if_none_match: str | None) -> tuple[Guard, ...]:
    """Return the guards that If-Match and If-None-Match of a write ask for. Raises BadRequest."""
    if if_match is not None and if_none_match is not None:
        raise BadRequest(
            "two_conditions", "If-Match and If-None-Match exclude each other", allowed="one of them"
        )
    if if_none_match is not None:
        if if_none_match.strip() != "*":
            raise BadRequest(
                "bad_if_none_match", "only If-None-Match: * works on a write", allowed="*"
            )
        return (Absent(key),)
    if if_match is None:
        return ()
    if if_match.strip() == "*":
        return (Exists(key),)
    return (AtRevision(key, etags(if_match, "If-Match")),)


def etags(header: str, name: str) -> tuple[int, ...]:
    """Return the revisions in a list of strong ETags. Raises BadRequest."""
    parts = header.split(",")
    found = [_ETAG.fullmatch(part) for part in parts[: REVISIONS_MAX + 1]]
    if len(parts) > REVISIONS_MAX or any(
        m is None or not 1 <= int(m[1]) <= REVISION_MAX for m in found
    ):
        raise BadRequest(
            f"bad_{name.lower().replace('-', '_')}",
            f"{name}: {header[:60]!r} is no list of strong ETags of this server",
            allowed=f'*, or "revision", up to {REVISIONS_MAX} of them with commas between',
        )
    return tuple(int(m[1]) for m in found if m)


def matches_none(header: str, revision: int) -> bool:
    """Say whether If-None-Match of a read lets the answer be 304. Weak comparison, so W/ is ignored
    (RFC 9110).
    """
    if header.strip() == "*":
        return True
    return any(
        part.strip().removeprefix("W/") == f'"{revision}"'
        for part in header.split(",")[:REVISIONS_MAX]
    )


# ----------------------------------------------------------------------------------- request bodies

RevisionForm: TypeAlias = Annotated[int, Meta(ge=0, le=REVISION_MAX)]
TtlForm: TypeAlias = Annotated[
    float, Meta(description="Seconds until the key is deleted.", gt=0, le=TTL_S_MAX)
]


class GuardForm(Struct, frozen=True, forbid_unknown_fields=True, rename={"at": "revision"}):
    """A condition on one key: exactly one of `absent`, `exists`, `revision`, `value`."""

    key: Bytes
    absent: Literal[True] | UnsetType = UNSET
    exists: Literal[True] | UnsetType = UNSET
    at: RevisionForm | list[RevisionForm] | UnsetType = UNSET
    """The key's newest version has this revision, or one of these; 0 alone: absent."""
    value: Bytes | UnsetType = UNSET
    """The key is present with this value."""


class WriteForm(Struct, frozen=True, forbid_unknown_fields=True):
    """`{"put": key, "value": …, "ttl": seconds}` or `{"delete": key}`."""

    put: Bytes | UnsetType = UNSET
    value: Bytes | UnsetType = UNSET
    ttl: TtlForm | UnsetType = UNSET
    delete: Bytes | UnsetType = UNSET


class TransactionForm(Struct, frozen=True, forbid_unknown_fields=True):
    """If all `guards` hold then `writes`, else `otherwise`; without `otherwise` it is refused. All
    at one revision.
    """

    guards: list[GuardForm] = []
    writes: list[WriteForm] = []
    otherwise: list[WriteForm] | None = None
    reads: list[Bytes] = []
    """Keys that come back as they were when the guards were evaluated."""
    op_id: str | None = None


class BatchForm(Struct, frozen=True, forbid_unknown_fields=True):
    """Independent operations, each with its own outcome; not atomic."""

    operations: Annotated[list[TransactionForm], Meta(min_length=1, max_length=OPERATIONS_MAX)]


class LegacyPair(Struct, frozen=True, forbid_unknown_fields=True):
    key: Bytes
    value: Bytes


class LegacyForm(Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `PUT /kv`, and answer of `GET /kv`."""

    data: LegacyPair


class TransferForm(Struct, frozen=True, forbid_unknown_fields=True):
    """Whom to hand leadership to; nothing: the most advanced voter."""

    to: str | None = None


class AdoptForm(Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator knows to be given up: the number of settled revisions that /v1/cluster shows
    as `gives_up`.
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
    return len(form.guards) + len(form.writes) + len(form.otherwise or ()) + len(form.reads)


def intent_of(form: TransactionForm, op_id: str) -> Intent:
    """Return the intent that the form asks for, its deadline not yet set. Raises BadRequest."""
    if parts_of(form) > OPERATIONS_MAX:
        raise BadRequest(
            "too_many_operations",
            f"{parts_of(form)} guards, writes and reads in one transaction",
            allowed=f"up to {OPERATIONS_MAX}",
        )
    return Intent(
        op_id=op_id,
        deadline_ms=0,
        guards=tuple(_guard(g) for g in form.guards),
        writes=_writes(form.writes, "writes"),
        otherwise=None if form.otherwise is None else _writes(form.otherwise, "otherwise"),
        reads=tuple(key_of(key) for key in form.reads),
    )


def _guard(form: GuardForm) -> Guard:
    given = [
        name for name in ("absent", "exists", "at", "value") if getattr(form, name) is not UNSET
    ]
    if len(given) != 1:
        raise BadRequest(
            "bad_guard",
            "a guard has one condition",
            allowed="exactly one of absent, exists, revision, value",
        )
    key = key_of(form.key)
    if form.absent is True or form.at == 0:
        return Absent(key)
    if form.exists is True:
        return Exists(key)
    if not isinstance(form.value, UnsetType):
        return Equals(key, value_hash(checked_value(bytes_of(form.value, "value"))))
    revisions = form.at if isinstance(form.at, list) else [form.at]
    found = tuple(r for r in revisions if isinstance(r, int) and r > 0)
    if not found or len(found) < len(revisions) or len(found) > REVISIONS_MAX:
        raise BadRequest(
            "bad_guard",
            "revision is no list of revisions",
            allowed=f"1 to {REVISIONS_MAX} of them, or 0 for absent",
        )
    return AtRevision(key, found)


def _writes(forms: Iterable[WriteForm], where: str) -> tuple[Write, ...]:
    writes = tuple(_write(form) for form in forms)
    if len({w.key for w in writes}) < len(writes):
        raise BadRequest("duplicate_key", f"a key stands twice in {where}", allowed="each key once")
    return writes


def _write(form: WriteForm) -> Write:
    if isinstance(form.delete, UnsetType):
        if isinstance(form.put, UnsetType) or isinstance(form.value, UnsetType):
            raise BadRequest(
                "bad_write",
                "neither a put with a value nor a delete",
                allowed="put and value, or delete",
            )
        ttl = None if isinstance(form.ttl, UnsetType) else ttl_ms_of(form.ttl)
        return Put(key_of(form.put), checked_value(bytes_of(form.value, "value")), ttl)
    if not all(isinstance(other, UnsetType) for other in (form.put, form.value, form.ttl)):
        raise BadRequest("bad_write", "a delete has nothing else", allowed='{"delete": key}')
    return Delete(key_of(form.delete))


# ------------------------------------------------------------------------------------------ answers


class WrittenAnswer(Struct, frozen=True):
    """A write of one key took effect."""

    revision: int
    existed: bool
    """The key was present before."""
    again: bool
    """An earlier attempt with this op_id had done it; this is its outcome."""
    op_id: str


class ReadAnswer(Struct, frozen=True, omit_defaults=True):
    """One key as a read saw it; `revision` 0: absent."""

    key: str | dict[str, str]
    revision: int
    value: str | dict[str, str] | UnsetType | None = UNSET
    """Left out when it can no longer be had (pruned), or with `keys_only`; null: absent."""
    expires_ms: int | None = None
    """Log time at which it will be deleted."""


class TransactionAnswer(Struct, frozen=True):
    """A transaction took effect by `writes` ("then") or by `otherwise`, or (reads alone) saw one
    snapshot.
    """

    revision: int
    branch: Literal["then", "otherwise"]
    reads: list[ReadAnswer]
    again: bool = False
    op_id: str | None = None


class ItemAnswer(Struct, frozen=True, omit_defaults=True):
    """How one operation of a batch ended, or what is known of an op_id."""

    op_id: str
    outcome: Literal[
        "applied",
        "refused",
        "expired",
        "mismatch",
        "not_applied",
        "unknown",
        "pending",
        "bad_request",
    ]
    revision: int = 0
    again: bool = False
    branch: Literal["then", "otherwise"] = "then"
    guard: int | None = None
    current: int | None = None
    seen: list[int] | None = None
    """Revisions of `reads` as the guards saw them."""
    code: str | None = None
    detail: str = ""
    advice: str | None = None


class BatchAnswer(Struct, frozen=True):
    results: list[ItemAnswer]


class ListingAnswer(Struct, frozen=True, omit_defaults=True, rename={"continue_": "continue"}):
    """One page of keys in byte order; every page of a listing shows `revision`."""

    revision: int
    items: list[ReadAnswer]
    continue_: str | None = None
    """Token of the next page; left out on the last."""


class LeaderAnswer(Struct, frozen=True):
    """Who leads, as the answering node knows it."""

    id: str
    url: str | None
    term: int
    quorum: bool
    since_ms: int | None


class LedgerAnswer(Struct, frozen=True):
    """Rows of the ledger, and the `seq` to go on from (null: the end)."""

    rows: list[dict[str, Any]]
    next: int | None


def first_outcome(answer: Answer) -> tuple[int, Outcome, bool]:
    """Return revision, outcome and whether an earlier attempt had it."""
    if isinstance(answer.outcome, Again):
        return answer.outcome.revision, answer.outcome.outcome, True
    return answer.revision, answer.outcome, False


def item_of(op_id: str, answer: Answer) -> ItemAnswer:
    """Return the JSON form of an answer."""
    revision, outcome, again = first_outcome(answer)
    match outcome:
        case Applied(branch, seen):
            return ItemAnswer(op_id, "applied", revision, again, branch, seen=list(seen) or None)
        case Refused(guard, current, seen):
            return ItemAnswer(
                op_id,
                "refused",
                revision,
                again,
                guard=guard,
                current=current,
                seen=list(seen) or None,
                code="refused",
            )
        case Expired():
            return ItemAnswer(op_id, "expired", revision, again, code="expired")
        case _:
            return ItemAnswer(op_id, "mismatch", revision, again, code="mismatch")


def operation_of(found: Operation) -> ItemAnswer:
    return item_of(found.op_id, Answer(found.revision, found.outcome))


def ledger_row(row: LedgerRow) -> dict[str, Any]:
    """Return a ledger row as JSON: digests and hashes in hex."""
    return {
        "seq": row.seq,
        "term": row.term,
        "committer": row.committer,
        "first": row.first,
        "last": row.last,
        "digest": row.digest.hex(),
        "log_time_ms": row.log_time_ms,
        "body": [_recorded(record, row.first + n) for n, record in enumerate(row.body)],
    }


def _recorded(record: Recorded, revision: int) -> dict[str, Any]:
    return {
        "revision": revision,
        "op_id": record.op_id,
        "body_hash": record.body_hash.hex(),
        **outcome_form(record.outcome),
        "keys": [form_of(key) for key in record.keys],
    }


def outcome_form(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as JSON fields."""
    match outcome:
        case Applied(branch, seen):
            return {"outcome": "applied", "branch": branch, "seen": list(seen)}
        case Refused(guard, current, seen):
            return {"outcome": "refused", "guard": guard, "current": current, "seen": list(seen)}
        case Expired():
            return {"outcome": "expired"}
        case Again(revision, first):
            return {"outcome": "again", "first": {"revision": revision, **outcome_form(first)}}
        case Mismatch():
            return {"outcome": "mismatch"}


def read_answer(
    key: bytes,
    revision: int,
    value: bytes | UnsetType | None = UNSET,
    expires_ms: int | None = None,
) -> ReadAnswer:
    shown = form_of(value) if isinstance(value, bytes) else value
    return ReadAnswer(form_of(key), revision, shown, expires_ms)


def read_back(keys: Sequence[bytes], seen: Sequence[int]) -> list[tuple[bytes, int]]:
    """Return the versions (key, revision) to fetch so that a transaction's reads come with their
    values.
    """
    return [(key, revision) for key, revision in zip(keys, seen, strict=False) if revision]
