"""Talk to a cluster through any of its nodes. Never calls a write failed that may have taken
effect.

Retries are made by `acordo._calls.retry_policy`, outcomes judged by `acordo._outcomes`, HTTP spoken by
`acordo._wire`; here they are put together with a clock, a choice of node and one aiohttp session.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final, Literal, TypeVar, overload
from urllib.parse import urlsplit

import msgspec

from acordo import _intents as intents
from acordo import _results as results
from acordo._calls.batches import send_batch
from acordo._calls.caller import Caller, OpIds
from acordo._calls.retry_policy import FINAL
from acordo._calls.transport import Transport
from acordo._errors import BadRequest, OutcomeUnknown, ReadFailed, TransactionRefused
from acordo._intents import Bytes, Guard, Intent, Write
from acordo._messages import Reply, Request
from acordo._watch import watch_events
from acordo._wire import answers, requests

TIMEOUT_S: Final = 10.0
ATTEMPT_TIMEOUT_S: Final = 4.0
CONNECT_TIMEOUT_S: Final = 1.0
CONNECTIONS_MAX: Final = 128
LOOK_UP_PAUSE_S: Final = 0.05
LOOK_UP_PAUSE_MAX_S: Final = 1.0

T = TypeVar("T")
W = TypeVar("W", results.Written, results.TransactionDone)


def new_op_id() -> str:
    """Return a fresh op_id: 48 bits of milliseconds, 80 of chance; sorts by time of making."""
    return f"{time.time_ns() // 1_000_000:012x}-{secrets.token_hex(10)}"


class Client:
    """A client of one cluster.

    `urls`: base URLs of nodes, or of a proxy before them; the first that answers is kept until it
    fails. `timeout_s` bounds every call as a whole, `attempt_timeout_s` one attempt of it. `level`
    is the default read level; with "session" reads see at least everything that this client has
    seen. Not bound to one task: share it freely.
    """

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
        tls: ssl.SSLContext | None = None,
        op_ids: Callable[[], str] = new_op_id,
    ) -> None:
        """Open no connection yet.

        `retries=False`: one call is one attempt. `spread`: take the nodes in turn instead of
        keeping to one. `op_ids` makes the op_id of every write that is given none.
        """
        given = [urls] if isinstance(urls, str) else list(urls)
        self.urls: Final = tuple(_base(url) for url in given)
        if not self.urls:
            raise BadRequest(
                "no URL given", code="no_url", allowed="at least one, such as http://127.0.0.1:8001"
            )
        if timeout_s <= 0 or attempt_timeout_s <= 0:
            raise BadRequest(
                "a time-out that is not positive", code="bad_timeout", allowed="seconds above 0"
            )
        _check_level(level)
        self._timeout_s = timeout_s
        self._level, self._new_op_id = level, op_ids
        self._transport = Transport(
            connections_max=connections_max,
            connect_timeout_s=connect_timeout_s,
            headers=headers or {},
            tls=tls,
        )
        self._caller = Caller(
            self._transport,
            self.urls,
            attempt_timeout_s=attempt_timeout_s,
            retries=retries,
            spread=spread,
        )

    async def __aenter__(self) -> Client:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._transport.__aexit__(*exc)

    @property
    def revision(self) -> int:
        """Highest `Acordo-Revision` this client has seen: what its session reads are at or
        above.
        """
        return self._caller.revision

    @property
    def answered(self) -> bool:
        """Whether anybody has answered a request of this client."""
        return self._transport.answered

    @property
    def unanswered_s(self) -> float:
        """For how long nobody has, since the first request began; 0 before it, and once somebody
        did.
        """
        since = self._transport.asked_at
        return 0.0 if since is None or self.answered else time.monotonic() - since

    # ---------------------------------------------------------------------------------------- reads

    async def get(
        self,
        key: Bytes,
        *,
        level: results.Level | None = None,
        min_revision: int | None = None,
        max_age_s: float | None = None,
        at_revision: int | None = None,
        timeout_s: float | None = None,
    ) -> results.Found | None:
        """Return the key's newest value, or None when it is absent.

        `max_age_s` bounds what a stale read may serve; `at_revision` reads history. Raises
        ReadFailed, Unreachable, Pruned, BadRequest.
        """
        reading = await self.read(
            key,
            level=level,
            min_revision=min_revision,
            max_age_s=max_age_s,
            at_revision=at_revision,
            timeout_s=timeout_s,
        )
        return reading if isinstance(reading, results.Found) else None

    async def read(
        self,
        key: Bytes,
        *,
        level: results.Level | None = None,
        min_revision: int | None = None,
        max_age_s: float | None = None,
        at_revision: int | None = None,
        timeout_s: float | None = None,
    ) -> results.Reading:
        """Do what `get` does, but say also of an absent key who answered and how fresh that is."""
        raw = intents.key_bytes(key)
        level, min_revision = self._freshness(level, min_revision)
        request = requests.get_request(
            raw, level=level, min_revision=min_revision, max_age_s=max_age_s, revision=at_revision
        )
        return await self._call(request, lambda reply: answers.parse_reading(reply, raw), timeout_s)

    async def list(
        self,
        prefix: Bytes = b"",
        *,
        limit: int = 500,
        min_revision: int | None = None,
        token: str | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[results.Found]:
        """Iterate over the keys under a prefix, in byte order, all as of one revision: linearizable
        at its start.

        `limit` is the size of a page, `timeout_s` bounds each page. Raises Pruned when the revision
        is forgotten before the end is reached.
        """
        async for page in self.pages(
            prefix, limit=limit, min_revision=min_revision, token=token, timeout_s=timeout_s
        ):
            for found in page.found:
                yield found

    async def pages(
        self,
        prefix: Bytes = b"",
        *,
        limit: int = 500,
        min_revision: int | None = None,
        token: str | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[results.Page]:
        """Iterate over whole pages; `Page.token` goes on after that page, also in another
        process.
        """
        raw = intents.as_bytes(prefix, "prefix")
        while True:
            request = requests.list_request(
                raw, limit=limit, token=token, min_revision=min_revision
            )
            page = await self._call(request, answers.parse_page, timeout_s)
            yield page
            token = page.token
            if token is None:
                return

    async def keys(
        self, prefix: Bytes = b"", *, limit: int = 1000, timeout_s: float | None = None
    ) -> AsyncIterator[tuple[bytes, int]]:
        """Iterate over (key, revision) under a prefix without fetching values; otherwise as
        `list`.
        """
        raw, token = intents.as_bytes(prefix, "prefix"), None
        while True:
            request = requests.list_request(raw, limit=limit, token=token, keys_only=True)
            page = await self._call(request, answers.parse_keys, timeout_s)
            for each in page.keys:
                yield each
            token = page.token
            if token is None:
                return

    # --------------------------------------------------------------------------------------- writes

    async def put(
        self,
        key: Bytes,
        value: Bytes,
        *,
        ttl_s: float | None = None,
        if_revision: int | None = None,
        exists: bool | None = None,
        op_id: str | None = None,
        timeout_s: float | None = None,
    ) -> results.Written:
        """Set the key, at most once for this op_id.

        `if_revision`: only if the key is at that revision (0: absent). `exists`: only if present
        (True) or absent. Raises PreconditionFailed, NotApplied, OutcomeUnknown, BadRequest.
        """
        raw, content = intents.key_bytes(key), intents.as_bytes(value, "value")

        def make(op_id: str) -> Request:
            return requests.put_request(
                raw, content, op_id, ttl_s=ttl_s, if_revision=if_revision, exists=exists
            )

        return await self._write(op_id, make, answers.parse_written, timeout_s)

    async def cas(
        self,
        key: Bytes,
        value: Bytes,
        *,
        if_revision: int,
        ttl_s: float | None = None,
        op_id: str | None = None,
        timeout_s: float | None = None,
    ) -> results.Written:
        """Set the key if it is at `if_revision` (0: absent). Raises PreconditionFailed with the
        current revision.
        """
        return await self.put(
            key, value, ttl_s=ttl_s, if_revision=if_revision, op_id=op_id, timeout_s=timeout_s
        )

    async def delete(
        self,
        key: Bytes,
        *,
        if_revision: int | None = None,
        exists: bool | None = None,
        op_id: str | None = None,
        timeout_s: float | None = None,
    ) -> results.Written:
        """Make the key absent; `existed` says whether it was present. Raises as `put` does."""
        raw = intents.key_bytes(key)

        def make(op_id: str) -> Request:
            return requests.delete_request(raw, op_id, if_revision=if_revision, exists=exists)

        return await self._write(op_id, make, answers.parse_written, timeout_s)

    async def txn(
        self,
        *,
        guards: Sequence[Guard] = (),
        writes: Sequence[Write] = (),
        otherwise: Sequence[Write] | None = None,
        reads: Sequence[Bytes] = (),
        op_id: str | None = None,
        timeout_s: float | None = None,
        lifetime_s: float | None = None,
    ) -> results.TransactionDone:
        """Write many keys at one revision if all guards hold, else do `otherwise`; read keys as the
        guards saw them.

        `lifetime_s`: for how long an attempt of unknown outcome may take effect, if longer than the
        call; only with an `op_id` of yours, under which it is repeated or looked up. With reads
        alone it is a read of one snapshot. Raises TransactionRefused, NotApplied, OutcomeUnknown.
        """
        intent = Intent(
            guards=tuple(guards),
            writes=tuple(writes),
            otherwise=None if otherwise is None else tuple(otherwise),
            reads=tuple(intents.key_bytes(key) for key in reads),
        )
        if not (writes or otherwise):
            return await self._call(
                requests.txn_request(intent),
                lambda reply: answers.parse_transaction(reply, None),
                timeout_s,
            )

        def make(op_id: str) -> Request:
            return requests.txn_request(
                msgspec.structs.replace(intent, op_id=op_id), lifetime_s=lifetime_s
            )

        try:
            return await self._write(op_id, make, answers.parse_transaction, timeout_s)
        except TransactionRefused as exc:
            if exc.key is None and exc.guard < len(intent.guards):
                exc.key = intent.guards[exc.guard].key
            raise

    async def batch(
        self, intents: Sequence[Intent | Write], *, timeout_s: float | None = None
    ) -> tuple[results.Item, ...]:
        """Send many independent operations in one request; each ends for itself. Not atomic.

        Never raises for what may have taken effect: those come back as items with outcome
        "unknown", and what was never tried as "not_applied". Operations that end so are sent again
        with the same op_ids while time is left.
        """
        if not intents:
            return ()
        given = [each if isinstance(each, Intent) else Intent(writes=(each,)) for each in intents]
        ours = [each.op_id is None for each in given]
        whole = [
            msgspec.structs.replace(each, op_id=self._new_op_id()) if each.op_id is None else each
            for each in given
        ]
        return await send_batch(
            self._caller,
            whole,
            ours,
            new_op_id=self._new_op_id,
            timeout_s=timeout_s or self._timeout_s,
        )

    async def submit_async(
        self,
        *,
        guards: Sequence[Guard] = (),
        writes: Sequence[Write] = (),
        otherwise: Sequence[Write] | None = None,
        op_id: str | None = None,
        timeout_s: float | None = None,
    ) -> results.Accepted:
        """Hand a write to the broker and return before it takes effect; poll `operation`. Raises
        Unsupported.
        """
        intent = Intent(
            guards=tuple(guards),
            writes=tuple(writes),
            otherwise=None if otherwise is None else tuple(otherwise),
            op_id=op_id or self._new_op_id(),
        )
        return await self._call(
            requests.async_request(intent),
            lambda reply: answers.parse_accepted(reply, intent.op_id or ""),
            timeout_s,
        )

    async def operation(
        self, op_id: str, *, settle: bool = False, timeout_s: float | None = None
    ) -> results.Operation:
        """Look an op_id up; one that is pending until its outcome is definite or time is out.

        An op_id that nobody knows is "unknown" with code `not_ordered`: never sent, on its way, or
        in the broker. With `settle` it is cancelled: from then on it is "expired" and never takes
        effect. Raises OutcomeUnknown while nobody can tell, ReadFailed.
        """
        deadline = time.monotonic() + (timeout_s or self._timeout_s)
        request, pause = requests.operation_request(op_id, settle=settle), LOOK_UP_PAUSE_S
        while True:
            left = max(deadline - time.monotonic(), 0.001)
            try:
                found = await self._call(
                    request, lambda reply: answers.parse_operation(reply, op_id), left
                )
            except ReadFailed as exc:
                if exc.reason not in FINAL | {"outcome_unknown"}:
                    raise
                raise OutcomeUnknown(
                    exc.detail,
                    code=exc.code,
                    op_id=op_id,
                    status=exc.status,
                    node=exc.node,
                    attempts=exc.attempts,
                    advice=exc.advice if exc.reason in FINAL else "",
                ) from exc
            if found.outcome != "pending" or time.monotonic() + pause >= deadline:
                return found
            await asyncio.sleep(pause)
            pause = min(pause * 2, LOOK_UP_PAUSE_MAX_S)

    # ------------------------------------------------------------------------------------- watching

    @overload
    def watch(
        self, prefix: Bytes = b"", *, after: int | None = None, bookmarks: Literal[False] = False
    ) -> AsyncIterator[results.Change]: ...

    @overload
    def watch(
        self, prefix: Bytes = b"", *, after: int | None = None, bookmarks: bool
    ) -> AsyncIterator[results.Event]: ...

    def watch(
        self,
        prefix: Bytes = b"",
        *,
        after: int | None = None,
        bookmarks: bool = False,
    ) -> AsyncIterator[results.Change] | AsyncIterator[results.Event]:
        """Iterate over changes under a prefix, for ever: in order, none twice, none left out.

        Begins after revision `after` (None: now). Reconnects on its own, to any node, where it left
        off. All changes of one revision come together. Raises Pruned when what comes next is no
        longer kept, BadRequest.
        """
        return watch_events(
            self._caller,
            intents.as_bytes(prefix, "prefix"),
            after=after,
            bookmarks=bookmarks,
            timeout_s=self._timeout_s,
        )

    # ---------------------------------------------------------------------------------- the cluster

    async def leader(self, *, timeout_s: float | None = None) -> results.Leader:
        """Return who leads. Raises ReadFailed while nobody does."""
        return await self._call(requests.plain_get("/v1/leader"), answers.parse_leader, timeout_s)

    async def cluster(self, *, timeout_s: float | None = None) -> results.Cluster:
        """Return how the answering node sees the cluster."""
        return await self._call(requests.plain_get("/v1/cluster"), answers.parse_cluster, timeout_s)

    async def ledger(
        self, start: int = 1, *, limit: int = 500, timeout_s: float | None = None
    ) -> AsyncIterator[results.LedgerRow]:
        """Iterate over the ledger's rows from `seq` start to its present end. `timeout_s` bounds
        each page.
        """
        at: int | None = start
        while at is not None:
            request = requests.ledger_request(at, limit)
            rows, at = await self._call(request, answers.parse_ledger, timeout_s)
            for row in rows:
                yield row

    async def transfer(self, to: str | None = None, *, timeout_s: float | None = None) -> str:
        """Hand leadership to a member (None: the most advanced); return who leads."""
        return await self._call(requests.transfer_request(to), answers.parse_transfer, timeout_s)

    async def add_member(
        self,
        member: str,
        *,
        raft_address: str,
        url: str,
        voter: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        """Add a member, as an observer unless `voter`. Raises NotApplied while that would be
        unsafe.
        """
        await self._call(
            requests.add_member_request(member, raft_address, url, voter), answers.served, timeout_s
        )

    async def promote_member(self, member: str, *, timeout_s: float | None = None) -> None:
        """Let an observer vote."""
        await self._call(requests.promote_request(member), answers.served, timeout_s)

    async def amend(self, *, timeout_s: float | None = None) -> tuple[str, ...]:
        """Let the retentions that the answering node is set to be those of all members; return
        which changed.
        """
        return await self._call(requests.amend_request(), answers.parse_amended, timeout_s)

    async def adopt(self, *, gives_up: int | None = None, timeout_s: float | None = None) -> int:
        """Adopt the head of a restored store, as an operator decides; return the new settled
        revision.

        `gives_up`: how many settled revisions that gives up, as `cluster` says. Raises BadRequest,
        which says the number, unless it is that one. A node that does not lead names the leader,
        who is then asked at its own URL.
        """
        request = requests.adopt_request(gives_up)
        try:
            return await self._call(request, answers.parse_adopted, timeout_s)
        except BadRequest as exc:
            if exc.code != "ask_leader" or not (exc.allowed or "").startswith(
                ("http://", "https://")
            ):
                raise
            there, limit_s = exc.allowed or "", timeout_s or self._timeout_s
            return await self._caller.at(there, request, answers.parse_adopted, timeout_s=limit_s)

    async def remove_member(self, member: str, *, timeout_s: float | None = None) -> None:
        """Remove a member."""
        await self._call(requests.remove_member_request(member), answers.served, timeout_s)

    # ------------------------------------------------------------------------------------ privately

    async def _call(
        self, request: Request, parse: Callable[[Reply], T], timeout_s: float | None
    ) -> T:
        return (await self._caller.call(request, parse, timeout_s=timeout_s or self._timeout_s))[0]

    async def _write(
        self,
        op_id: str | None,
        make: Callable[[str], Request],
        parse: Callable[[Reply, str], W],
        timeout_s: float | None,
    ) -> W:
        op_ids = OpIds(op_id, self._new_op_id)
        done, attempts = await self._caller.write(
            op_ids, make, parse, timeout_s=timeout_s or self._timeout_s
        )
        return msgspec.structs.replace(done, attempts=attempts) if attempts > 1 else done

    def _freshness(
        self, level: results.Level | None, min_revision: int | None
    ) -> tuple[results.Level, int | None]:
        level = level or self._level
        _check_level(level)
        if level == "session" and min_revision is None:
            min_revision = self._caller.revision
        return level, min_revision


def _check_level(level: str) -> None:
    if level not in results.LEVELS:
        raise BadRequest(
            f"unknown read level {level!r}", code="bad_level", allowed=", ".join(results.LEVELS)
        )


def _base(url: str) -> str:
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
