"""Represent one request until it is answered: its parameters, its time limit, and the headers of
every answer.

Nothing else touches aiohttp's request. A body never takes more memory than its bound, and all
bodies together never more than theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil
from typing import Final, TypeVar

from aiohttp import web

from kv.access import ANONYMOUS
from kv.errors import BadRequest, NotApplied
from kv.model import REQUEST_BYTES_MAX
from node.exchange import headers as asked_headers
from node.exchange import parameters, screening
from node.exchange.headers import JSON, TIMEOUT_S_MIN
from node.exchange.parameters import percent_encoded
from node.http import cookies
from node.http.bodies import HeldBody
from node.http.connections import HttpConnection
from node.http.origin import member_origins
from node.http.whole import WholeAnswer
from node.reads.levels import ReadOptions
from node.services import NodeServices
from node.wire.documents import decode, encode
from node.wire.gateway import gateway_problem
from node.wire.problems import CONTENT_TYPE, Problem, problem

LOOKUP_SLACK_MS: Final = 1_000
"""Upper bound in milliseconds on how far two nodes' log times differ."""

CHALLENGE: Final = 'Bearer realm="acordo"'
"""What a client without valid credentials is told to bring (RFC 6750)."""

T = TypeVar("T")


class Exchange:
    """One request until it is answered. `rest`: the raw path after the route's own part."""

    __slots__ = (
        "_began",
        "_broken",
        "_held",
        "always",
        "deadline",
        "entered_as",
        "gateway",
        "method",
        "mutation",
        "op_id",
        "path",
        "raw_query",
        "request",
        "rest",
        "services",
        "shared",
    )

    def __init__(  # noqa: PLR0917 - once per request: keywords would cost more than they tell
        self,
        services: NodeServices,
        request: web.BaseRequest,
        method: str,
        path: str,
        rest: str,
        raw_query: str,
        began: float,
    ) -> None:
        self.services, self.request, self.method = services, request, method
        self.path, self.rest, self.raw_query = path, rest, raw_query
        self.op_id: str | None = None
        """The op_id, once `take_op_id` was called; problem documents name it."""
        self.mutation = False
        """True once the request may have changed something; from then on a failure may be unknown.
        """
        self._held: HeldBody | None = None
        self.always = False
        """The request is answered even while this node is overloaded."""
        self.gateway = False
        """The client is one of etcd's JSON gateway, which knows no problem documents."""
        self.shared = False
        """Pages of the other members may read the answer."""
        self.entered_as: str | None = None
        """The client whose share it counts against; None: it does not count."""
        self._broken = False
        """The message framing is broken, so it is not known where the next request begins."""
        self.deadline = began + services.settings.request_timeout_s
        self._began = began

    # ----------------------------------------------------------------------------- before a handler

    def screen(self, *, reads: bool, always: bool, conditions: frozenset[str]) -> None:
        """Refuse requests that must not be worked on, and apply the client's own time limit. Raises
        BadRequest.

        `reads`: the method changes nothing. `always`: the route exposes nothing about keys, so any
        origin's page may read it. `conditions`: the conditional headers that the route supports.
        """
        headers = self.request.headers
        codings = headers.getall("Transfer-Encoding", ())
        if codings:
            try:
                screening.check_framing(codings, self.request.version)
            except BadRequest:
                self._broken = True
                raise
        if not (reads and always):
            screening.check_host(headers.get("Host", ""), self.services.host_names)
        if not reads:
            screening.check_origin(headers)
        own_s = asked_headers.own_timeout_s(headers)
        if own_s is not None:
            self.deadline -= max(self.services.settings.request_timeout_s - own_s, 0)
        if not reads:
            screening.check_conditions(headers, conditions)

    @property
    def client(self) -> str:
        """Return whose request it is: a principal's, else an address's. Never raises, also for who
        is about to sign in.
        """
        grant = self.services.grant
        principal = None if grant is None else grant.last.principal
        if principal is None or principal == ANONYMOUS:
            return self.request.remote or ""
        return principal

    @property
    def request_id(self) -> str | None:
        """The client's name for this request, if it gave one."""
        return asked_headers.request_id(self.request.headers)

    @property
    def encrypted(self) -> bool:
        """Whether this connection is HTTPS."""
        transport = self.request.transport
        return transport is not None and transport.get_extra_info("sslcontext") is not None

    def session(self, *, reads: bool) -> str | None:
        """Return the session in the request's cookie, if a page of this node sent it, or that of
        another member where it may read. Raises BadRequest for a change that another page, or none
        that says so, sent with a cookie alone.
        """
        headers = self.request.headers
        text = cookies.sent(headers.get("Cookie"))
        if text is None or "Authorization" in headers:
            return None
        host, site = headers.get("Host", ""), headers.get("Sec-Fetch-Site")
        if cookies.from_own_page(host, site, headers.get("Origin"), reads=reads):
            return text
        if reads:
            return text if self.shared and self._member_origin() is not None else None
        raise BadRequest(
            "cross_site",
            "a cookie came without the word of the browser that this node's own page sent it",
            allowed="this node's own page; Authorization for other clients",
        )

    # ------------------------------------------------------------------------------------- its time

    @property
    def left_s(self) -> float:
        """Return the time left in seconds, at least TIMEOUT_S_MIN."""
        return max(self.deadline - self.services.clock.monotonic(), TIMEOUT_S_MIN)

    @property
    def spent_s(self) -> float:
        """Return the seconds since the request's head was here."""
        return self.services.clock.monotonic() - self._began

    @property
    def began_ms(self) -> int:
        """The log time at which this request began. Its operation cannot have been recorded
        before.
        """
        services = self.services
        past_s = self.spent_s
        return services.consensus.now_ms() - int(past_s * 1000)

    def when_lost(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the client disconnects before its answer ends, at once if it is gone
        already.
        """
        protocol = self.request.protocol
        if self.request.transport is None:
            callback()
        elif isinstance(protocol, HttpConnection):
            protocol.when_lost(callback)

    def begin_stream(self, buffer_bytes: int) -> None:
        """Switch to a streaming answer: no stall time-out applies to it, and up to `buffer_bytes`
        may wait in the socket's buffer.
        """
        protocol, transport = self.request.protocol, self.request.transport
        if isinstance(protocol, HttpConnection):
            protocol.streams = True
        if transport is not None:
            transport.set_write_buffer_limits(high=buffer_bytes)

    # -------------------------------------------------------------------------------- what is asked

    def params(self, *allowed: str) -> dict[str, bytes]:
        """Return the query's parameters. Raises BadRequest for an unknown or repeated one."""
        return parameters.query_params(self.raw_query, allowed)

    def text_params(self, *allowed: str) -> dict[str, str]:
        """Return the query's parameters as text. Raises BadRequest."""
        return parameters.as_texts(self.params(*allowed))

    def read_options(self, params: Mapping[str, str]) -> ReadOptions:
        """Return the read options of a key. Raises BadRequest."""
        return parameters.read_options(params, self.request.headers.get("Acordo-Revision"))

    @property
    def lifetime_s(self) -> float:
        """How long the write may take effect, in seconds, if longer than its request lasts;
        otherwise 0.

        It is for clients that repeat until the outcome is definite, as workers do: an attempt whose
        outcome is unknown can still succeed. It is capped at half of the op_id retention, because
        an attempt that lands after the op_id was forgotten could be executed twice. Raises
        BadRequest.
        """
        own_s = asked_headers.own_lifetime_s(self.request.headers)
        if own_s is None:
            return 0.0
        return min(own_s, self.services.consensus.operation_retention_ms / 2000)

    def take_op_id(
        self, params: Mapping[str, str], body_op_id: str | None = None, *, prefix: str = ""
    ) -> str:
        """Return the client's op_id, or a new one that begins with `prefix`. From now on the
        request is a mutation. Raises BadRequest.
        """
        own = asked_headers.own_op_id(self.request.headers, params.get("op_id"), body_op_id)
        self.mutation = True
        self.op_id = prefix + self.services.writes.new_op_id() if own is None else own
        return self.op_id

    async def body(self, most: int, code: str = "body_too_large") -> bytes:
        """Return the body. Raises BadRequest (`code`, body_timeout, …) or
        NotApplied("overloaded").
        """
        request, load = self.request, self.services.load
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise BadRequest(
                "unsupported_encoding", "encoded bodies are not taken", allowed="identity"
            )
        length = request.content_length
        if length is not None and length > most:
            raise BadRequest(code, f"the body has {length} bytes", allowed=f"up to {most}")
        self._ask_for_body()
        self._held = HeldBody(load.bodies, request.remote or "")
        whole = await load.bodies.receive(request, self._held, most, code)
        if not self.always and load.at_work > self.services.settings.requests_max:
            raise NotApplied("overloaded", f"{load.at_work} requests are being worked on")
        return whole

    async def form(self, kind: type[T], most: int = REQUEST_BYTES_MAX) -> T:
        """Return the JSON body as `kind`. Raises BadRequest."""
        asked_headers.check_json(self.request.headers)
        return decode(await self.body(most), kind)

    def release(self) -> None:
        """Release the body's bytes."""
        if self._held is not None:
            self._held.release()

    def _ask_for_body(self) -> None:
        """Send 100 Continue to a client that asked for it. Raises BadRequest."""
        expected = self.request.headers.get("Expect")
        # RFC 9110 section 10.1.1: Expect is ignored before HTTP/1.1.
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
        """Return the headers that every answer carries. `revision`: the revision that the answer
        reflects; None: the revision settled here.

        Acordo-Revision is never above what the answer contains. Otherwise a client that watches
        from there on would miss changes that settled during the read.
        """
        services = self.services
        at = services.consensus.settled.last if revision is None else revision
        headers = {"Acordo-Node": services.settings.node_id, "Acordo-Revision": str(at)}
        if self.mutation and (leader := services.writes.leader_url()):
            headers["Acordo-Leader"] = leader
        asked_headers.echo(self.request.headers, headers)
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
        # A page of another origin may name any URL as its script: no answer is taken for one.
        headers["X-Content-Type-Options"] = "nosniff"
        if self.shared:
            headers["Vary"] = "Origin"
            if (origin := self._member_origin()) is not None:
                headers["Access-Control-Allow-Origin"] = origin
                headers["Access-Control-Allow-Credentials"] = "true"
        if more:
            headers.update(more)
        return WholeAnswer(status, body, headers)

    def _member_origin(self) -> str | None:
        """Return the origin of the page that asks, if it is the page of a member; else None."""
        given = self.request.headers.get("Origin")
        if given is None:
            return None
        members = self.services.consensus.status().members
        origins = member_origins(
            (member.url for member in members), self.request.headers.get("Host", "")
        )
        return given if given in origins else None

    def json(
        self,
        answer: object,
        status: int = 200,
        *,
        revision: int | None = None,
        more: Mapping[str, str] | None = None,
    ) -> web.Response:
        """Return an answer as JSON."""
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
        """Return the problem document of a code. `at`: the revision for Acordo-Revision."""
        return self.refuse(problem(code, detail, **fields), more=more, at=at)  # type: ignore[arg-type]  # as there

    def refuse(
        self,
        document: Problem,
        *,
        more: Mapping[str, str] | None = None,
        at: int | None = None,
        retry_after_s: float = 1.0,
    ) -> web.Response:
        """Return a problem document as an answer, completed with the fields known from the
        request.
        """
        if self.gateway:
            return self._refuse_etcd(document, retry_after_s, more)
        headers = dict(more or {})
        if document.status == 401:
            headers["WWW-Authenticate"] = CHALLENGE
        if document.status in (429, 503):
            headers["Retry-After"] = str(max(1, ceil(retry_after_s)))
        if document.status == 504 and document.op_id is not None:
            headers["Acordo-Op-Id"] = document.op_id
        response = self.reply(
            document.status,
            encode(self._completed(document)),
            CONTENT_TYPE,
            revision=at,
            more=headers,
        )
        if self._broken or not self.request.content.is_eof():
            # Close the connection, because the unread rest of the body would be parsed as the next
            # request.
            response.force_close()
        return response

    def _refuse_etcd(
        self, document: Problem, retry_after_s: float, more: Mapping[str, str] | None
    ) -> web.Response:
        """Return a problem in the form of etcd's gateway."""
        status, body = gateway_problem(document)
        headers = dict(more or {})
        if status == 503:
            headers["Retry-After"] = str(max(1, ceil(retry_after_s)))
        if status == 401:
            headers["WWW-Authenticate"] = CHALLENGE
        return self.refuse_as(status, body, JSON, headers)

    def refuse_as(
        self, status: int, body: bytes, content_type: str, more: Mapping[str, str] | None = None
    ) -> web.Response:
        """Return a refusal in a form of its own."""
        response = self.reply(status, body, content_type, more=more)
        if self._broken or not self.request.content.is_eof():
            response.force_close()  # as in `refuse`
        return response

    def _completed(self, document: Problem) -> Problem:
        """Return the document with path, node, request id, and, if the outcome is unknown, where it
        can be looked up.
        """
        services = self.services
        lookup = until = None
        if document.outcome == "unknown" and document.op_id is not None:
            lookup = f"/v1/operations/{percent_encoded(document.op_id)}"
            until = self.began_ms + services.consensus.operation_retention_ms - LOOKUP_SLACK_MS
        # Build the fields by hand: msgspec.structs.replace is slower, and an overloaded node makes
        # one of these documents for every request that it refuses.
        fields = {name: getattr(document, name) for name in document.__struct_fields__}
        fields.update(
            instance=self.path[:512],
            node=services.settings.node_id,
            request_id=self.request_id,
            lookup=document.lookup or lookup,
            lookup_until_ms=document.lookup_until_ms or until,
        )
        return Problem(**fields)
