"""Choose the exit code of a command: one for each thing that the caller can do next."""

from __future__ import annotations

from typing import Final

from acordo._bulk.mirror_point import Excluded
from acordo._errors import (
    AcordoError,
    BadRequest,
    NotApplied,
    OutcomeUnknown,
    Pruned,
    ReadFailed,
    Refused,
    Unreachable,
)

OK: Final = 0
NO: Final = 1
USAGE: Final = 2
NOT_APPLIED: Final = 3
UNKNOWN: Final = 4
UNREACHABLE: Final = 5
PRUNED: Final = 6
LOST: Final = 7
CONFIG: Final = 78
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
INTERRUPTED: Final = 130

CODES: Final = {
    OK: "done",
    NO: "no: key not found, guard did not hold, check failed",
    USAGE: "the request can never work as it is",
    NOT_APPLIED: "not applied, or a read without an answer: retry freely",
    UNKNOWN: (
        "outcome unknown: look the op_id up (acordo operation), or repeat with the same --op-id"
    ),
    UNREACHABLE: "no node could be reached: nothing was changed",
    PRUNED: "the revision asked for is no longer kept",
    LOST: "a lock or a lead was lost, and what ran under it was ended; or another mirror took over",
    CONFIG: "a setting must be mended first, such as a node's URL (sysexits.h: EX_CONFIG)",
    INTERRUPTED: "interrupted, whatever else came of it",
}


def code_of(error: AcordoError) -> int:
    """Return the exit code for an error."""
    match error:
        case Refused():
            return NO
        case BadRequest(code="bad_url" | "no_url"):
            return CONFIG
        case BadRequest():
            return USAGE
        case Unreachable():
            return UNREACHABLE
        case NotApplied() | ReadFailed():
            return NOT_APPLIED
        case OutcomeUnknown():
            return UNKNOWN
        case Pruned():
            return PRUNED
        case Excluded():
            return LOST
    return NOT_APPLIED
