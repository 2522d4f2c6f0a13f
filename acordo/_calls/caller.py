"""Make attempts until one gives an answer: keep the deadline, pause between attempts, renew op_ids.
It does not judge outcomes.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, TypeVar

import msgspec

from acordo._calls import retry_policy
from acordo._calls.attempts import EVENTS
from acordo._calls.nodes import Highest, Nodes
from acordo._calls.operation_errors import error_of
from acordo._calls.retry_policy import enough_s
from acordo._calls.transport import Stream, Transport
from acordo._errors import NotApplied
from acordo._messages import Reply, Request
from acordo._outcomes import EXPIRED, GUARDED, Certainty, Judgement, classify
from acordo._wire.forms import Damaged

FIRST_SHARE: Final = 0.5
"""Share of `attempt_timeout_s` for the first attempt when there is another node, 2 s by default."""
ANSWER_SHARE: Final = 0.9
"""Share of the time left that the node is given. The node's answer then arrives before our own
time-out, and says more than a time-out would.
"""

T = TypeVar("T")


class Caller:
    """The caller of the nodes of one cluster: attempts, retries and deadlines."""

    def __init__(
        self,
        transport: Transport,
        urls: Sequence[str],
        *,
        attempt_timeout_s: float,
        retries: bool,
        spread: bool,
    ) -> None:
        self._transport, self._attempt_timeout_s = transport, attempt_timeout_s
        self.retries: Final = retries
        self._rng = random.Random()
        self.nodes = Nodes(urls, spread=spread, rng=self._rng)
        self._revision = Highest()
        self.waiting: Waiting | None = None
        """What the newest call waits for; None: it has ended."""

    @property
    def revision(self) -> int:
        """The highest `Acordo-Revision` seen."""
        return self._revision.value

    async def call(
        self,
        request: Request,
        parse: Callable[[Reply], T],
        *,
        timeout_s: float,
        quiet_s: float = 0.0,
    ) -> tuple[T, int]:
        """Return the parsed answer and the number of attempts it took. Raises AcordoError.

        `quiet_s`: for how long the node was asked to be silent; only then it is waited for.
        """
        self.waiting = mine = Waiting(time.monotonic() + quiet_s)
        try:
            return await self._call(request, parse, timeout_s, mine)
        finally:
            if self.waiting is mine:
                self.waiting = None

    async def _call(
        self, request: Request, parse: Callable[[Reply], T], timeout_s: float, waiting: Waiting
    ) -> tuple[T, int]:
        judgements: list[Judgement] = []
        deadline = time.monotonic() + timeout_s
        while True:
            reply, result, judged = await self.attempt(
                request, parse, deadline, first=not judgements
            )
            waiting.url = reply.url
            waiting.why = (reply.problem and reply.problem.detail) or reply.error
            judgements.append(judged)
            if result is not None and judged.certainty is Certainty.OK:
                return result, len(judgements)
            decision = self.decide(
                request, reply, judged, len(judgements), deadline - enough_s(timeout_s)
            )
            if isinstance(decision, retry_policy.Finish):
                raise error_of(request, reply, judgements)
            if decision.after_s:
                await asyncio.sleep(decision.after_s)

    async def at(
        self, url: str, request: Request, parse: Callable[[Reply], T], *, timeout_s: float
    ) -> T:
        """Call only the node at `url`, which another node named. Raises AcordoError."""
        there = Caller(
            self._transport,
            (url,),
            attempt_timeout_s=self._attempt_timeout_s,
            retries=self.retries,
            spread=False,
        )
        return (await there.call(request, parse, timeout_s=timeout_s))[0]

    async def write(
        self,
        op_ids: OpIds,
        make: Callable[[str], Request],
        parse: Callable[[Reply, str], T],
        *,
        timeout_s: float,
    ) -> tuple[T, int]:
        """Like `call`, for a write. A write that expired is sent again under a new op_id while time
        is left, unless the op_id was given.

        An expired operation never takes effect, so only the new one can.
        """
        deadline, attempts = time.monotonic() + timeout_s, 0
        while True:
            op_id = op_ids.next()
            left = deadline - time.monotonic()
            try:
                result, more = await self.call(
                    make(op_id), functools.partial(_parse_with, parse, op_id), timeout_s=left
                )
                return result, attempts + more
            except NotApplied as exc:
                attempts += exc.attempts
                enough = deadline - time.monotonic() > enough_s(timeout_s)
                if exc.reason != EXPIRED or not self.retries or not op_ids.more or not enough:
                    raise

    def stream(
        self, at: int, request: Request, idle_s: float, media: str = EVENTS
    ) -> AbstractAsyncContextManager[Stream | Reply]:
        """Open a stream at the node with index `at`, by default of events."""
        return self._transport.stream(
            self.nodes.url(at),
            request,
            head_timeout_s=self._attempt_timeout_s,
            idle_s=idle_s,
            media=media,
        )

    async def attempt(
        self, request: Request, parse: Callable[[Reply], T], deadline: float, *, first: bool
    ) -> tuple[Reply, T | None, Judgement]:
        """Send the request to one node, once. Return the reply, its result if it has the promised
        form, and the judgement of the attempt.
        """
        at = self.nodes.choose(writes=request.mutation)
        left = max(0.001, deadline - time.monotonic())
        # A stopped or paused node accepts connections and never answers. A short first attempt
        # finds that out soon, where the same request may go to another node; later attempts get the
        # full time, which a slow answer needs.
        elsewhere = len(self.nodes) > 1 and (request.op_id is not None or not request.mutation)
        share = FIRST_SHARE if first and elsewhere else 1
        waited = min(left, self._attempt_timeout_s * share)
        # Give the node the time of the whole operation, not only of this attempt. Otherwise the
        # first attempt would expire early, and all later attempts with its op_id would get that
        # expiry as their answer.
        for_node = (left if request.op_id is not None else waited) * ANSWER_SHARE
        reply = await self._transport.once(
            self.nodes.url(at), request, timeout_s=waited, node_timeout_s=for_node
        )
        reply, result = _parsed(request, reply, parse)
        judged = classify(reply.observed)
        self._learn(at, reply, judged)
        return reply, result, judged

    def decide(
        self, request: Request, reply: Reply, judged: Judgement, attempts: int, begin_by: float
    ) -> retry_policy.Decision:
        """Return what follows attempt number `attempts`; no attempt begins after `begin_by`."""
        if not self.retries:
            return retry_policy.Finish()
        return retry_policy.decide(
            retry_policy.LastAttempt(
                judgement=judged,
                mutation=request.mutation,
                idempotent=request.op_id is not None,
                status=reply.observed.status,
                code=reply.observed.code,
                retry_after_s=reply.retry_after_s,
            ),
            attempts=attempts,
            nodes=len(self.nodes),
            left_s=begin_by - time.monotonic(),
            jitter=self._rng.random(),
        )

    def _learn(self, at: int, reply: Reply, judged: Judgement) -> None:
        """Record the revision in the answer, and whether to keep using the node."""
        position = reply.headers.get("Acordo-Revision", "")
        if position.isascii() and position.isdigit():
            self._revision.reach(int(position))
        if leader := reply.headers.get("Acordo-Leader", ""):
            self.nodes.leads(leader)
        status = reply.observed.status
        answered = status is not None and status < 500 and reply.observed.from_node
        if judged.certainty is Certainty.OK or answered:
            self.nodes.trust(at)
        else:
            self.nodes.avoid(at)


class Waiting:
    """What a call waits for: since when, and what its last attempt came to."""

    def __init__(self, since: float) -> None:
        self.since = since
        """On the monotonic clock."""
        self.url = ""
        """Whom the last attempt asked that came to nothing; empty: the first is under way."""
        self.why = ""


class OpIds:
    """The op_ids of one write: the given one, or as many new ones as needed."""

    def __init__(self, given: str | None, new: Callable[[], str]) -> None:
        self._given, self._new = given, new

    @property
    def more(self) -> bool:
        """Whether a new op_id can replace one that expired."""
        return self._given is None

    def next(self) -> str:
        """Return the op_id for the next operation."""
        return self._given if self._given is not None else self._new()


def _parse_with(parse: Callable[[Reply, str], T], op_id: str, reply: Reply) -> T:
    return parse(reply, op_id)


def _parsed(request: Request, reply: Reply, parse: Callable[[Reply], T]) -> tuple[Reply, T | None]:
    """Return the reply, with what parsing showed, and its result if the reply promises one."""
    observed = reply.observed
    status = observed.status
    if status in GUARDED:
        return _with_parsed(reply, reply.problem is not None), None
    promised = status is not None and (
        200 <= status < 300 or (status == 404 and request.absent_is_answer)
    )
    if not promised or not observed.complete or (status == 404 and not observed.from_node):
        return reply, None
    if status == 404 and classify(observed).certainty is not Certainty.OK:
        return reply, None
    try:
        result = parse(reply)
    except Damaged as exc:
        return msgspec.structs.replace(reply, error=f"not what the API promises: {exc}"), None
    return _with_parsed(reply, True), result


def _with_parsed(reply: Reply, parsed: bool) -> Reply:
    observed = msgspec.structs.replace(reply.observed, parsed=parsed)
    return msgspec.structs.replace(reply, observed=observed)
