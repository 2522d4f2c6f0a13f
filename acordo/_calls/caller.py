"""Make attempts until one of them answers: keep the deadline, pause, go on under new op_ids.
Decides nothing about outcomes.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, TypeVar

import aiohttp
import msgspec

from acordo._calls import retry_policy
from acordo._calls.nodes import Nodes
from acordo._calls.operation_errors import error_of
from acordo._calls.retry_policy import enough_s
from acordo._calls.transport import Transport
from acordo._errors import NotApplied
from acordo._messages import Reply, Request
from acordo._outcomes import EXPIRED, GUARDED, Certainty, Judgement, classify
from acordo._wire.forms import Damaged

FIRST_SHARE: Final = 0.5
"""Of `attempt_timeout_s`: what a first attempt has where there is another node, 2 s by default."""
ANSWER_SHARE: Final = 0.9
"""Of the time that is left: what the node is given. Its answer comes before silence would, and
says more.
"""

T = TypeVar("T")


class Caller:
    """A maker of calls to the nodes of one cluster."""

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
        self.revision = 0
        """Highest `Acordo-Revision` seen."""

    async def call(
        self, request: Request, parse: Callable[[Reply], T], *, timeout_s: float
    ) -> tuple[T, int]:
        """Return the parsed answer and how many attempts it took. Raises AcordoError."""
        judgements: list[Judgement] = []
        deadline = time.monotonic() + timeout_s
        while True:
            reply, result, judged = await self.attempt(
                request, parse, deadline, first=not judgements
            )
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
        """Call one node alone, which another one named. Raises AcordoError."""
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
        """Do as `call` for a write; one that expired in time goes on under a new op_id, if that is
        ours to choose.

        An expired operation never takes effect, so the new one is the only one that may.
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
        self, at: int, request: Request, idle_s: float
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse | Reply]:
        """Open a stream of events at one node."""
        return self._transport.stream(
            self.nodes.url(at), request, head_timeout_s=self._attempt_timeout_s, idle_s=idle_s
        )

    async def attempt(
        self, request: Request, parse: Callable[[Reply], T], deadline: float, *, first: bool
    ) -> tuple[Reply, T | None, Judgement]:
        """Send the request to one node, once. Returns what came back, its result if it has the
        promised form, and what that says of the outcome.
        """
        at = self.nodes.choose()
        left = max(0.001, deadline - time.monotonic())
        # A node that was stopped or paused takes connections and never answers: the first attempt
        # finds that out soon, where another node may be asked the same. Later ones have the time
        # that a slow answer takes.
        elsewhere = len(self.nodes) > 1 and (request.op_id is not None or not request.mutation)
        share = FIRST_SHARE if first and elsewhere else 1
        waited = min(left, self._attempt_timeout_s * share)
        # A write may take effect until the whole operation is given up, not only this attempt: else
        # the expiry of the first attempt would be what all later ones with its op_id are answered
        # with.
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
        """Return what follows attempt number `attempts`; none may begin after `begin_by`."""
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
        """Remember the position that was answered, and whether the node is one to keep."""
        position = reply.headers.get("Acordo-Revision", "")
        if position.isascii() and position.isdigit():
            self.revision = max(self.revision, int(position))
        status = reply.observed.status
        answered = status is not None and status < 500 and reply.observed.from_node
        if judged.certainty is Certainty.OK or answered:
            self.nodes.trust(at)
        else:
            self.nodes.avoid(at)


class OpIds:
    """The op_id that a caller gave, or as many of our own as it takes."""

    def __init__(self, given: str | None, new: Callable[[], str]) -> None:
        self._given, self._new = given, new

    @property
    def more(self) -> bool:
        """Whether there is another one to go on under when one is spent."""
        return self._given is None

    def next(self) -> str:
        """Return the op_id for the next operation."""
        return self._given if self._given is not None else self._new()


def _parse_with(parse: Callable[[Reply, str], T], op_id: str, reply: Reply) -> T:
    return parse(reply, op_id)


def _parsed(request: Request, reply: Reply, parse: Callable[[Reply], T]) -> tuple[Reply, T | None]:
    """Return the result of a reply that promises one, and the reply with what parsing showed."""
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
