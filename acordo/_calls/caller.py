"""Make attempts until one of them answers: choose nodes, pause, keep the deadline. Decides nothing
about outcomes.
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

from acordo import _results as results
from acordo._calls import retry_policy as course
from acordo._calls.operation_errors import error_of
from acordo._calls.retry_policy import enough_s
from acordo._calls.transport import Transport
from acordo._errors import AcordoError, NotApplied, OutcomeUnknown
from acordo._intents import Intent
from acordo._messages import Reply, Request
from acordo._outcomes import EXPIRED, GUARDED, Judgement, Verdict, classify, conclude
from acordo._wire import answers, requests
from acordo._wire.forms import Damaged

FIRST_SHARE: Final = 0.5
"""Of `attempt_timeout_s`: what a first attempt has where there is another node, 2 s unless told
otherwise.
"""
AVOID_S: Final = 1.0
"""How long a node that did not answer is asked last."""

ANSWER_SHARE: Final = 0.9
"""The share of the time that the node is told: its answer beats silence, and says more."""

T = TypeVar("T")


class Caller:
    """Calls to the nodes of one cluster. The node that answered last is kept until it fails (or
    taken in turn).
    """

    def __init__(
        self,
        transport: Transport,
        urls: Sequence[str],
        *,
        attempt_timeout_s: float,
        retries: bool,
        spread: bool,
    ) -> None:
        self._transport, self._urls = transport, tuple(urls)
        self._attempt_timeout_s, self._retries, self._spread = attempt_timeout_s, retries, spread
        self._avoided_until = [0.0] * len(self._urls)
        self._chance = random.Random()
        # Taken in turn from anywhere: clients that make one call each would else all make it at the
        # same node.
        self._at = self._chance.randrange(len(self._urls)) if spread else 0
        self.revision = 0
        """Highest `Acordo-Revision` seen."""

    async def call(
        self, request: Request, parse: Callable[[Reply], T], *, timeout_s: float
    ) -> tuple[T, int]:
        """Return the parsed answer and how many attempts it took. Raises AcordoError."""
        judgements: list[Judgement] = []
        deadline = time.monotonic() + timeout_s
        while True:
            reply, result, judged = await self._attempt(
                request, parse, deadline, first=not judgements
            )
            judgements.append(judged)
            if result is not None and judged.verdict is Verdict.OK:
                return result, len(judgements)
            step = self._decide(
                request, reply, judged, len(judgements), deadline - enough_s(timeout_s)
            )
            if isinstance(step, course.Finish):
                raise error_of(request, reply, judgements)
            if step.after_s:
                await asyncio.sleep(step.after_s)

    async def at(
        self, url: str, request: Request, parse: Callable[[Reply], T], *, timeout_s: float
    ) -> T:
        """Call one node alone, which another one named. Raises AcordoError."""
        there = Caller(
            self._transport,
            (url,),
            attempt_timeout_s=self._attempt_timeout_s,
            retries=self._retries,
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
                    make(op_id), functools.partial(_swapped, parse, op_id), timeout_s=left
                )
                return result, attempts + more
            except NotApplied as exc:
                attempts += exc.attempts
                enough = deadline - time.monotonic() > enough_s(timeout_s)
                if exc.reason != EXPIRED or not self._retries or not op_ids.more or not enough:
                    raise

    async def batches(
        self,
        intents: Sequence[Intent],
        ours: Sequence[bool],
        *,
        new_op_id: Callable[[], str],
        timeout_s: float,
    ) -> tuple[results.Item, ...]:
        """Do as `batch`; operations that expired go on under new op_ids where those are `ours` to
        choose.
        """
        deadline = time.monotonic() + timeout_s
        items = list(await self.batch(intents, timeout_s=timeout_s))
        while True:
            late = [n for n, item in enumerate(items) if item.outcome == EXPIRED and ours[n]]
            left = deadline - time.monotonic()
            if not late or not self._retries or left <= enough_s(timeout_s):
                return tuple(items)
            renewed = [msgspec.structs.replace(intents[n], op_id=new_op_id()) for n in late]
            for n, item in zip(late, await self.batch(renewed, timeout_s=left), strict=True):
                items[n] = item

    async def batch(
        self, intents: Sequence[Intent], *, timeout_s: float
    ) -> tuple[results.Item, ...]:
        """Send intents as one request, and what did not end definitely again, until all did or time
        is out.
        """
        judgements: list[list[Judgement]] = [[] for _ in intents]
        items: list[results.Item | None] = [None] * len(intents)
        waiting = list(range(len(intents)))
        deadline, attempts = time.monotonic() + timeout_s, 0
        while True:
            attempts += 1
            asked = [intents[n] for n in waiting]
            request = requests.batch_request(asked)
            parse = functools.partial(answers.parse_batch, intents=asked)
            reply, got, judged = await self._attempt(request, parse, deadline, first=attempts == 1)
            for place, n in enumerate(waiting):
                item = got[place] if got else None
                judgements[n].append(_judge_item(item) if item else judged)
                items[n] = item or _item_of(intents[n], error_of(request, reply, judgements[n]))
            waiting = [n for n in waiting if _open(judgements[n], items[n])]
            if not waiting:
                break
            worst = _worst(judgements, waiting)
            step = self._decide(request, reply, worst, attempts, deadline - enough_s(timeout_s))
            if isinstance(step, course.Finish):
                break
            await asyncio.sleep(step.after_s)
        return tuple(
            _told(item, history) for item, history in zip(items, judgements, strict=True) if item
        )

    def choose(self) -> int:
        """Return the place of the node to ask next: the present one unless it failed a
        moment ago.
        """
        count, now = len(self._urls), time.monotonic()
        if self._spread:
            self._at = (self._at + 1) % count
        for step in range(count):
            at = (self._at + step) % count
            if self._avoided_until[at] <= now:
                self._at = at
                return at
        self._at = min(range(count), key=lambda at: self._avoided_until[at])
        return self._at

    def avoid(self, at: int) -> None:
        """Ask this node last for a while."""
        self._avoided_until[at] = time.monotonic() + AVOID_S
        if self._at == at:
            self._at = (at + 1) % len(self._urls)

    def stream(
        self, at: int, request: Request, idle_s: float
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse | Reply]:
        """Open a stream of events at one node."""
        return self._transport.stream(
            self._urls[at], request, head_timeout_s=self._attempt_timeout_s, idle_s=idle_s
        )

    async def _attempt(
        self, request: Request, parse: Callable[[Reply], T], deadline: float, *, first: bool
    ) -> tuple[Reply, T | None, Judgement]:
        at = self.choose()
        left = max(0.001, deadline - time.monotonic())
        # A node that was stopped or paused takes connections and never answers: the first attempt
        # finds that out soon, where another node may be asked the same. Later ones have the time
        # that a slow answer takes.
        soon = first and len(self._urls) > 1 and (request.op_id is not None or not request.mutation)
        waited = min(left, self._attempt_timeout_s * (FIRST_SHARE if soon else 1))
        # A write may take effect until the whole operation is given up, not only this attempt: else
        # the expiry of the first attempt would be what all later ones with its op_id are answered
        # with.
        told = (left if request.op_id is not None else waited) * ANSWER_SHARE
        reply = await self._transport.once(
            self._urls[at], request, timeout_s=waited, node_timeout_s=told
        )
        reply, result = _parsed(request, reply, parse)
        judged = classify(reply.seen)
        self._note(at, reply, judged)
        return reply, result, judged

    def _note(self, at: int, reply: Reply, judged: Judgement) -> None:
        position = reply.headers.get("Acordo-Revision", "")
        if position.isascii() and position.isdigit():
            self.revision = max(self.revision, int(position))
        status = reply.seen.status
        if judged.verdict is Verdict.OK or (
            status is not None and status < 500 and reply.seen.from_node
        ):
            self._avoided_until[at] = 0.0
        else:
            self.avoid(at)

    def _decide(
        self, request: Request, reply: Reply, judged: Judgement, attempts: int, begin_by: float
    ) -> course.Step:
        if not self._retries:
            return course.Finish()
        return course.decide(
            course.Last(
                judgement=judged,
                mutation=request.mutation,
                idempotent=request.op_id is not None,
                status=reply.seen.status,
                code=reply.seen.code,
                retry_after_s=reply.retry_after_s,
            ),
            attempts=attempts,
            nodes=len(self._urls),
            left_s=begin_by - time.monotonic(),
            chance=self._chance.random(),
        )


class OpIds:
    """The op_id that a caller gave, or as many of our own as it takes."""

    def __init__(self, given: str | None, new: Callable[[], str]) -> None:
        self._given, self._new = given, new

    @property
    def more(self) -> bool:
        return self._given is None

    def next(self) -> str:
        return self._given if self._given is not None else self._new()


def _swapped(parse: Callable[[Reply, str], T], op_id: str, reply: Reply) -> T:
    return parse(reply, op_id)


def _parsed(request: Request, reply: Reply, parse: Callable[[Reply], T]) -> tuple[Reply, T | None]:
    seen = reply.seen
    status = seen.status
    if status in GUARDED:
        return _with(reply, reply.problem is not None), None
    promised = status is not None and (
        200 <= status < 300 or (status == 404 and request.absent_is_answer)
    )
    if not promised or not seen.complete or (status == 404 and not seen.from_node):
        return reply, None
    if status == 404 and classify(seen).verdict is not Verdict.OK:
        return reply, None
    try:
        result = parse(reply)
    except Damaged as exc:
        return msgspec.structs.replace(reply, error=f"not what the API promises: {exc}"), None
    return _with(reply, True), result


def _with(reply: Reply, parsed: bool) -> Reply:
    return msgspec.structs.replace(reply, seen=msgspec.structs.replace(reply.seen, parsed=parsed))


def _judge_item(item: results.Item) -> Judgement:
    match item.outcome:
        case "applied":
            return Judgement(Verdict.OK, "success", settles=True)
        case "refused":
            return Judgement(Verdict.OK, "guard_refused", refused=True, settles=True)
        case "mismatch":
            return Judgement(Verdict.FAIL, "mismatch", settles=True)
        case "expired":
            return Judgement(Verdict.FAIL, "expired", settles=True)
        case "bad_request":
            return Judgement(Verdict.FAIL, "rejected")
        case "not_applied":
            return Judgement(Verdict.FAIL, "said_not_applied")
        case "unknown":
            return Judgement(Verdict.UNKNOWN, "said_unknown")


def _open(history: Sequence[Judgement], item: results.Item | None) -> bool:
    newest = history[-1]
    if newest.verdict is Verdict.UNKNOWN:
        return True
    return newest.rule in ("said_not_applied", "nothing_sent", "redirected") or (
        newest.rule == "rejected" and item is not None and item.outcome == "not_applied"
    )


def _worst(judgements: Sequence[Sequence[Judgement]], waiting: Sequence[int]) -> Judgement:
    newest = [judgements[n][-1] for n in waiting]
    return next((j for j in newest if j.verdict is Verdict.UNKNOWN), newest[0])


def _item_of(intent: Intent, error: AcordoError) -> results.Item:
    op_id, detail = intent.op_id or "", str(error)
    match error:
        case OutcomeUnknown():
            return results.Item(op_id=op_id, outcome="unknown", detail=detail)
        case NotApplied():
            return results.Item(op_id=op_id, outcome="not_applied", detail=detail)
        case _:
            return results.Item(op_id=op_id, outcome="bad_request", detail=detail)


def _told(item: results.Item, history: Sequence[Judgement]) -> results.Item:
    """Return the item, but "unknown" when an earlier attempt was and no later one spoke of the
    operation.
    """
    if conclude(history).verdict is Verdict.UNKNOWN and item.outcome != "unknown":
        return msgspec.structs.replace(item, outcome="unknown")
    return item
