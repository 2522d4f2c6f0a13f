"""GET /openapi.json: OpenAPI 3.1, made from the very types that validate and answer (node/wire/forms,
node/wire/problems).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec
from aiohttp import web

from kv.model import (
    KEY_BYTES_MAX,
    OP_ID_CHARS_MAX,
    OPERATIONS_MAX,
    REQUEST_BYTES_MAX,
    REVISION_MAX,
    VALUE_BYTES_MAX,
)
from kv.ports import Member
from node.api.listing import LIMIT_MAX as LISTING_MAX
from node.exchange.exchange import Exchange
from node.exchange.headers import BYTES, JSON
from node.reads.levels import LEVELS
from node.wire.answers import (
    BatchAnswer,
    ItemAnswer,
    LeaderAnswer,
    LedgerAnswer,
    ListingAnswer,
    TransactionAnswer,
    WrittenAnswer,
)
from node.wire.documents import encode
from node.wire.problems import CONTENT_TYPE, Problem
from node.wire.requests import (
    AdoptForm,
    BatchForm,
    LegacyForm,
    MemberForm,
    NothingForm,
    TransactionForm,
    TransferForm,
)

TEXT: Final = "text/plain"
EVENTS: Final = "text/event-stream"


class Parameter(NamedTuple):
    name: str
    where: str
    schema: Mapping[str, Any]
    text: str
    required: bool = False


class Operation(NamedTuple):
    """One method of one path. `answers`: status → (text, media type, type of the body if JSON)."""

    summary: str
    answers: Mapping[int, tuple[str, str, Any]]
    refusals: tuple[int, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    body: Any = None
    """A type (JSON), or bytes."""
    body_required: bool = True


_REVISION: Final = {"type": "integer", "minimum": 0, "maximum": REVISION_MAX}
_OP_ID: Final = {
    "type": "string",
    "minLength": 1,
    "maxLength": OP_ID_CHARS_MAX,
    "pattern": "^[!-}][ -~]*$",
}
_LEVEL: Final = {"type": "string", "enum": list(LEVELS), "default": LEVELS[0]}
_SECONDS: Final = {"type": "number", "minimum": 0}
_FLAG: Final = {"type": "boolean"}

_KEY: Final = Parameter(
    "key", "path", {"type": "string", "minLength": 1, "maxLength": KEY_BYTES_MAX},
    f"1 to {KEY_BYTES_MAX} bytes, percent-encoded; %2F, .. and // stand for themselves.", True,
)  # fmt: skip
_LEGACY_KEY: Final = Parameter(
    "key", "query", {"type": "string", "minLength": 1, "maxLength": KEY_BYTES_MAX}, "The key.", True
)
_READ: Final = (
    Parameter("consistency", "query", _LEVEL, "How fresh the answer has to be."),
    Parameter("min_revision", "query", _REVISION, "Answer from a state at or above this revision."),
    Parameter(
        "max_age", "query", _SECONDS, "With consistency=stale: oldest state to serve, in seconds."
    ),
)
_IDEMPOTENT: Final = (
    Parameter(
        "Idempotency-Key",
        "header",
        _OP_ID,
        "The op_id: the write takes effect at most once per op_id.",
    ),
    Parameter("op_id", "query", _OP_ID, "The same, where headers cannot be set."),
)
_LASTING: Final = (
    *_IDEMPOTENT,
    Parameter(
        "Acordo-Lifetime",
        "header",
        _SECONDS,
        "For how long it may take effect, if longer than the request.",
    ),
)
_CONDITIONS: Final = (
    Parameter(
        "If-Match",
        "header",
        {"type": "string"},
        'Only if the key has one of these ETags; "*": if present.',
    ),
    Parameter(
        "If-None-Match", "header", {"type": "string", "enum": ["*"]}, "Only if the key is absent."
    ),
)
_PREFIX: Final = Parameter(
    "prefix", "query", {"type": "string", "maxLength": KEY_BYTES_MAX}, "What keys begin with."
)
_MEMBER: Final = Parameter(
    "id", "path", {"type": "string", "minLength": 1, "maxLength": 64}, "Id of a member.", True
)
_LOOKED_UP: Final = Parameter(
    "op_id",
    "path",
    {"type": "string", "minLength": 1, "maxLength": OP_ID_CHARS_MAX},
    "The op_id.",
    True,
)
_WRITE: Final = (400, 408, 413, 422, 503, 504)


class ClusterView(msgspec.Struct, frozen=True):
    """How the answering node sees the cluster; more fields may come."""

    node: str
    role: str
    term: int
    leader: str | None
    leader_url: str | None
    leader_since_ms: int | None
    quorum: bool
    taken_over: bool
    ordered: int
    settled: int
    digest: str
    pending: int
    floor: int
    namespace: int
    gives_up: int | None
    gives_up_after: int | None
    cluster_id: str
    channels: dict[str, str]
    history: str | None
    limits_differ: list[str]
    diverged: bool
    log_time_ms: int
    refusal: str | None
    fsync: str
    members: list[Member]
    broadcast_lag: int | None
    unsynced_age_s: float
    conflicts: list[str]
    """What keeps members apart, for people."""
    counts: dict[str, int]
    stamped: bool
    store_trouble: str | None
    unfit: str | None
    url: str
    version: str
    now_ms: int
    """Log time now: what `expires_ms` is held against."""
    unready: list[dict[str, str]]
    """Why the answering node is not ready: `check`, `code`, `why`. Empty: it is."""


class HealthView(msgspec.Struct, frozen=True):
    """How this node is."""

    status: str
    node: str
    role: str
    leader: str | None
    checks: dict[str, str]


class TransferAnswer(msgspec.Struct, frozen=True):
    leader: str


class AmendAnswer(msgspec.Struct, frozen=True):
    changed: tuple[str, ...]


class AdoptAnswer(msgspec.Struct, frozen=True):
    settled: int


class AcceptedAnswer(msgspec.Struct, frozen=True):
    op_id: str
    operation: str


class LegacyAnswer(msgspec.Struct, frozen=True):
    data: dict[str, Any]
    revision: int


OPERATIONS: Final[dict[tuple[str, str], Operation]] = {
    ("/v1/kv/{key}", "GET"): Operation(
        "Read a key: raw bytes, ETag = revision.",
        {200: ("The value.", BYTES, bytes), 304: ("Not changed since If-None-Match.", "", None)},
        (400, 404, 410, 503),
        (
            _KEY,
            *_READ,
            Parameter(
                "revision",
                "query",
                {**_REVISION, "minimum": 1},
                "Read the key as it was at this revision.",
            ),
        ),
    ),
    ("/v1/kv/{key}", "PUT"): Operation(
        f"Set a key (up to {VALUE_BYTES_MAX} bytes).",
        {200: ("Replaced.", JSON, WrittenAnswer), 201: ("Created.", JSON, WrittenAnswer)},
        (*_WRITE, 412),
        (
            _KEY,
            *_LASTING,
            *_CONDITIONS,
            Parameter(
                "ttl", "query", {"type": "number", "minimum": 0.001}, "Seconds until it is deleted."
            ),
        ),
        bytes,
    ),
    ("/v1/kv/{key}", "DELETE"): Operation(
        "Make a key absent; Acordo-Existed says whether it was present.",
        {200: ("Absent now.", JSON, WrittenAnswer)},
        (400, 412, 422, 503, 504),
        (_KEY, *_LASTING, *_CONDITIONS),
    ),
    ("/v1/kv", "GET"): Operation(
        "List keys in byte order; all pages show one revision.",
        {200: ("A page.", JSON, ListingAnswer)},
        (400, 410, 503),
        (
            _PREFIX,
            Parameter(
                "limit",
                "query",
                {"type": "integer", "minimum": 1, "maximum": LISTING_MAX},
                "Keys per page.",
            ),
            Parameter("continue", "query", {"type": "string"}, "Token of the page before."),
            Parameter("keys_only", "query", _FLAG, "Leave the values out."),
            Parameter(
                "consistency", "query", _LEVEL, "Accepted; listings are always linearizable."
            ),
            Parameter(
                "min_revision", "query", _REVISION, "Answer from a state at or above this revision."
            ),
        ),
    ),
    ("/v1/txn", "POST"): Operation(
        f"Run a transaction: up to {OPERATIONS_MAX} guards, writes and reads, {REQUEST_BYTES_MAX} bytes, one revision.",
        {200: ("It took effect.", JSON, TransactionAnswer)},
        (*_WRITE, 409, 415),
        _LASTING,
        TransactionForm,
    ),
    ("/v1/batch", "POST"): Operation(
        f"Run up to {OPERATIONS_MAX} independent operations, {REQUEST_BYTES_MAX} bytes; not atomic.",
        {200: ("How each ended.", JSON, BatchAnswer)},
        (400, 408, 413, 415, 503, 504),
        (),
        BatchForm,
    ),
    ("/v1/async", "POST"): Operation(
        "Hand a write to the broker; workers submit it.",
        {202: ("In the broker's hands.", JSON, AcceptedAnswer)},
        (400, 408, 413, 415, 501, 503, 504),
        _IDEMPOTENT,
        TransactionForm,
    ),
    ("/v1/operations/{op_id}", "GET"): Operation(
        "Look up what is known of an operation; changes nothing.",
        {200: ("What is known.", JSON, ItemAnswer)},
        (400, 503, 504),
        (_LOOKED_UP,),
    ),
    ("/v1/operations/{op_id}", "POST"): Operation(
        "Make the outcome of an operation definite: one that nobody knows is cancelled, and never takes effect.",
        {200: ("How it ended, or that it is pending.", JSON, ItemAnswer)},
        (400, 408, 413, 415, 503, 504),
        (_LOOKED_UP,),
        NothingForm,
        False,
    ),
    ("/v1/watch", "GET"): Operation(
        "Follow changes under a prefix as server-sent events.",
        {200: ("put, delete, progress and error events; id = revision.", EVENTS, None)},
        (400, 410, 503),
        (
            _PREFIX,
            Parameter("after", "query", _REVISION, "Begin after this revision; nothing: now."),
            Parameter("Last-Event-ID", "header", {"type": "string"}, "Resume after this revision."),
        ),
    ),
    ("/v1/leader", "GET"): Operation(
        "Who leads.", {200: ("The leader.", JSON, LeaderAnswer)}, (400, 503)
    ),
    ("/v1/cluster", "GET"): Operation(
        "Every member.", {200: ("The cluster.", JSON, ClusterView)}, (400,)
    ),
    ("/v1/cluster/transfer", "POST"): Operation(
        "Hand leadership over.",
        {200: ("Who leads now.", JSON, TransferAnswer)},
        (400, 404, 408, 409, 413, 415, 503, 504),
        (),
        TransferForm,
        False,
    ),
    ("/v1/cluster/members", "POST"): Operation(
        "Add a member.",
        {201: ("The cluster.", JSON, ClusterView)},
        (400, 408, 409, 413, 415, 503, 504),
        (),
        MemberForm,
    ),
    ("/v1/cluster/members/{id}", "DELETE"): Operation(
        "Remove a member.",
        {200: ("The cluster.", JSON, ClusterView)},
        (400, 404, 409, 503, 504),
        (_MEMBER,),
    ),
    ("/v1/cluster/members/{id}/promote", "POST"): Operation(
        "Let an observer vote.",
        {200: ("The cluster.", JSON, ClusterView)},
        (400, 404, 409, 503, 504),
        (_MEMBER,),
    ),
    ("/v1/cluster/limits", "POST"): Operation(
        "Let the retentions that this node is set to be those of all members.",
        {200: ("Which of them changed.", JSON, AmendAnswer)},
        (400, 503, 504),
    ),
    ("/v1/cluster/adopt", "POST"): Operation(
        "Adopt the store's head after a restore.",
        {200: ("What is settled now.", JSON, AdoptAnswer)},
        (400, 408, 409, 413, 415, 503, 504),
        (),
        AdoptForm,
        False,
    ),
    ("/v1/ledger", "GET"): Operation(
        "Rows of the ledger.",
        {200: ("Rows by seq.", JSON, LedgerAnswer)},
        (400, 503),
        (
            Parameter("from", "query", _REVISION, "First seq; nothing: the oldest kept."),
            Parameter(
                "limit",
                "query",
                {"type": "integer", "minimum": 1, "maximum": 1000},
                "Rows per page.",
            ),
        ),
    ),
    ("/kv", "GET"): Operation(
        "Read a key (original API).",
        {200: ("Key and value.", JSON, LegacyAnswer)},
        (400, 404, 503),
        (_LEGACY_KEY, *_READ),
    ),
    ("/kv", "PUT"): Operation(
        "Set a key (original API).",
        {200: ("Set.", JSON, LegacyAnswer)},
        (*_WRITE, 412, 415),
        (*_LASTING, *_CONDITIONS),
        LegacyForm,
    ),
    ("/kv", "DELETE"): Operation(
        "Make a key absent (original API).",
        {200: ("Absent now.", JSON, LegacyAnswer)},
        (400, 404, 412, 422, 503, 504),
        (_LEGACY_KEY, *_LASTING, *_CONDITIONS),
    ),
    ("/health", "GET"): Operation(
        "How this node is.",
        {200: ("Well.", JSON, HealthView), 503: ("Unavailable.", JSON, HealthView)},
    ),
    ("/livez", "GET"): Operation("This process lives.", {200: ("ok", TEXT, None)}),
    ("/readyz", "GET"): Operation(
        "Whether this node should get traffic.",
        {200: ("It should.", TEXT, None), 503: ("It should not.", TEXT, None)},
        (400,),
        (
            Parameter("verbose", "query", _FLAG, "Say why."),
            Parameter(
                "exclude", "query", {"type": "string"}, "Checks to leave out, with commas between."
            ),
        ),
    ),
    ("/metrics", "GET"): Operation("For Prometheus.", {200: ("RequestMetrics.", TEXT, None)}),
    ("/openapi.json", "GET"): Operation(
        "This document.", {200: ("OpenAPI 3.1.", JSON, dict[str, Any])}
    ),
}


def document(version: str, url: str) -> bytes:
    """Return the whole document as JSON."""
    kinds = [Problem]
    for operation in OPERATIONS.values():
        kinds += [
            kind
            for kind in (operation.body, *(a[2] for a in operation.answers.values()))
            if _is_struct(kind)
        ]
    unique = list(dict.fromkeys(kinds))
    schemas, components = msgspec.json.schema_components(
        unique, ref_template="#/components/schemas/{name}"
    )
    refs = dict(zip(unique, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for (path, method), operation in OPERATIONS.items():
        paths.setdefault(path, {})[method.lower()] = _operation(path, method, operation, refs)
    return encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Acordo",
                "version": version,
                "description": _ABOUT,
                "license": {"name": "MIT"},
            },
            "servers": [{"url": url}],
            "paths": paths,
            "components": {"schemas": components, "headers": _HEADERS},
        }
    )


async def get(x: Exchange) -> web.Response:
    """Return the document."""
    return x.reply(200, x.services.openapi, JSON)


_ABOUT: Final = (
    "Linearizable key-value store. 4xx and 503 are definite: this attempt has no effect and never will. 504 is "
    "unknown: look the op_id up, or repeat with the same op_id. Never repeat a write elsewhere without one. "
    "Conditional headers work where they are listed; any other write refuses them."
)
_HEADERS: Final = {
    "Acordo-Node": {"schema": {"type": "string"}, "description": "Who answered."},
    "Acordo-Revision": {
        "schema": {"type": "string"},
        "description": "Everything up to here is in the answer, and of reads nothing after it: watch from here on.",
    },
    "Acordo-Level": {
        "schema": {"type": "string", "enum": list(LEVELS)},
        "description": "Read level that was served.",
    },
}


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _operation(
    path: str, method: str, operation: Operation, refs: Mapping[Any, Any]
) -> dict[str, Any]:
    answers = {
        str(status): {
            "description": text,
            "headers": {
                name: {"$ref": f"#/components/headers/{name}"}
                for name in ("Acordo-Node", "Acordo-Revision")
            },
            **({"content": {media: {"schema": _schema(kind, refs)}}} if media else {}),
        }
        for status, (text, media, kind) in operation.answers.items()
    }
    for status in sorted({*operation.refusals, 503}):
        answers.setdefault(str(status), _refusal(refs))
    found: dict[str, Any] = {
        "operationId": _operation_id(path, method),
        "summary": operation.summary,
        "parameters": [_parameter(p) for p in operation.parameters],
        "responses": answers,
    }
    if operation.body is not None:
        media = BYTES if operation.body is bytes else JSON
        content = {media: {"schema": _schema(operation.body, refs)}}
        found["requestBody"] = {"required": operation.body_required, "content": content}
    return found


def _schema(kind: Any, refs: Mapping[Any, Any]) -> Any:
    if kind is None:
        return {"type": "string"}
    if kind is bytes:
        return {}
    return refs[kind] if _is_struct(kind) else {"type": "object"}


def _refusal(refs: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        "description": "Problem document.",
        "content": {CONTENT_TYPE: {"schema": refs[Problem]}},
    }


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.where,
        "required": parameter.required,
        "description": parameter.text,
        "schema": dict(parameter.schema),
    }


def _operation_id(path: str, method: str) -> str:
    words: Iterable[str] = (
        w.strip("{}") for w in path.strip("/").replace("-", "_").split("/") if w
    )
    return "_".join([method.lower(), *words]).replace(".", "_")
