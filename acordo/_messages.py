"""Say what one attempt carries: the request that is sent, the reply that came back. Pure data;
never sends anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from acordo._outcomes import Observation


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """What the client uses of an RFC 9457 problem document. Unknown members are ignored."""

    title: str = ""
    detail: str = ""
    code: str = ""
    type: str = ""
    outcome: Literal["not_applied", "unknown"] | None = None
    op_id: str | None = None
    allowed: object = None
    guard: int | None = None
    current: int | None = None
    revision: int | None = None
    floor: int | None = None
    undone_after: int | None = None
    again: bool = False
    key: object = None
    reason: str | None = None
    advice: str = ""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request, ready to be sent to any node."""

    method: Literal["GET", "PUT", "DELETE", "POST"]
    path: str
    """Percent-encoded path and query, from the `/` on."""
    headers: Mapping[str, str] = {}
    body: bytes | None = None
    mutation: bool = False
    op_id: str | None = None
    key: bytes | None = None
    """The one key that it is about, for errors."""
    absent_is_answer: bool = False
    """A node's 404 says that the key is absent."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What one attempt brought back.

    `observed.parsed` is False until somebody has parsed the body.
    """

    url: str
    observed: Observation
    headers: Mapping[str, str] = {}
    body: bytes = b""
    problem: Problem | None = None
    error: str = ""
    """What went wrong below HTTP; empty when a whole answer came."""

    @property
    def node(self) -> str | None:
        """Return the id of the node that answered; None: something else did, or nothing."""
        return self.headers.get("Acordo-Node")

    @property
    def retry_after_s(self) -> float | None:
        """Return for how many seconds the node asked to be left alone."""
        raw = self.headers.get("Retry-After", "")
        return float(raw) if raw.isdigit() else None
