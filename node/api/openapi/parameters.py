"""Define the parameters that endpoints share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from kv.model import (
    KEY_BYTES_MAX,
    OP_ID_CHARS_MAX,
    REVISION_MAX,
)
from node.reads.levels import LEVELS
from node.wire.lease_forms import LEASE_ID


class Parameter(NamedTuple):
    """One parameter of an endpoint. `where`: path, query or header."""

    name: str
    where: str
    schema: Mapping[str, Any]
    text: str
    required: bool = False


REVISION: Final = {"type": "integer", "minimum": 0, "maximum": REVISION_MAX}
OP_ID: Final = {
    "type": "string",
    "minLength": 1,
    "maxLength": OP_ID_CHARS_MAX,
    "pattern": "^[!-}][ -~]*$",
}
LEVEL: Final = {"type": "string", "enum": list(LEVELS), "default": LEVELS[0]}
SECONDS: Final = {"type": "number", "minimum": 0}
FLAG: Final = {"type": "boolean"}
KEY: Final = Parameter(
    "key", "path", {"type": "string", "minLength": 1, "maxLength": KEY_BYTES_MAX},
    f"1 to {KEY_BYTES_MAX} bytes, percent-encoded; %2F, .. and // stand for themselves.", True,
)  # fmt: skip
LEGACY_KEY: Final = Parameter(
    "key", "query", {"type": "string", "minLength": 1, "maxLength": KEY_BYTES_MAX}, "The key.", True
)
READ: Final = (
    Parameter("consistency", "query", LEVEL, "How fresh the answer has to be."),
    Parameter("min_revision", "query", REVISION, "Answer from a state at or above this revision."),
    Parameter(
        "max_age", "query", SECONDS, "With consistency=stale: oldest state to serve, in seconds."
    ),
)
IDEMPOTENT: Final = (
    Parameter(
        "Idempotency-Key",
        "header",
        OP_ID,
        "The op_id: the write takes effect at most once per op_id.",
    ),
    Parameter("op_id", "query", OP_ID, "The same, where headers cannot be set."),
)
TIMED: Final = Parameter(
    "Acordo-Timing",
    "header",
    {"type": "string", "enum": ["true"]},
    "Answer with Server-Timing: `accept`, until the write was admitted, and `order`, until its "
    "outcome was known, in milliseconds.",
)
LASTING: Final = (
    *IDEMPOTENT,
    Parameter(
        "Acordo-Lifetime",
        "header",
        SECONDS,
        "For how long it may take effect, if longer than the request.",
    ),
)
CONDITIONS: Final = (
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
PREFIX: Final = Parameter(
    "prefix", "query", {"type": "string", "maxLength": KEY_BYTES_MAX}, "What keys begin with."
)
LEASE: Final = Parameter("id", "path", LEASE_ID, "The lease: hexadecimal digits.", True)
MEMBER: Final = Parameter(
    "id", "path", {"type": "string", "minLength": 1, "maxLength": 64}, "Id of a member.", True
)
LOOKED_UP: Final = Parameter(
    "op_id",
    "path",
    {"type": "string", "minLength": 1, "maxLength": OP_ID_CHARS_MAX},
    "The op_id.",
    True,
)
