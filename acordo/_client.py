"""Read, write and watch keys through any node of a cluster. Never calls a write failed that may
have taken effect.

Outcomes are judged by `acordo._outcomes`, attempts made by `acordo._calls`, HTTP spoken by
`acordo._wire`; here they become the calls that users of the package make.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Literal, TypeVar, overload

import msgspec

from acordo import _results as results
from acordo._base_client import check_level
from acordo._calls.batches import send_batch
from acordo._calls.caller import OpIds
from acordo._calls.look_up import look_up
from acordo._cluster_calls import ClusterCalls
from acordo._errors import TransactionRefused
from acordo._intents import Bytes, Guard, Intent, Write, as_bytes, key_bytes
from acordo._messages import Reply, Request
from acordo._watch import watch_events
from acordo._wire import answers, requests

W = TypeVar("W", results.Written, results.TransactionDone)


class Client(ClusterCalls):
    """A client of one cluster, to be opened with `async with`.

    The first node that answers is kept until it fails. `timeout_s` bounds every call as a whole,
    whatever retries it takes; a call may name its own. With level "session", reads see at least
    everything that this client has seen. A key is 1 to 1024 bytes, a value up to 1 MiB; a str
    stands for its UTF-8. Not bound to one task: share it freely.

    A write raises NotApplied or Unreachable when it has no effect and never will, OutcomeUnknown
    when it may have taken effect, and BadRequest when it can never work as it is. All errors are
    AcordoErrors, and say what to do next.
    """

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

        `level` is this read's own, `min_revision` the least that a session read has to reflect;
        `max_age_s` bounds how old what a stale read serves may be; `at_revision` reads history.
        Raises ReadFailed, Unreachable, Pruned, BadRequest.
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
        raw = key_bytes(key)
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

        `limit` is the size of a page, 1 to 1000 keys; `timeout_s` bounds each page. Raises Pruned
        when the revision is forgotten before the end is reached, ReadFailed, Unreachable,
        BadRequest.
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
        process. Otherwise as `list`.
        """
        raw = as_bytes(prefix, "prefix")
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
        raw, token = as_bytes(prefix, "prefix"), None
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

        `ttl_s`: seconds until it is deleted, 0.001 up (None: never). `if_revision`: only if the key
        is at that revision (0: absent). `exists`: only if present (True) or absent (False). `op_id`
        (1 to 128 printable ASCII): the same one again is answered with the first one's outcome.
        Raises PreconditionFailed, NotApplied, Unreachable, OutcomeUnknown, BadRequest.
        """
        raw, content = key_bytes(key), as_bytes(value, "value")

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
        """Set the key if it is at `if_revision` (0: absent).

        Raises PreconditionFailed with the current revision; otherwise as `put` does.
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
        raw = key_bytes(key)

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

        Guards, writes and reads are 128 at most together. `lifetime_s`: for how long an attempt of
        unknown outcome may take effect, if longer than the call; only with an `op_id` of yours,
        under which it is repeated or looked up. With reads alone it is a read of one snapshot.
        Raises TransactionRefused, NotApplied, Unreachable, OutcomeUnknown, BadRequest; with reads
        alone ReadFailed.
        """
        intent = Intent(
            guards=tuple(guards),
            writes=tuple(writes),
            otherwise=None if otherwise is None else tuple(otherwise),
            reads=tuple(key_bytes(key) for key in reads),
        )
        if not (writes or otherwise):
            return await self._call(
                requests.txn_request(intent),
                lambda reply: answers.parse_transaction(reply, None),
                timeout_s,
            )

        def make(op_id: str) -> Request:
            identified = msgspec.structs.replace(intent, op_id=op_id)
            return requests.txn_request(identified, lifetime_s=lifetime_s)

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

        At most 128 operations, and 4 MiB. Never raises for what may have taken effect: those come
        back as items with outcome "unknown", and what was never tried as "not_applied". Operations
        that end so are sent again with the same op_ids while time is left.
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
        """Hand a write to the broker and return before it takes effect; poll `operation`.

        Raises Unsupported where the cluster has no broker; otherwise as `put` does.
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
        effect. Raises OutcomeUnknown while nobody can tell, ReadFailed, Unreachable.
        """
        return await look_up(
            self._caller, op_id, settle=settle, timeout_s=timeout_s or self._timeout_s
        )

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
        off. All changes of one revision come together. `bookmarks`: iterate also over Bookmarks,
        positions up to which nothing changed. Raises Pruned when what comes next is no longer kept
        (Undone: when it was taken back), BadRequest, OutOfOrder, and ReadFailed or Unreachable when
        no node was found for a minute.
        """
        return watch_events(
            self._caller,
            as_bytes(prefix, "prefix"),
            after=after,
            bookmarks=bookmarks,
            timeout_s=self._timeout_s,
        )

    # ------------------------------------------------------------------------------------ privately

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
        check_level(level)
        if level == "session" and min_revision is None:
            min_revision = self._caller.revision
        return level, min_revision
