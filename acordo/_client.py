"""Read, write and watch keys through any node of a cluster. It never reports a write as failed that
may have taken effect.

`acordo._outcomes` judges outcomes, `acordo._calls` makes attempts, `acordo._wire` encodes HTTP.
This module combines them into the public calls.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Literal, TypeVar, overload

import msgspec

from acordo import _results as results
from acordo._access_calls import AccessCalls
from acordo._base_client import check_level
from acordo._calls.batches import send_batch
from acordo._calls.caller import OpIds
from acordo._calls.look_up import look_up
from acordo._cluster_calls import ClusterCalls
from acordo._errors import TransactionRefused
from acordo._intents import Bytes, Guard, Intent, Write, as_bytes, key_bytes
from acordo._lease_calls import LeaseCalls
from acordo._messages import Reply, Request
from acordo._results import ListOrder
from acordo._watch import watch_events
from acordo._webhook_calls import WebhookCalls
from acordo._wire import answers, requests

W = TypeVar("W", results.Written, results.TransactionDone)


class Client(ClusterCalls, LeaseCalls, AccessCalls, WebhookCalls):
    """A client of one cluster, used with `async with`.

    It keeps using the first node that answers until that node fails. `timeout_s` bounds every call
    as a whole, including its retries; each call may override it. With level "session", reads
    reflect at least everything that this client has seen. A key has 1 to 1024 bytes, a value up to
    1 MiB; a str stands for its UTF-8 bytes. Several tasks may share one client.

    A write raises NotApplied or Unreachable when it has no effect and never will, OutcomeUnknown
    when it may have taken effect, and BadRequest when it can never work as it is. All errors are
    AcordoErrors, whose `advice` says what to do next.
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
        """Return the key's newest value, or None when the key is absent.

        `level` overrides the client's read level. `min_revision` is the revision that the answer
        has to reflect at least. `max_age_s` bounds, in seconds, the age of what a stale read
        returns. `at_revision` reads the value as of that revision. Raises ReadFailed, Unreachable,
        Pruned, BadRequest.
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
        """Read like `get`, but return a Reading also for an absent key, with the node that answered
        and how fresh the answer is.
        """
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
        revision: int | None = None,
        end: Bytes | None = None,
        sort: ListOrder | None = None,
        descending: bool = False,
        token: str | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[results.Found]:
        """Iterate over the keys under a prefix in byte order, all as of one revision. The first
        page is a linearizable read.

        `limit` is the page size, 1 to 1000 keys; `timeout_s` bounds each page. `min_revision` is
        the revision that the listing has to reflect at least; `revision` lists the keys as they
        were then. With an `end`, the keys from `prefix` on and before `end` are listed (a zero
        byte: all of them). `sort` puts them in another order, `descending` the other way round:
        then 100,000 keys at most, all of which are looked at for each page. `token` continues after
        an earlier page. Raises Pruned when the listing's revision is no longer kept before the end
        is reached, ReadFailed, Unreachable, BadRequest.
        """
        async for page in self.pages(
            prefix,
            limit=limit,
            min_revision=min_revision,
            revision=revision,
            end=end,
            sort=sort,
            descending=descending,
            token=token,
            timeout_s=timeout_s,
        ):
            for found in page.found:
                yield found

    async def pages(
        self,
        prefix: Bytes = b"",
        *,
        limit: int = 500,
        min_revision: int | None = None,
        revision: int | None = None,
        end: Bytes | None = None,
        sort: ListOrder | None = None,
        descending: bool = False,
        token: str | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[results.Page]:
        """Iterate over whole pages. `Page.token` continues after that page, also in another
        process. Otherwise like `list`.
        """
        raw, behind = as_bytes(prefix, "prefix"), None if end is None else as_bytes(end, "end")
        while True:
            request = requests.list_request(
                raw,
                limit=limit,
                token=token,
                min_revision=min_revision,
                revision=revision,
                end=behind,
                sort=sort,
                descending=descending,
            )
            page = await self._call(request, answers.parse_page, timeout_s)
            yield page
            token = page.token
            if token is None:
                return

    async def count(
        self,
        prefix: Bytes = b"",
        *,
        revision: int | None = None,
        end: Bytes | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Return how many keys there are under a prefix, or in a range, as `list` names them.
        Raises Pruned, ReadFailed, Unreachable, BadRequest.
        """
        raw, behind = as_bytes(prefix, "prefix"), None if end is None else as_bytes(end, "end")
        request = requests.list_request(
            raw, limit=1, revision=revision, end=behind, count_only=True
        )
        return await self._call(request, answers.parse_count, timeout_s)

    async def keys(
        self, prefix: Bytes = b"", *, limit: int = 1000, timeout_s: float | None = None
    ) -> AsyncIterator[tuple[bytes, int]]:
        """Iterate over (key, revision) under a prefix without fetching values. Otherwise like
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

    async def children(
        self,
        prefix: Bytes = b"",
        *,
        separator: Bytes = b"/",
        revision: int | None = None,
        limit: int = 1000,
        timeout_s: float | None = None,
    ) -> AsyncIterator[results.Child]:
        """Iterate over what stands right under a prefix, as a directory shows its files and
        folders: in byte order, all as of one revision, without values. Keys further down cost no
        more than their folder. Otherwise like `list`.
        """
        raw, at, token = as_bytes(prefix, "prefix"), as_bytes(separator, "separator"), None
        while True:
            request = requests.list_request(
                raw, limit=limit, token=token, revision=revision, keys_only=True, separator=at
            )
            page = await self._call(request, answers.parse_keys, timeout_s)
            found = [results.Child(name=key, revision=revision) for key, revision in page.keys]
            found += [results.Child(name=each, revision=None) for each in page.prefixes]
            for child in sorted(found, key=lambda child: child.name):
                yield child
            token = page.token
            if token is None:
                return

    async def history(
        self, key: Bytes, *, limit: int = 10, timeout_s: float | None = None
    ) -> AsyncIterator[results.Change]:
        """Iterate over the kept versions of a key, newest first. `limit` is the number fetched by
        one request, 1 to 100. Raises Pruned when older ones go while they are fetched, ReadFailed,
        Unreachable, BadRequest.
        """
        raw, before = key_bytes(key), None
        while True:
            request = requests.history_request(raw, limit=limit, before=before)
            changes, before = await self._call(request, answers.parse_history, timeout_s)
            for change in changes:
                yield change
            if before is None:
                return

    # --------------------------------------------------------------------------------------- writes

    async def put(
        self,
        key: Bytes,
        value: Bytes,
        *,
        ttl_s: float | None = None,
        lease: str | None = None,
        if_revision: int | None = None,
        exists: bool | None = None,
        op_id: str | None = None,
        timeout_s: float | None = None,
    ) -> results.Written:
        """Set the key, at most once per op_id.

        `ttl_s`: seconds until the key is deleted, at least 0.001 (None: never). `lease`: the lease
        that the key ends with; BadRequest("lease_not_found") if it is not there. `if_revision`:
        write only if the key is at that revision (0: absent). `exists`: write only if the key is
        present (True) or absent (False). `op_id`: 1 to 128 printable ASCII characters; a repeated
        one gets the outcome of the first write. Raises PreconditionFailed, NotApplied, Unreachable,
        OutcomeUnknown, BadRequest.
        """
        raw, content = key_bytes(key), as_bytes(value, "value")

        def make(op_id: str) -> Request:
            return requests.put_request(
                raw,
                content,
                op_id,
                ttl_s=ttl_s,
                lease=lease,
                if_revision=if_revision,
                exists=exists,
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

        Raises PreconditionFailed with the current revision; otherwise like `put`.
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
        """Delete the key; `existed` in the result says whether it was present. Raises the same
        errors as `put`.
        """
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
        """Write many keys atomically at one revision if all guards hold, otherwise execute
        `otherwise`; return `reads` as the guards saw them.

        Guards, writes and reads are at most 128 together. `lifetime_s`: how long an attempt of
        unknown outcome may still take effect, in seconds, if longer than the call. It requires an
        `op_id`, under which you repeat the transaction or look it up. With reads alone the call is
        a read of one snapshot. Raises TransactionRefused, NotApplied, Unreachable, OutcomeUnknown,
        BadRequest; with reads alone ReadFailed.
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
        """Send many independent operations in one request, each with its own outcome. The batch is
        not atomic.

        At most 128 operations and 4 MiB. Operations that were not applied for now, or whose outcome
        is unknown, are sent again under the same op_ids while time is left. The call does not raise
        for them: at the end their items have outcome "unknown" if they may have taken effect, and
        "not_applied" if not.
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
        """Hand a write to the broker and return before it takes effect; poll `operation` for its
        outcome.

        Raises Unsupported if the cluster has no broker; otherwise the same errors as `put`.
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
        """Look up an op_id. While it is pending, the call waits until its outcome is definite or
        `timeout_s` is over.

        An op_id that is not ordered is "unknown" with code `not_ordered`: it was never sent, is on
        its way, or is in the broker. With `settle` it is cancelled: its outcome is then "expired"
        and it never takes effect. Raises OutcomeUnknown while the outcome cannot be determined,
        ReadFailed, Unreachable.
        """
        return await look_up(
            self._caller, op_id, settle=settle, timeout_s=timeout_s or self._timeout_s
        )

    # ------------------------------------------------------------------------------------- watching

    @overload
    def watch(
        self,
        prefix: Bytes = b"",
        *,
        after: int | str | None = None,
        bookmarks: Literal[False] = False,
    ) -> AsyncIterator[results.Change]: ...

    @overload
    def watch(
        self, prefix: Bytes = b"", *, after: int | str | None = None, bookmarks: bool
    ) -> AsyncIterator[results.Event]: ...

    def watch(
        self,
        prefix: Bytes = b"",
        *,
        after: int | str | None = None,
        bookmarks: bool = False,
    ) -> AsyncIterator[results.Change] | AsyncIterator[results.Event]:
        """Iterate over changes under a prefix, forever: in order, none twice, none left out.

        It begins after `after` (a revision, or the `position` of an event; None: now), reconnects
        to any node by itself, and resumes where it left off. All changes of one revision come
        together. With `bookmarks` it also yields Bookmarks: positions up to which every change has
        been yielded. Raises Pruned when the next changes are no longer kept (Undone when what was
        told before is void), BadRequest, OutOfOrder, and ReadFailed or Unreachable when no node was
        reached for a minute.
        """
        return watch_events(
            self._caller,
            as_bytes(prefix, "prefix"),
            after=after,
            bookmarks=bookmarks,
            timeout_s=self._timeout_s,
        )

    async def poll(
        self, prefix: Bytes = b"", *, after: int | str | None = None, wait_s: float = 30.0
    ) -> results.Changes:
        """Return the next changes under a prefix after a position, waiting up to `wait_s` seconds
        for the first; at once and without any when `after` is None, for a position to begin with.

        It tells what `watch` tells, which is cheaper where changes are many: poll where a wait has
        to end. `Changes.position` is what to poll after next. Raises Pruned (Undone when what was
        told before is void), ReadFailed, Unreachable, BadRequest.
        """
        raw, deadline = as_bytes(prefix, "prefix"), time.monotonic() + wait_s
        position = None if after is None else str(after)
        while True:
            left = deadline - time.monotonic()
            # less than one attempt may take, or each would be given up before its answer
            quiet_s = max(0.0, min(left, self._poll_s))
            request = requests.poll_request(raw, position, quiet_s)
            found, _ = await self._caller.call(
                request, answers.parse_changes, timeout_s=self._timeout_s, quiet_s=quiet_s
            )
            if found.events or position is None or left <= self._poll_s:
                return found
            position = found.position

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
