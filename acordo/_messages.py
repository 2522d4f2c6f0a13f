"""Define the data of one attempt: the request that is sent, and the reply that came back. Pure
data; never sends anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from acordo._outcomes import Observation


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The members of an RFC 9457 problem document that the client uses. Unknown members are
    ignored.
    """

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
    """Percent-encoded path and query, beginning with `/`."""
    headers: Mapping[str, str] = {}
    body: bytes | None = None
    mutation: bool = False
    op_id: str | None = None
    key: bytes | None = None
    """The one key that the request is about, for error messages."""
    absent_is_answer: bool = False
    """A node's 404 is a valid answer: the key is absent."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one attempt.

    `observed.parsed` is False until the body has been parsed.
    """

    url: str
    observed: Observation
    headers: Mapping[str, str] = {}
    body: bytes = b""
    problem: Problem | None = None
    error: str = ""
    """The error below HTTP; empty when a complete answer arrived."""

    @property
    def node(self) -> str | None:
        """Return the id of the node that answered; None: something else answered, or nothing."""
        return self.headers.get("Acordo-Node")

    @property
    def retry_after_s(self) -> float | None:
        """Return how many seconds the node asked to wait before a retry; None: it did not ask."""
        raw = self.headers.get("Retry-After", "")
        return float(raw) if raw.isdigit() else None
