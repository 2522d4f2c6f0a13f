"""Collect what one attempt of a request shows, in words that do not depend on who sent it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from acordo._messages import Problem, Reply, Request
from acordo._outcomes import Observation

RESPONSE_BYTES_MAX: Final = 256 * 1024 * 1024
"""A longer answer is treated as damaged."""
TIMEOUT_S_MAX: Final = 3600.0
"""Longest time-out that nodes accept."""
PROBLEM_BYTES_MAX: Final = 64 * 1024
EVENTS: Final = "text/event-stream"


_problem_decoder: Final = msgspec.json.Decoder(Problem)


class StreamCut(Exception):
    """An error about a stream that ended otherwise than by its node's will."""


class Attempt:
    """One attempt of a request at one node, with what it has shown so far."""

    def __init__(self, base: str, request: Request) -> None:
        self.base, self.request = base, request
        self.sent = False
        """Set just before the first byte is sent. Too early is safe; too late would report a sent
        request as unsent.
        """
        self.status: int | None = None
        self.headers: Mapping[str, str] = {}
        self.body = b""
        self.whole = False
        self.error = ""

    def reply(self) -> Reply:
        """Return the attempt's result as a Reply."""
        problem = problem_in(self.status, self.headers, self.body)
        return Reply(
            url=self.base,
            headers=self.headers,
            body=self.body,
            problem=problem,
            error=self.error,
            observed=Observation(
                mutation=self.request.mutation,
                sent=self.sent,
                status=self.status,
                complete=self.whole,
                from_node="Acordo-Node" in self.headers,
                outcome=problem.outcome if problem else None,
                code=(problem.code or None) if problem else None,
                idempotent=self.request.op_id is not None,
            ),
        )


def node_time(seconds: float) -> dict[str, str]:
    """Return the header that tells a node how long it may take."""
    return {"Acordo-Timeout": f"{min(seconds, TIMEOUT_S_MAX):.3f}"}


def described(exc: Exception) -> str:
    """Return what a failure of the network says."""
    said = f"{type(exc).__name__}: {exc}".rstrip(": ")
    plain = any(mark in said for mark in ("WRONG_VERSION_NUMBER", "wrong version number"))
    return f"{said} (this port speaks plain HTTP: use http://)" if plain else said


def problem_in(status: int | None, headers: Mapping[str, str], body: bytes) -> Problem | None:
    """Return the problem that an answer carries, if any."""
    if status is None or status < 400 or not body or len(body) > PROBLEM_BYTES_MAX:
        return None
    if "json" not in headers.get("Content-Type", ""):
        return None
    try:
        return _problem_decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
