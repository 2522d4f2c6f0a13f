"""Serve one request of a client of etcd: what it asks, and the header of its answer.

It stands on the exchange that every request has, so time, size, hosts and origins are bounded as
for the native API.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from aiohttp import web
from msgspec import UNSET, Struct

from kv.errors import KvError, NotApplied, OutcomeUnknown
from kv.model import REQUEST_BYTES_MAX, Answer, Applied, Intent, Refused
from node.etcd.answers import Header, Streamed, StreamedError, number
from node.etcd.parsing import as_request, first_value, parsed
from node.etcd.refusals import (
    KEY_ABSENT,
    LEASE_NOT_FOUND,
    RESOURCE_EXHAUSTED,
    Refusal,
)
from node.exchange.exchange import Exchange
from node.exchange.headers import JSON
from node.http.load import NodeLoad
from node.http.steps import in_task
from node.services import NodeServices
from node.wire.documents import encode

VERSION: Final = "3.4.23"
"""The version of etcd whose gateway is spoken: clients choose their paths by it."""
ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes of the keys and values of one answer. Beyond it the request is refused."""
KEY_BYTES: Final = 64
"""What a key counts for besides its own bytes and its value's."""
LARGE_BYTES: Final = 2 * 1024 * 1024
"""An answer that takes more waits for its turn: few are made at a time."""
LOOK_S: Final = 0.1
"""How often the status is read for headers: building it costs as much as a write."""

T = TypeVar("T", bound=Struct)


def numeric_id(name: str) -> int:
    """Return the number that a name has for clients of etcd, which know ids of 64 bits."""
    digest = hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=8, person=b"acordo etcd")
    return int.from_bytes(digest.digest(), "big") or 1


class Identity:
    """What headers say of a node, as known at most LOOK_S ago."""

    def __init__(self) -> None:
        self._look_again_at = 0.0
        self._cluster = self._member = "0"
        self._term = 0

    def header(self, services: NodeServices, revision: int | None) -> Header:
        """Return the header of an answer that reflects a revision; None: it has none."""
        now = services.clock.monotonic()
        if now >= self._look_again_at:
            self._look_again_at = now + LOOK_S
            status = services.consensus.status()
            self._cluster = str(numeric_id(f"{status.cluster_id}/{status.history}"))
            self._member = str(numeric_id(status.node))
            self._term = status.term
        shown = UNSET if revision is None else str(revision)
        return Header(self._cluster, self._member, shown, number(self._term))


class Budget:
    """The bytes that one answer has taken of those that it may take. Release it at last."""

    def __init__(self, load: NodeLoad) -> None:
        self._load, self._taken, self._has_turn = load, 0, False

    async def take(self, size: int, *, left_s: float) -> None:
        """Count a key's bytes. Raises Refusal beyond ANSWER_BYTES_MAX, NotApplied when the turn of
        a large answer does not come in time.
        """
        self._taken += size + KEY_BYTES
        if self._taken <= LARGE_BYTES or (self._has_turn and self._taken <= ANSWER_BYTES_MAX):
            return
        if self._taken > ANSWER_BYTES_MAX:
            raise Refusal(
                RESOURCE_EXHAUSTED,
                f"the answer has more than {ANSWER_BYTES_MAX} bytes: ask with a limit",
            )
        await in_task()
        try:
            async with asyncio.timeout(left_s):
                await self._load.large_answers.acquire()
        except TimeoutError as exc:
            raise NotApplied("overloaded", "too many large answers are being made") from exc
        self._has_turn = True

    def release(self) -> None:
        """Let another large answer be made."""
        if self._has_turn:
            self._has_turn = False
            self._load.large_answers.release()


class Call:
    """One request of a client of etcd until it is answered."""

    def __init__(self, x: Exchange, identity: Identity) -> None:
        self.x, self.services, self._identity = x, x.services, identity
        self.budget = Budget(x.services.load)
        """Of the one answer of a request that is no stream."""

    def renew(self) -> None:
        """Give what a long request does next the time of a request that begins now."""
        services = self.services
        self.x.deadline = services.clock.monotonic() + services.settings.request_timeout_s

    async def asked(self, kind: type[T], most: int = REQUEST_BYTES_MAX) -> T:
        """Return the body as a request. Raises Refusal, BadRequest, NotApplied."""
        return parsed(await self.x.body(most), kind)

    async def each_asked(self, kind: type[T], most: int) -> list[T]:
        """Return the messages of a body, which are one at least. Raises as `asked` does."""
        text = (await self.x.body(REQUEST_BYTES_MAX)).decode("utf-8", "replace").lstrip()
        found: list[T] = []
        while text or not found:
            value, text = first_value(text) if text else (None, "")
            found.append(as_request(value, kind))
            if len(found) > most:
                raise Refusal(RESOURCE_EXHAUSTED, f"more than {most} messages in one request")
        return found

    def header(self, revision: int | None = None) -> Header:
        """Return the header of an answer. `revision`: what it reflects; None: what is settled."""
        settled = self.services.consensus.settled.last
        return self._identity.header(self.services, settled if revision is None else revision)

    def bare_header(self) -> Header:
        """Return a header that says no revision."""
        return self._identity.header(self.services, None)

    @staticmethod
    def inner_header(revision: int) -> Header:
        """Return the header of an answer within a transaction."""
        return Header(revision=str(revision))

    def reply(self, answer: object, *, revision: int | None = None) -> web.Response:
        """Return an answer."""
        return self.x.reply(200, encode(answer), JSON, revision=revision)

    def streamed(self, *messages: Streamed | StreamedError) -> web.Response:
        """Return all messages of a stream."""
        lines = [encode(message) + b"\n" for message in messages]
        return self.x.reply(200, b"".join(lines), JSON)

    def new_op_id(self, *, prefix: str = "") -> str:
        """Return the op_id of a write: etcd's clients have none, and a header that happens to name
        one is not theirs. From now on a failure may be unknown.
        """
        self.x.mutation = True
        self.x.op_id = prefix + self.services.writes.new_op_id()
        return self.x.op_id

    async def write(self, intent: Intent) -> tuple[int, Applied]:
        """Run an intent, once; return its revision and outcome. Raises Refusal, NotApplied,
        OutcomeUnknown.
        """
        answer = await self.services.writes.one(intent, deadline=self.x.deadline)
        return answer.revision, applied(answer)

    @asynccontextmanager
    async def having_written(self, revision: int) -> AsyncIterator[None]:
        """Make the answer of a write that took effect. Raises OutcomeUnknown for whatever hinders
        that: a refusal would say that nothing was changed.
        """
        try:
            yield
        except KvError as exc:
            detail = f"it was applied, at revision {revision}; what it read cannot be told: {exc}"
            raise OutcomeUnknown(detail, op_id=self.x.op_id) from exc


def applied(answer: Answer) -> Applied:
    """Return the outcome of an attempt that took effect. Raises Refusal, NotApplied."""
    match answer.outcome:
        case Applied() as outcome:
            return outcome
        case Refused(reason="key_absent"):
            raise Refusal(*KEY_ABSENT)
        case Refused(reason="lease_not_found"):
            raise Refusal(*LEASE_NOT_FOUND)
        case Refused(reason=reason):
            raise Refusal(RESOURCE_EXHAUSTED, f"etcdserver: {reason or 'refused'}")
    raise NotApplied("timeout", "it was ordered after its time was over, and has no effect")
