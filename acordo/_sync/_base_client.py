# Made by `make sync` from acordo/_base_client.py; do not edit.
"""Open and close a client of a cluster, and run its calls. It never reports a write as failed that
may have taken effect.

This is the common base of every group of calls: the URLs, the time-outs, one transport and one
caller.
"""

from __future__ import annotations

import secrets
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Self, TypeVar
from urllib.parse import urlsplit

from acordo import _results as results
from acordo._errors import BadRequest
from acordo._messages import Reply, Request
from acordo._sync._calls.caller import FIRST_SHARE, Caller
from acordo._sync._calls.transport import Transport
from acordo._tls import client_tls
from acordo._tokens import client_token

TIMEOUT_S: Final = 10.0
ATTEMPT_TIMEOUT_S: Final = 4.0
CONNECT_TIMEOUT_S: Final = 1.0
CONNECTIONS_MAX: Final = 128
POLL_SHARE: Final = 0.75
"""Share of a first attempt's time for which a node is asked to wait for a change."""

T = TypeVar("T")


def new_op_id() -> str:
    """Return a new op_id: 48 bits of milliseconds and 80 random bits, in hexadecimal. Op_ids sort
    by the time they were made.
    """
    return f"{time.time_ns() // 1_000_000:012x}-{secrets.token_hex(10)}"


class BaseClient:
    """A client of one cluster without any calls; the base class of the others."""

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        timeout_s: float = TIMEOUT_S,
        attempt_timeout_s: float = ATTEMPT_TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        level: results.Level = "linearizable",
        retries: bool = True,
        spread: bool = False,
        connections_max: int = CONNECTIONS_MAX,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
        op_ids: Callable[[], str] = new_op_id,
    ) -> None:
        """Check the settings. Connections are made only inside `with`, or after `open`.

        `urls`: base URLs of nodes, or of a proxy in front of them. `timeout_s`, `attempt_timeout_s`
        and `connect_timeout_s` (seconds, above 0) bound a whole call, one of its attempts, and
        connecting. `level`: the read level of reads that name none. `retries=False`: every call is
        a single attempt. `spread`: use the nodes in turn instead of staying with one (and with the
        leader for writes).
        `token`: the bearer token sent with every request, else ACORDO_TOKEN, else what is in the
        file ACORDO_TOKEN_FILE; "" sends none.
        `connections_max`: open connections at a time. `headers` are sent with every request. `tls`
        is used for https URLs; None: `client_tls()`, what ACORDO_CA, ACORDO_CERT and
        ACORDO_CERT_KEY name, else the system's authorities. `op_ids` returns the op_id of a write
        that is given none.

        Raises BadRequest for a missing or unusable URL, a time-out that is not positive, an unknown
        level, or a file of the environment that cannot be used.
        """
        self.urls: Final = _base_urls([urls] if isinstance(urls, str) else urls)
        if timeout_s <= 0 or attempt_timeout_s <= 0:
            raise BadRequest(
                "a time-out that is not positive", code="bad_timeout", allowed="seconds above 0"
            )
        check_level(level)
        if tls is None and any(url.startswith("https") for url in self.urls):
            tls = client_tls()
        self._timeout_s = timeout_s
        self._poll_s = min(attempt_timeout_s * FIRST_SHARE, timeout_s) * POLL_SHARE
        self._level, self._new_op_id = level, op_ids
        self._transport = Transport(
            connections_max=connections_max,
            connect_timeout_s=connect_timeout_s,
            headers=_signed(headers or {}, client_token(token)),
            tls=tls,
        )
        self._caller = Caller(
            self._transport,
            self.urls,
            attempt_timeout_s=attempt_timeout_s,
            retries=retries,
            spread=spread,
        )

    def open(self) -> Self:
        """Make the client ready for calls; `with` does it. Nothing is sent yet."""
        self._transport.__enter__()
        return self

    def close(self) -> None:
        """Close all connections; calls that are under way fail. It may be opened again."""
        self._transport.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def revision(self) -> int:
        """The highest `Acordo-Revision` this client has seen, which its session reads reflect at
        least; 0 before any answer.
        """
        return self._caller.revision

    @property
    def answered(self) -> bool:
        """Whether any node has answered a request of this client."""
        return self._transport.answered

    @property
    def unanswered_s(self) -> float:
        """How many seconds this client has waited for its first answer, since its first request
        began; 0 before that request, and after the first answer.
        """
        since = self._transport.asked_at
        return 0.0 if since is None or self.answered else time.monotonic() - since

    @property
    def waiting(self) -> tuple[float, str, str] | None:
        """For how many seconds the newest call has waited, and whom its last attempt asked and what
        came of it ("" before one has ended); None: no call is under way.
        """
        at = self._caller.waiting
        return None if at is None else (time.monotonic() - at.since, at.url, at.why)

    def _call(self, request: Request, parse: Callable[[Reply], T], timeout_s: float | None) -> T:
        return (self._caller.call(request, parse, timeout_s=timeout_s or self._timeout_s))[0]


def _signed(headers: Mapping[str, str], token: str | None) -> Mapping[str, str]:
    if token is None or "Authorization" in headers:
        return headers
    return {**headers, "Authorization": f"Bearer {token}"}


def check_level(level: str) -> None:
    """Raise BadRequest unless `level` is a read level."""
    if level not in results.LEVELS:
        raise BadRequest(
            f"unknown read level {level!r}", code="bad_level", allowed=", ".join(results.LEVELS)
        )


def _base_urls(urls: Sequence[str]) -> tuple[str, ...]:
    if not urls:
        raise BadRequest(
            "no URL given", code="no_url", allowed="at least one, such as http://127.0.0.1:8001"
        )
    return tuple(_base_url(url) for url in urls)


def _base_url(url: str) -> str:
    """Return a base URL without a trailing slash. Raises BadRequest."""
    base = (url if "://" in url else f"http://{url}").rstrip("/")
    try:
        parts = urlsplit(base)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        usable = usable and not (parts.query or parts.fragment)
    except ValueError:
        usable = False
    if not usable:
        raise BadRequest(
            f"not a node's URL: {url!r}", code="bad_url", allowed="such as http://127.0.0.1:8001"
        )
    return base
