"""Ask nodes by etcd's JSON gateway, as its Python clients do, and say by an error of the client
library what each answer means.

It never sends a request twice: who asks by the gateway has no op_id.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import aiohttp

from acordo import AcordoError, BadRequest, NotApplied, OutcomeUnknown, Served

TRY_AGAIN: Final = (8, 14)
"""Codes of answers that say that nothing was changed, unless their words say otherwise."""
MAYBE: Final = "may have been applied"
LEASE_NOT_FOUND: Final = "requested lease not found"
EXPIRED: Final = "session is expired"


def b64(text: str) -> str:
    """Return a text as keys and values are written in the gateway's JSON."""
    return base64.b64encode(text.encode()).decode()


def text_of(raw: str) -> str:
    """Return the text of a key or a value in the gateway's JSON."""
    return base64.b64decode(raw).decode()


class LeaseGone(AcordoError):
    """The lease of a request is not there, so it changed nothing."""


class Told(NamedTuple):
    """An answer, and who gave it."""

    body: dict[str, Any]
    served: Served

    @property
    def revision(self) -> int:
        """Return the revision in the answer's header."""
        return int(self.body["header"]["revision"])


class Gateway:
    """A client that asks its nodes in turn. `async with Gateway(urls) as gateway`."""

    def __init__(self, urls: Sequence[str], *, timeout_s: float) -> None:
        self._urls, self._asked = tuple(urls), 0
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._http: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(timeout=self._timeout)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.close()

    async def ask(self, path: str, **body: Any) -> Told:
        """Ask the next node. Raises NotApplied, OutcomeUnknown, LeaseGone, BadRequest."""
        self._asked += 1
        url = f"{self._urls[self._asked % len(self._urls)]}/v3/{path}"
        try:
            async with self._http.post(url, json=body) as response:
                said = await response.json(content_type=None)
                node = response.headers.get("Acordo-Node", "")
                status = response.status
        except aiohttp.ClientConnectorError as exc:
            raise NotApplied(str(exc), reason="unreachable") from exc
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as exc:
            raise OutcomeUnknown(f"{type(exc).__name__}: {exc}") from exc
        if status != 200 or not isinstance(said, dict):
            raise _error(status, said, node)
        told = said.get("result", said)
        position = int(told.get("header", {}).get("revision", 0))
        return Told(told, Served(node=node, position=position))


def _error(status: int, said: Any, node: str) -> AcordoError:
    if not isinstance(said, dict) or "code" not in said:
        return OutcomeUnknown(f"HTTP {status}: {said!r:.200}", status=status, node=node)
    words = str(said.get("message", said.get("error", "")))
    if MAYBE in words:
        return OutcomeUnknown(words, status=status, node=node)
    if LEASE_NOT_FOUND in words or EXPIRED in words:
        return LeaseGone(words, status=status, node=node)
    if said["code"] in TRY_AGAIN:
        return NotApplied(words, reason="unavailable", status=status, node=node)
    return BadRequest(words, code=f"gateway_{said['code']}", status=status, node=node)
