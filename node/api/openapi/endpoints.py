"""Describe every endpoint: its parameters and body, its answers, its refusals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from kv.model import (
    OPERATIONS_MAX,
    REQUEST_BYTES_MAX,
    VALUE_BYTES_MAX,
)
from node.api.keys import HISTORY_MAX
from node.api.leases import LIMIT_MAX as LEASES_MAX
from node.api.listing import LIMIT_MAX as LISTING_MAX
from node.api.openapi.answers import (
    AcceptedAnswer,
    ActivityAnswer,
    AdoptAnswer,
    AmendAnswer,
    ClusterView,
    ControlAnswer,
    HealthView,
    LegacyAnswer,
    TransferAnswer,
)
from node.api.openapi.parameters import (
    CONDITIONS,
    FLAG,
    IDEMPOTENT,
    KEY,
    LASTING,
    LEASE,
    LEGACY_KEY,
    LEVEL,
    LOOKED_UP,
    MEMBER,
    PREFIX,
    READ,
    REVISION,
    TIMED,
    Parameter,
)
from node.api.watching.polling import POLL_S_MAX
from node.exchange.headers import BYTES, JSON
from node.reads.separated import SEPARATOR_BYTES_MAX
from node.wire.answers import (
    BatchAnswer,
    ChangesAnswer,
    HistoryAnswer,
    ItemAnswer,
    LeaderAnswer,
    LedgerAnswer,
    ListingAnswer,
    TransactionAnswer,
    WrittenAnswer,
)
from node.wire.lease_forms import (
    IDS_MAX,
    LEASE_ID,
    GrantedAnswer,
    GrantForm,
    KeepAliveForm,
    LeaseAnswer,
    LeasesAnswer,
    RenewedAnswers,
    RevokedAnswer,
)
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


class Endpoint(NamedTuple):
    """One method of one path. `answers`: status → (text, media type, type of the body if JSON)."""

    summary: str
    answers: Mapping[int, tuple[str, str, Any]]
    refusals: tuple[int, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    body: Any = None
    """The body: a type for JSON, or `bytes`."""
    body_required: bool = True
    also: Mapping[int, tuple[str, Any]] = {}
    """status → (media type, type) of what it answers if asked otherwise."""


_WRITE: Final = (400, 408, 413, 422, 503, 504)
ENDPOINTS: Final[dict[tuple[str, str], Endpoint]] = {
    ("/v1/kv/{key}", "GET"): Endpoint(
        "Read a key: raw bytes, ETag = revision.",
        {200: ("The value.", BYTES, bytes), 304: ("Not changed since If-None-Match.", "", None)},
        (400, 404, 410, 503),
        (
            KEY,
            *READ,
            Parameter(
                "revision",
                "query",
                {**REVISION, "minimum": 1},
                "Read the key as it was at this revision.",
            ),
        ),
    ),
    ("/v1/kv/{key}", "PUT"): Endpoint(
        f"Set a key (up to {VALUE_BYTES_MAX} bytes).",
        {200: ("Replaced.", JSON, WrittenAnswer), 201: ("Created.", JSON, WrittenAnswer)},
        (*_WRITE, 404, 409, 412),
        (
            KEY,
            *LASTING,
            *CONDITIONS,
            TIMED,
            Parameter(
                "ttl", "query", {"type": "number", "minimum": 0.001}, "Seconds until it is deleted."
            ),
            Parameter("lease", "query", LEASE_ID, "The lease that it ends with."),
        ),
        bytes,
    ),
    ("/v1/kv/{key}", "DELETE"): Endpoint(
        "Make a key absent; Acordo-Existed says whether it was present.",
        {200: ("Absent now.", JSON, WrittenAnswer)},
        (400, 412, 422, 503, 504),
        (KEY, *LASTING, *CONDITIONS, TIMED),
    ),
    ("/v1/history/{key}", "GET"): Endpoint(
        "Show the kept versions of a key, newest first; a deletion has the value null.",
        {200: ("The versions.", JSON, HistoryAnswer)},
        (400, 410, 503),
        (
            KEY,
            Parameter(
                "limit",
                "query",
                {"type": "integer", "minimum": 1, "maximum": HISTORY_MAX},
                "The number of versions.",
            ),
            Parameter(
                "before", "query", {**REVISION, "minimum": 2}, "`before` of the answer before."
            ),
        ),
    ),
    ("/v1/kv", "GET"): Endpoint(
        "List keys, in byte order unless another is asked for; all pages show one revision.",
        {200: ("A page.", JSON, ListingAnswer)},
        (400, 410, 503),
        (
            PREFIX,
            Parameter(
                "start",
                "query",
                {"type": "string"},
                "Instead of a prefix: first key of a range.",
            ),
            Parameter(
                "end",
                "query",
                {"type": "string"},
                "The first key behind the range; a zero byte, or left out: it has no end.",
            ),
            Parameter(
                "revision",
                "query",
                {**REVISION, "minimum": 1},
                "List the keys as they were at this revision.",
            ),
            Parameter(
                "limit",
                "query",
                {"type": "integer", "minimum": 1, "maximum": LISTING_MAX},
                "Keys per page.",
            ),
            Parameter("continue", "query", {"type": "string"}, "Token of the page before."),
            Parameter("keys_only", "query", FLAG, "Leave the values out."),
            Parameter(
                "separator",
                "query",
                {"type": "string", "minLength": 1, "maxLength": SEPARATOR_BYTES_MAX},
                "Fold the keys with this behind the prefix: `prefixes` tells what they begin with, "
                "up to and with it, each once. `limit` counts both. The last page may be empty.",
            ),
            Parameter(
                "sort",
                "query",
                {"enum": ["key", "revision", "create_revision", "version"]},
                "By what the keys are put in order; all of them are looked at for each page.",
            ),
            Parameter("order", "query", {"enum": ["asc", "desc"]}, "Its direction."),
            Parameter("count_only", "query", FLAG, "Only tell how many keys there are."),
            *(
                Parameter(f"{which}_{what}_revision", "query", REVISION, f"{words} {which}imum.")
                for which in ("min", "max")
                for what, words in (("mod", "Its revision's"), ("create", "create_revision's"))
            ),
            Parameter("consistency", "query", LEVEL, "Accepted; listings are always linearizable."),
            Parameter(
                "min_revision", "query", REVISION, "Answer from a state at or above this revision."
            ),
        ),
    ),
    ("/v1/leases", "POST"): Endpoint(
        "Grant a lease: keys put with it are deleted when it ends.",
        {201: ("Granted.", JSON, GrantedAnswer)},
        (*_WRITE, 409, 415),
        LASTING,
        GrantForm,
    ),
    ("/v1/leases", "GET"): Endpoint(
        "List leases by id.",
        {200: ("A page.", JSON, LeasesAnswer)},
        (400, 503),
        (
            Parameter(
                "limit",
                "query",
                {"type": "integer", "minimum": 1, "maximum": LEASES_MAX},
                "Leases per page.",
            ),
            Parameter("continue", "query", LEASE_ID, "`continue` of the page before."),
        ),
    ),
    ("/v1/leases/{id}", "GET"): Endpoint(
        "Tell how long a lease lives.",
        {200: ("It is there.", JSON, LeaseAnswer)},
        (400, 404, 503),
        (LEASE, Parameter("keys", "query", FLAG, "Tell the keys attached to it too.")),
    ),
    ("/v1/leases/{id}", "DELETE"): Endpoint(
        "End a lease; all its keys are deleted at the revision that is answered.",
        {200: ("Ended.", JSON, RevokedAnswer)},
        (400, 404, 422, 503, 504),
        (LEASE, *LASTING),
    ),
    ("/v1/leases/{id}/keep-alive", "POST"): Endpoint(
        "Let a lease live its whole ttl from now on. It takes no revision.",
        {200: ("It lives on.", JSON, LeaseAnswer)},
        (400, 404, 503),
        (LEASE,),
    ),
    ("/v1/keep-alive", "POST"): Endpoint(
        f"Let up to {IDS_MAX} leases live on.",
        {200: ("What became of each.", JSON, RenewedAnswers)},
        (400, 408, 413, 415, 503),
        (),
        KeepAliveForm,
    ),
    ("/v1/txn", "POST"): Endpoint(
        f"Run a transaction: up to {OPERATIONS_MAX} guards, writes and reads, "
        f"{REQUEST_BYTES_MAX} bytes, one revision.",
        {200: ("It took effect.", JSON, TransactionAnswer)},
        (*_WRITE, 404, 409, 415),
        LASTING,
        TransactionForm,
    ),
    ("/v1/batch", "POST"): Endpoint(
        f"Run up to {OPERATIONS_MAX} independent operations, {REQUEST_BYTES_MAX} bytes; not "
        f"atomic.",
        {200: ("How each ended.", JSON, BatchAnswer)},
        (400, 408, 413, 415, 503, 504),
        (),
        BatchForm,
    ),
    ("/v1/async", "POST"): Endpoint(
        "Hand a write to the broker; workers submit it.",
        {202: ("In the broker's hands.", JSON, AcceptedAnswer)},
        (400, 408, 413, 415, 501, 503, 504),
        IDEMPOTENT,
        TransactionForm,
    ),
    ("/v1/operations/{op_id}", "GET"): Endpoint(
        "Look up what is known of an operation; changes nothing.",
        {200: ("What is known.", JSON, ItemAnswer)},
        (400, 503, 504),
        (LOOKED_UP,),
    ),
    ("/v1/operations/{op_id}", "POST"): Endpoint(
        "Make the outcome of an operation definite: one that nobody knows is cancelled, and "
        "never takes effect.",
        {200: ("How it ended, or that it is pending.", JSON, ItemAnswer)},
        (400, 408, 413, 415, 503, 504),
        (LOOKED_UP,),
        NothingForm,
        False,
    ),
    ("/v1/watch", "GET"): Endpoint(
        "Follow changes under a prefix as server-sent events.",
        {200: ("put, delete, progress and error events; the id is opaque.", EVENTS, None)},
        (400, 410, 503),
        (
            PREFIX,
            Parameter("after", "query", REVISION, "Begin after this revision; nothing: now."),
            Parameter("Last-Event-ID", "header", {"type": "string"}, "Resume after this event."),
            Parameter(
                "poll",
                "query",
                {"type": "number", "minimum": 0, "maximum": POLL_S_MAX},
                "Answer with one JSON document: the next changes, waited for so many seconds "
                "(15 at most; then it answers without any), and "
                "`next`, the position to ask after. Without a position it tells the present one.",
            ),
        ),
        also={200: (JSON, ChangesAnswer)},
    ),
    ("/v1/leader", "GET"): Endpoint(
        "Who leads.", {200: ("The leader.", JSON, LeaderAnswer)}, (400, 503)
    ),
    ("/v1/cluster", "GET"): Endpoint(
        "Every member.", {200: ("The cluster.", JSON, ClusterView)}, (400,)
    ),
    ("/v1/activity", "GET"): Endpoint(
        "What this node acknowledged since it started, and the changes of leader it saw.",
        {200: ("Its figures.", JSON, ActivityAnswer)},
        (400,),
    ),
    ("/v1/control", "GET"): Endpoint(
        "Where the local runner that started this node is told to kill, pause, cut off and heal "
        "members. For callers of the same machine alone.",
        {200: ("Its control port.", JSON, ControlAnswer)},
        (400, 404),
    ),
    ("/v1/cluster/transfer", "POST"): Endpoint(
        "Hand leadership over.",
        {200: ("Who leads now.", JSON, TransferAnswer)},
        (400, 404, 408, 409, 413, 415, 503, 504),
        (),
        TransferForm,
        False,
    ),
    ("/v1/cluster/members", "POST"): Endpoint(
        "Add a member.",
        {201: ("The cluster.", JSON, ClusterView)},
        (400, 408, 409, 413, 415, 503, 504),
        (),
        MemberForm,
    ),
    ("/v1/cluster/members/{id}", "DELETE"): Endpoint(
        "Remove a member.",
        {200: ("The cluster.", JSON, ClusterView)},
        (400, 404, 409, 503, 504),
        (MEMBER,),
    ),
    ("/v1/cluster/members/{id}/promote", "POST"): Endpoint(
        "Let an observer vote.",
        {200: ("The cluster.", JSON, ClusterView)},
        (400, 404, 409, 503, 504),
        (MEMBER,),
    ),
    ("/v1/cluster/limits", "POST"): Endpoint(
        "Let the retentions that this node is set to be those of all members.",
        {200: ("Which of them changed.", JSON, AmendAnswer)},
        (400, 503, 504),
    ),
    ("/v1/cluster/adopt", "POST"): Endpoint(
        "Adopt the store's head after a restore.",
        {200: ("What is settled now.", JSON, AdoptAnswer)},
        (400, 408, 409, 413, 415, 503, 504),
        (),
        AdoptForm,
        False,
    ),
    ("/v1/verify", "GET"): Endpoint(
        "Check every version, every row and the indexes of this node's store now: a line of JSON "
        "a step, the last with `done`.",
        {200: ("The steps.", "application/x-ndjson", bytes)},
        (400, 503),
        (Parameter("revision", "query", REVISION, "As of which keys are digested."),),
    ),
    ("/v1/backup", "GET"): Endpoint(
        "Everything that the store holds up to one revision, as the file that `acordo restore` "
        "takes; its end says whether it is whole.",
        {200: ("The backup.", BYTES, bytes)},
        (400, 410, 503),
        (
            Parameter("since", "query", REVISION, "After which revision; nothing: everything."),
            Parameter(
                "digest",
                "query",
                {"type": "string", "pattern": "^[0-9a-f]{64}$"},
                "Of the order up to it, as the earlier backup says.",
            ),
        ),
    ),
    ("/v1/ledger", "GET"): Endpoint(
        "Rows of the ledger.",
        {200: ("Rows by seq.", JSON, LedgerAnswer)},
        (400, 503),
        (
            Parameter("from", "query", REVISION, "First seq; nothing: the oldest kept."),
            Parameter(
                "limit",
                "query",
                {"type": "integer", "minimum": 1, "maximum": 1000},
                "Rows per page.",
            ),
        ),
    ),
    ("/kv", "GET"): Endpoint(
        "Read a key (original API).",
        {200: ("Key and value.", JSON, LegacyAnswer)},
        (400, 404, 503),
        (LEGACY_KEY, *READ),
    ),
    ("/kv", "PUT"): Endpoint(
        "Set a key (original API).",
        {200: ("Set.", JSON, LegacyAnswer)},
        (*_WRITE, 412, 415),
        (*LASTING, *CONDITIONS),
        LegacyForm,
    ),
    ("/kv", "DELETE"): Endpoint(
        "Make a key absent (original API).",
        {200: ("Absent now.", JSON, LegacyAnswer)},
        (400, 404, 412, 422, 503, 504),
        (LEGACY_KEY, *LASTING, *CONDITIONS),
    ),
    ("/health", "GET"): Endpoint(
        "How this node is.",
        {200: ("Well.", JSON, HealthView), 503: ("Unavailable.", JSON, HealthView)},
    ),
    ("/livez", "GET"): Endpoint("This process lives.", {200: ("ok", TEXT, None)}),
    ("/readyz", "GET"): Endpoint(
        "Whether this node should get traffic.",
        {200: ("It should.", TEXT, None), 503: ("It should not.", TEXT, None)},
        (400,),
        (
            Parameter("verbose", "query", FLAG, "Say why."),
            Parameter(
                "exclude", "query", {"type": "string"}, "Checks to leave out, with commas between."
            ),
        ),
    ),
    ("/metrics", "GET"): Endpoint("For Prometheus.", {200: ("Metrics.", TEXT, None)}),
    ("/openapi.json", "GET"): Endpoint(
        "This document.", {200: ("OpenAPI 3.1.", JSON, dict[str, Any])}
    ),
}
