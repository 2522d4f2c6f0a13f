"""Convert leases to JSON and back. Pure.

A lease is named by 16 hexadecimal digits; leading zeros may be left out where one is taken.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from msgspec import Meta, Struct

from kv.errors import BadRequest
from kv.leases import LEASE_TTL_MS_MIN
from kv.model import TTL_MS_MAX

IDS_MAX: Final = 1_000
"""Leases that one request renews."""
LEASE_ID: Final = {"type": "string", "pattern": "^[0-9a-fA-F]{1,16}$"}
_ID: Final = re.compile(r"[0-9a-fA-F]{1,16}")


class GrantForm(Struct, frozen=True, forbid_unknown_fields=True):
    """A lease to grant; without an id, the node chooses one."""

    ttl: Annotated[float, Meta(description="Seconds that it lives without being kept alive.")]
    id: str | None = None
    op_id: str | None = None


class KeepAliveForm(Struct, frozen=True, forbid_unknown_fields=True):
    """The leases to keep alive."""

    ids: list[str]


class GrantedAnswer(Struct, frozen=True):
    """A lease that was granted."""

    id: str
    ttl: float
    revision: int
    again: bool
    """Whether an earlier attempt with this op_id granted it."""
    op_id: str


class RevokedAnswer(Struct, frozen=True):
    """A lease that ended, and the revision that took all its keys."""

    id: str
    revision: int
    again: bool
    op_id: str


class LeaseAnswer(Struct, frozen=True, omit_defaults=True):
    """A lease that is there."""

    id: str
    ttl: float
    left: float | None = None
    """Seconds that it still lives at least, if it is not kept alive. Left out in listings."""
    keys: list[str | dict[str, str]] | None = None
    """The keys attached to it, if they were asked for."""


class RenewedAnswer(Struct, frozen=True, omit_defaults=True):
    """A lease that lives on; or, with `code` and `detail`, one that may or may not."""

    id: str
    ttl: float | None = None
    left: float | None = None
    code: str | None = None
    detail: str | None = None


class RenewedAnswers(Struct, frozen=True):
    """Leases that were to be kept alive, in the order asked for, null where there is none."""

    leases: list[RenewedAnswer | None]


class LeasesAnswer(Struct, frozen=True, omit_defaults=True, rename={"continue_": "continue"}):
    """Leases by id."""

    leases: list[LeaseAnswer]
    continue_: str | None = None
    """Where the next page continues; left out on the last."""


def lease_id(lease: int) -> str:
    """Return the name of a lease."""
    return f"{lease:016x}"


def checked_lease(text: str) -> int:
    """Return a lease given by its name. Raises BadRequest."""
    if not _ID.fullmatch(text) or not 1 <= (lease := int(text, 16)) < 1 << 63:
        raise BadRequest(
            "bad_lease",
            f"{text[:40]!r} names no lease",
            allowed="1 to 16 hexadecimal digits, above 0 and below 8000000000000000",
        )
    return lease


def lease_ttl_ms(seconds: float) -> int:
    """Return a lease's ttl given in seconds as milliseconds. Raises BadRequest."""
    if not LEASE_TTL_MS_MIN / 1000 <= seconds <= TTL_MS_MAX / 1000:
        raise BadRequest(
            "bad_ttl",
            f"ttl={seconds:.12g} is out of range",
            allowed=f"seconds, {LEASE_TTL_MS_MIN / 1000:g} to {TTL_MS_MAX // 1000}",
        )
    return round(seconds * 1000)
