"""Hold one request and make its answer: parameters, body within bounds, op_id, deadline, the
headers of every answer.

The only room that touches aiohttp's request. A body is never taken into memory beyond its bound,
and bodies together never beyond theirs.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, TypeVar
from urllib.parse import unquote_to_bytes

from aiohttp import web

from kv.errors import BadRequest, KvError, NotApplied
from kv.model import NODE_OP_ID_PREFIX, REQUEST_BYTES_MAX, RESERVED_PREFIXES
from kv.ports import Broadcast, Cache, Clock, Consensus, Store
from node.http.bodies import Bodies, Held
from node.http.connections import Connection, Connections
from node.http.origin import foreign, leads_here
from node.http.request_metrics import Metrics
from node.readiness.findings import differs
from node.reads.reads import LEVELS, Ask, Level, Reads
from node.settings import Settings
from node.watching.watches import Watches
from node.wire.documents import decoded, encode
from node.wire.problems import CONTENT_TYPE, Problem, problem
from node.wire.text_fields import checked_op_id, parse_revision, parse_seconds, unquoted
from node.writes.lookups import Lookups
from node.writes.writes import Writes

JSON: Final = "application/json"
BYTES: Final = "application/octet-stream"
TIMEOUT_S_MIN: Final = 0.001
LOOKUP_SLACK_MS: Final = 1_000
"""Nodes' notions of log time differ by less."""
CONDITIONAL: Final = (
    "If-Match",
    "If-None-Match",
    "If-Modified-Since",
    "If-Unmodified-Since",
    "If-Range",
)
"""All that RFC 9110 section 13.1 has."""
PAGES_MAX: Final = 4
"""Pages of listings that are made at a time, of up to 2 MiB and a value each."""
HEADER_CHARS_MAX: Final = 256
"""An X-Request-Id or traceparent that is longer is not echoed."""
_BROKEN_PERCENT: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

T = TypeVar("T")


class Check(NamedTuple):
    """One thing that readiness looks at. `probe` returns None when it is well, else why not."""

    name: str
    required: bool
    probe: Callable[[], str | None]


class AsyncWrites(Protocol):
    """Take a write into the broker's hands, for a worker to submit later."""

    async def accept(self, op_id: str, transaction: bytes, *, timeout_s: float) -> None:
        """Return once the broker has confirmed it. `transaction` is the JSON of POST /v1/txn, found
        sound.

        Raises BackendUnavailable: it is not in the broker's hands, or OutcomeUnknown.
        """
        ...


PROBE_EVERY_S: Final = 1.0
"""The store is asked no more often, however often readiness is."""
PROBE_TIMEOUT_S: Final = 1.0


class StoreProbe:
    """Remember for a moment whether the store answers, and is what was settled."""

    def __init__(self, store: Store, consensus: Consensus, clock: Clock) -> None:
        self._store, self._consensus, self._clock = store, consensus, clock
        self._at: float | None = None
        self._trouble: str | None = "it was not asked yet"
        self._differs: str | None = None

    def forget(self) -> None:
        """Ask anew the next time."""
        self._at = None

    @property
    def trouble(self) -> str | None:
        """Why it did not answer when it was last asked."""
        return self._trouble

    @property
    def differs(self) -> str | None:
        """How it was not what is settled here, when it last answered."""
        return self._differs

    async def ask(self) -> None:
        """Ask the store, unless that was done a moment ago."""
        now = self._clock.monotonic()
        if self._at is not None and now - self._at < PROBE_EVERY_S:
            return
        self._at = now
        settled = self._consensus.settled  # before: what settles meanwhile may be in neither answer
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await self._store.probe(timeout_s=PROBE_TIMEOUT_S)
                head = await self._store.head(timeout_s=PROBE_TIMEOUT_S)
                ending = (
                    await self._store.row_ending(settled.last, timeout_s=PROBE_TIMEOUT_S)
                    if settled.last
                    else None
                )
        except (KvError, TimeoutError) as exc:
            self._trouble = str(exc) or "no answer in time"
            return
        self._trouble, self._differs = None, differs(settled, head, ending)


@dataclass(slots=True)
class Load:
    """What this node works on at the moment."""

    bodies: Bodies
    requests: int = 0
    """Requests that are not answered yet."""
    refused: int = 0
    draining: bool = False
    """No new work is admitted."""
    leaving: bool = False
    """Not ready any more, but still working."""
    pages: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PAGES_MAX))
    """Pages of listings are made so many at a time; the others wait, within their time."""
    connections: Connections | None = None
    """What holds the connections, once the server is entered."""

    @property
    def at_work(self) -> int:
        """Return how many requests are worked on: those whose bodies are on their way are not."""
        return self.requests - self.bodies.receiving.held


@dataclass(frozen=True, slots=True)
class Rooms:
    """What the handlers work with."""

    consensus: Consensus
    store: Store
    cache: Cache
    broadcast: Broadcast
    clock: Clock
    settings: Settings
    reads: Reads
    writes: Writes
    lookups: Lookups
    watches: Watches
    metrics: Metrics
    store_probe: StoreProbe
    openapi: bytes
    load: Load
    names: frozenset[str]
    """Names that lead to this node."""
    async_writes: AsyncWrites | None = None
    checks: Sequence[Check] = ()


class Exchange:
    """One request on its way to an answer. `rest`: the raw path behind the route's own part."""

    __slots__ = (
        "_began",
        "_broken",
        "_held",
        "always",
        "deadline",
        "method",
        "mutation",
        "op_id",
        "path",
        "raw_query",
        "request",
        "rest",
        "rooms",
    )

    def __init__(  # noqa: PLR0917 - once per request: keywords would cost more than they tell
        self,
        rooms: Rooms,
        request: web.BaseRequest,
        method: str,
        path: str,
        rest: str,
        raw_query: str,
        began: float,
    ) -> None:
        self.rooms, self.request, self.method = rooms, request, method
        self.path, self.rest, self.raw_query = path, rest, raw_query
        self.op_id: str | None = None
        """Known once `take_op_id` was called; problem documents name it."""
        self.mutation = False
        self._held: Held | None = None
        self.always = False
        """Answered also while this node is overloaded."""
        self._broken = False
        """Where the next request begins is not certain."""
        self.deadline = began + rooms.settings.request_timeout_s
        self._began = began

    @property
    def began_ms(self) -> int:
        """When this request began, in log time: what it asked for was not recorded before."""
        rooms = self.rooms
        return rooms.consensus.now_ms() - int((rooms.clock.monotonic() - self._began) * 1000)

    def heed_timeout(self) -> None:
        """Take the client's own time limit (`Acordo-Timeout`, seconds), if it is shorter. Raises
        BadRequest.
        """
        given = self.request.headers.get("Acordo-Timeout")
        if given is not None:
            longest = self.rooms.settings.request_timeout_s
            asked = max(parse_seconds(given, "timeout", 3600), TIMEOUT_S_MIN)
            self.deadline -= max(longest - asked, 0)

    def refuse_conditions(self, heeded: frozenset[str]) -> None:
        """Raise BadRequest for a conditional header that this write would pass over."""
        for name in CONDITIONAL:
            if name in self.request.headers and name not in heeded:
                works = " and ".join(sorted(heeded)) or "guards in the body, where there are any"
                raise BadRequest(
                    "unsupported_condition", f"{name} does not work on this request", allowed=works
                )

    def heed_origin(self, *, reads: bool, always: bool) -> None:
        """Refuse what a foreign name leads here, and writes of other origins' pages. Raises
        BadRequest.
        """
        asked = self.request.headers
        host = asked.get("Host", "")
        if not (reads and always) and not leads_here(host, self.rooms.names):
            allowed = (
                "an address, localhost, the advertised URL's name, or one of ACORDO_HTTP_NAMES"
            )
            raise BadRequest(
                "wrong_host", f"this node does not serve {host[:100]!r}", allowed=allowed
            )
        if not reads:
            where = foreign(host, asked.get("Sec-Fetch-Site"), asked.get("Origin"))
            if where is not None:
                raise BadRequest(
                    "cross_site", f"the request comes from {where}", allowed="this node's own page"
                )

    def heed_framing(self) -> None:
        """Refuse a body that this node would take for what it is not. Raises BadRequest."""
        codings = self.request.headers.getall("Transfer-Encoding", ())
        if not codings:
            return
        # RFC 9112 section 6.1: its framing is faulty, whatever it says
        if self.request.version < (1, 1):
            self._broken = True
            raise BadRequest(
                "bad_http", "Transfer-Encoding in HTTP/1.0", allowed="Content-Length, or HTTP/1.1"
            )
        if ",".join(codings).strip().lower() != "chunked":
            self._broken = True
            raise BadRequest(
                "unsupported_encoding",
                "a Transfer-Encoding beside chunked",
                allowed="chunked alone",
            )

    @property
    def left_s(self) -> float:
        """Return the time left in seconds, at least a little."""
        return max(self.deadline - self.rooms.clock.monotonic(), TIMEOUT_S_MIN)

    def when_lost(self, callback: Callable[[], None]) -> None:
        """Have something called when the client is gone before its answer ends."""
        protocol = self.request.protocol
        if self.request.transport is None:
            callback()
        elif isinstance(protocol, Connection):
            protocol.when_lost(callback)

    def begin_stream(self, buffer_bytes: int) -> None:
        """Let an answer without end wait for its reader as it wants to, with so much in the
        socket's buffer.
        """
        protocol, transport = self.request.protocol, self.request.transport
        if isinstance(protocol, Connection):
            protocol.streams = True
        if transport is not None:
            transport.set_write_buffer_limits(high=buffer_bytes)

    # -------------------------------------------------------------------------------- what is asked

    def params(self, *allowed: str) -> dict[str, bytes]:
        """Return the query's parameters, percent-decoded. Raises BadRequest for one that is unknown
        or doubled.
        """
        found: dict[str, bytes] = {}
        for pair in self.raw_query.split("&") if self.raw_query else ():
            if not pair:
                continue
            raw_name, _, raw_value = pair.partition("=")
            name = percent_decoded(raw_name.replace("+", " ")).decode("utf-8", "replace")
            if name not in allowed:
                known = ", ".join(allowed) or "none here"
                raise BadRequest(
                    "unknown_parameter", f"unknown parameter {name[:60]!r}", allowed=known
                )
            if name in found:
                raise BadRequest("duplicate_parameter", f"{name} is given twice", allowed="once")
            found[name] = percent_decoded(raw_value.replace("+", " "))
        return found

    def texts(self, *allowed: str) -> dict[str, str]:
        """Return the query's parameters as text. Raises BadRequest."""
        try:
            return {name: value.decode() for name, value in self.params(*allowed).items()}
        except UnicodeDecodeError as exc:
            raise BadRequest(
                "not_utf8", "a parameter is not UTF-8", allowed="UTF-8, percent-encoded"
            ) from exc

    def read_ask(self, params: Mapping[str, str]) -> Ask:
        """Return how a key is to be read. Raises BadRequest."""
        level = level_of(params.get("consistency", "linearizable"))
        given = params.get("min_revision")
        name = "min_revision"
        if given is None:
            given, name = self.request.headers.get("Acordo-Revision"), "Acordo-Revision"
        min_revision = 0 if given is None else parse_revision(given, name)
        max_age = params.get("max_age")
        if max_age is None:
            return Ask(level, min_revision)
        if level != "stale":
            raise BadRequest(
                "conflicting_parameters",
                "max_age bounds stale reads only",
                allowed="consistency=stale",
            )
        return Ask(level, min_revision, parse_seconds(max_age, "max_age", 366 * 86400))

    @property
    def lifetime_s(self) -> float:
        """For how long the write may take effect, if longer than its request lasts
        (`Acordo-Lifetime`, seconds).

        For who repeats until the outcome is definite, as workers do: an attempt that ends unknown
        stays good. Cut to half of what op_ids are remembered for. Raises BadRequest.
        """
        given = self.request.headers.get("Acordo-Lifetime")
        if given is None:
            return 0.0
        return min(
            parse_seconds(given, "lifetime", 366 * 86400),
            self.rooms.consensus.operation_retention_ms / 2000,
        )

    def take_op_id(
        self, params: Mapping[str, str], body_op_id: str | None = None, *, spare: str = ""
    ) -> str:
        """Return the client's op_id, never changed, or one made here, with `spare` before it.

        Raises BadRequest when two differ, when one is reserved (a worker's is not: with
        `Acordo-Lifetime` it brings what a node named), and when there is none to go with
        `Acordo-Lifetime`.
        """
        headers = self.request.headers
        lasting = "Acordo-Lifetime" in headers
        reserved = (NODE_OP_ID_PREFIX,) if lasting else RESERVED_PREFIXES
        given = [
            checked_op_id(text, reserved=reserved)
            for text in (
                unquoted(headers.get("Idempotency-Key", ""))
                if "Idempotency-Key" in headers
                else None,
                headers.get("Acordo-Op-Id"),
                params.get("op_id"),
                body_op_id,
            )
            if text is not None
        ]
        if len(set(given)) > 1:
            raise BadRequest("bad_op_id", "two different op_ids", allowed="one")
        if lasting and not given:
            raise BadRequest(
                "bad_lifetime",
                "Acordo-Lifetime goes with an op_id of yours",
                allowed="an op_id with it",
            )
        self.mutation = True
        self.op_id = given[0] if given else spare + self.rooms.writes.new_op_id()
        return self.op_id

    async def body(self, most: int, code: str = "body_too_large") -> bytes:
        """Return the body. Raises BadRequest (`code`, body_timeout, …) or
        NotApplied("overloaded").
        """
        request = self.request
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise BadRequest(
                "unsupported_encoding", "encoded bodies are not taken", allowed="identity"
            )
        length = request.content_length
        if length is not None and length > most:
            raise BadRequest(code, f"the body has {length} bytes", allowed=f"up to {most}")
        self._expect()
        bodies = self.rooms.load.bodies
        self._held = Held(bodies, request.remote or "")
        whole = await bodies.receive(request, self._held, most, code)
        if not self.always and self.rooms.load.at_work > self.rooms.settings.requests_max:
            raise NotApplied(
                "overloaded", f"{self.rooms.load.at_work} requests are being worked on"
            )
        return whole

    async def form(self, kind: type[T], most: int = REQUEST_BYTES_MAX) -> T:
        """Return the JSON body as `kind`. Raises BadRequest."""
        given = self.request.headers.get("Content-Type", "")
        if given.partition(";")[0].strip().lower() not in _JSON_TYPES:
            detail = f"Content-Type {given[:60]!r}" if given else "no Content-Type"
            raise BadRequest(
                "unsupported_media_type", detail, allowed=f"{JSON} (curl --json does it)"
            )
        return decoded(await self.body(most), kind)

    def release(self) -> None:
        """Give back what the body held."""
        if self._held is not None:
            self._held.release()

    def _expect(self) -> None:
        expected = self.request.headers.get("Expect")
        # RFC 9110 section 10.1.1: ignored before HTTP/1.1
        if expected is None or self.request.version < (1, 1):
            return
        if expected.lower() != "100-continue":
            raise BadRequest(
                "expectation_failed", f"Expect: {expected[:60]!r}", allowed="100-continue"
            )
        if self.request.transport is not None:
            self.request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # ----------------------------------------------------------------------------- what is answered

    def headers(self, revision: int | None = None) -> dict[str, str]:
        """Return what every answer carries. `revision`: what is in the answer; None: what is
        settled here.

        Never more than is in the answer: who watches from there on would miss what settled while it
        was being read.
        """
        headers = {
            "Acordo-Node": self.rooms.settings.node_id,
            "Acordo-Revision": str(
                self.rooms.consensus.settled.last if revision is None else revision
            ),
        }
        asked = self.request.headers
        request_id, trace = asked.get("X-Request-Id"), asked.get("traceparent")
        if (
            request_id is not None
            and len(request_id) <= HEADER_CHARS_MAX
            and request_id.isprintable()
        ):
            headers["X-Request-Id"] = request_id
        if trace is not None and _TRACEPARENT.fullmatch(trace):
            headers["traceparent"] = trace
        return headers

    def reply(
        self,
        status: int,
        body: bytes,
        content_type: str,
        *,
        revision: int | None = None,
        more: Mapping[str, str] | None = None,
    ) -> web.Response:
        """Return an answer with the headers that every answer carries."""
        headers = self.headers(revision)
        headers["Content-Type"] = content_type
        headers["Cache-Control"] = "no-store"
        if more:
            headers.update(more)
        return web.Response(body=body, status=status, headers=headers)

    def json(
        self,
        answer: object,
        status: int = 200,
        *,
        revision: int | None = None,
        more: Mapping[str, str] | None = None,
    ) -> web.Response:
        return self.reply(status, encode(answer), JSON, revision=revision, more=more)

    def problem(
        self,
        code: str,
        detail: str,
        *,
        more: Mapping[str, str] | None = None,
        at: int | None = None,
        **fields: object,
    ) -> web.Response:
        """Return the problem document of a code; `at`: revision for Acordo-Revision."""
        return self.refuse(problem(code, detail, **fields), more=more, at=at)  # type: ignore[arg-type]  # as there

    def refuse(
        self,
        document: Problem,
        *,
        more: Mapping[str, str] | None = None,
        at: int | None = None,
        retry_after_s: float = 1.0,
    ) -> web.Response:
        """Return a problem document, completed by what is known of the request."""
        headers = dict(more or {})
        if document.status == 503:
            headers["Retry-After"] = str(max(1, round(retry_after_s)))
        if document.status == 504 and document.op_id is not None:
            headers["Acordo-Op-Id"] = document.op_id
        response = self.reply(
            document.status,
            encode(completed(document, self)),
            CONTENT_TYPE,
            revision=at,
            more=headers,
        )
        if self._broken or not self.request.content.is_eof():
            response.force_close()  # the rest of the body is not wanted
        return response


def completed(document: Problem, x: Exchange) -> Problem:
    """Return the document with path, node, request id, and where an unknown outcome can be looked
    up.
    """
    rooms = x.rooms
    request_id = x.request.headers.get("X-Request-Id")
    lookup = until = None
    if document.outcome == "unknown" and document.op_id is not None:
        lookup = f"/v1/operations/{quoted(document.op_id)}"
        until = x.began_ms + rooms.consensus.operation_retention_ms - LOOKUP_SLACK_MS
    # msgspec.structs.replace would do, but document is rebuilt on every refusal under overload:
    # keep it plain.
    fields = {name: getattr(document, name) for name in document.__struct_fields__}
    fields.update(
        instance=x.path[:512],
        node=rooms.settings.node_id,
        request_id=request_id[:HEADER_CHARS_MAX] if request_id else None,
        lookup=document.lookup or lookup,
        lookup_until_ms=document.lookup_until_ms or until,
    )
    return Problem(**fields)


_JSON_TYPES: Final = frozenset({JSON, "text/json"})
"""None of those that a page of another origin may send unasked, and not none at all, which it may
too.
"""


def percent_decoded(raw: str) -> bytes:
    """Return the bytes of a percent-encoded text. Raises BadRequest."""
    data = raw.encode("utf-8", "surrogateescape")
    if b"%" not in data:
        return data
    if _BROKEN_PERCENT.search(data):
        raise BadRequest(
            "bad_percent_encoding",
            f"{raw[:60]!r} is not percent-encoded",
            allowed="%25 for a % sign",
        )
    return unquote_to_bytes(data)


def quoted(text: str) -> str:
    """Return text as one path segment."""
    return "".join(
        c if c.isalnum() or c in "-._" else "".join(f"%{b:02X}" for b in c.encode()) for c in text
    )


def level_of(text: str) -> Level:
    """Return a read level. Raises BadRequest."""
    for level in LEVELS:
        if text == level:
            return level
    raise BadRequest(
        "bad_consistency", f"unknown read level {text[:40]!r}", allowed=", ".join(LEVELS)
    )
