"""Query the cluster itself and change its members: the calls that operators and tools need."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from acordo import _results as results
from acordo._base_client import BaseClient
from acordo._calls.attempts import StreamCut
from acordo._calls.operation_errors import error_of
from acordo._calls.transport import Stream
from acordo._errors import BadRequest, ReadFailed
from acordo._messages import Reply
from acordo._outcomes import classify
from acordo._tls import unasked
from acordo._wire import answers, requests

IDLE_S: Final = 60.0
"""Seconds without a byte of a backup after which it is given up."""

LINES: Final = "application/x-ndjson"


class ClusterCalls(BaseClient):
    """A client with the calls about members, leadership, retentions and the ledger.

    Each call is bounded by `timeout_s` seconds (None: the client's default). Queries raise
    ReadFailed or Unreachable when no node answers. Changes raise NotApplied (retry freely),
    OutcomeUnknown (check with `cluster`) and BadRequest (the cluster cannot do it as requested).
    """

    async def leader(self, *, timeout_s: float | None = None) -> results.Leader:
        """Return the leader. Raises ReadFailed while there is none, Unreachable."""
        return await self._call(requests.plain_get("/v1/leader"), answers.parse_leader, timeout_s)

    async def cluster(self, *, timeout_s: float | None = None) -> results.Cluster:
        """Return the cluster as the answering node sees it. Raises ReadFailed, Unreachable."""
        return await self._call(requests.plain_get("/v1/cluster"), answers.parse_cluster, timeout_s)

    async def ledger(
        self, start: int = 1, *, limit: int = 500, timeout_s: float | None = None
    ) -> AsyncIterator[results.LedgerRow]:
        """Iterate over the ledger's rows from the given `seq` to the present end.

        `limit`: rows per request, 1 to 1000; `timeout_s` bounds each request. Raises ReadFailed,
        Unreachable, BadRequest.
        """
        at: int | None = start
        while at is not None:
            request = requests.ledger_request(at, limit)
            rows, at = await self._call(request, answers.parse_ledger, timeout_s)
            for row in rows:
                yield row

    async def look(
        self, url: str, path: str, *, timeout_s: float | None = None
    ) -> tuple[int | None, bytes]:
        """Return the status and the body of one GET at the node at `url`, whatever they are; the
        status is None, and the body says why, if no whole answer came, or none was asked for: not
        in the clear where this client speaks HTTPS.
        """
        if why := unasked(self.urls, url):
            return None, why.encode()
        limit_s = timeout_s or self._timeout_s
        reply = await self._transport.once(
            url, requests.plain_get(path), timeout_s=limit_s, node_timeout_s=limit_s
        )
        if not reply.observed.complete:
            return None, reply.error.encode()
        return reply.observed.status, reply.body

    async def backup(
        self, *, since: tuple[int, str] | None = None, idle_s: float = IDLE_S
    ) -> AsyncIterator[bytes]:
        """Iterate over the bytes of a backup of everything that was acknowledged before, from the
        first node that gives one. A node that sends nothing for `idle_s` seconds is given up.

        `since`: revision and order (`BackupSummary`) of an earlier one; then only what changed
        after it. Raises Pruned if the cluster does not keep all of that any more.

        Only the end of the bytes tells whether the backup is whole: check it. Raises ReadFailed,
        Unreachable, BadRequest.
        """
        request, why = requests.backup_request(since), None
        for _ in range(len(self.urls)):
            at = self._caller.nodes.choose()
            async with self._caller.stream(at, request, idle_s, "application/octet-stream") as got:
                if not isinstance(got, Reply):
                    try:
                        async for piece in got.chunks():
                            yield piece
                    except StreamCut as exc:
                        raise ReadFailed(
                            f"the backup broke off: {exc}", reason="backup_cut"
                        ) from exc
                    return
                why = got
            self._caller.nodes.avoid(at)
        assert why is not None
        raise error_of(request, why, [classify(why.observed)])

    async def inspect(
        self, url: str, revision: int, *, idle_s: float = IDLE_S
    ) -> AsyncIterator[results.Inspected]:
        """Let the node at `url` check all of its store now, and iterate over how far it is; the
        last one is `done`. Raises ReadFailed, Unreachable, BadRequest.
        """
        request = requests.plain_get(f"/v1/verify?revision={revision}")
        async with self._transport.stream(
            url, request, head_timeout_s=self._timeout_s, idle_s=idle_s, media=LINES
        ) as got:
            if isinstance(got, Reply):
                raise error_of(request, got, [classify(got.observed)])
            found: results.Inspected | None = None
            try:
                async for line in _lines(got):
                    found = answers.parse_inspected(line)
                    yield found
            except (StreamCut, ValueError) as exc:
                raise ReadFailed(f"{url}: the check broke off: {exc}", reason="verify_cut") from exc
            if found is None or not found.done:
                raise ReadFailed(f"{url}: the check ended early", reason="verify_cut")

    async def transfer(self, to: str | None = None, *, timeout_s: float | None = None) -> str:
        """Transfer the leadership to a member (None: the most advanced one); return the new
        leader's id.

        Raises NotApplied, OutcomeUnknown, BadRequest.
        """
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
        """Add a member, as an observer unless `voter`.

        `raft_address`: HOST:PORT at which members reach it; `url`: the URL at which clients do.
        Raises NotApplied while the change would be unsafe, OutcomeUnknown, BadRequest.
        """
        request = requests.add_member_request(member, raft_address, url, voter)
        await self._call(request, answers.served, timeout_s)

    async def promote_member(self, member: str, *, timeout_s: float | None = None) -> None:
        """Make an observer a voter. Raises NotApplied, OutcomeUnknown, BadRequest."""
        await self._call(requests.promote_request(member), answers.served, timeout_s)

    async def remove_member(self, member: str, *, timeout_s: float | None = None) -> None:
        """Remove a member. Raises NotApplied, OutcomeUnknown, BadRequest."""
        await self._call(requests.remove_member_request(member), answers.served, timeout_s)

    async def amend(self, *, timeout_s: float | None = None) -> tuple[str, ...]:
        """Make the answering node's own retention settings those of all members; return the names
        of the changed ones.

        Raises NotApplied, OutcomeUnknown, BadRequest.
        """
        return await self._call(requests.amend_request(), answers.parse_amended, timeout_s)

    async def adopt(self, *, gives_up: int | None = None, timeout_s: float | None = None) -> int:
        """Adopt the head of a restored store, by an operator's decision; return the new settled
        revision.

        `gives_up`: the number of settled revisions that are given up, as `cluster` shows it. Raises
        BadRequest, which states the right number, when it differs. A node that does not lead names
        the leader, and the call then goes to the leader's own URL.
        """
        request = requests.adopt_request(gives_up)
        try:
            return await self._call(request, answers.parse_adopted, timeout_s)
        except BadRequest as exc:
            leader_url = exc.allowed or ""
            if exc.code != "ask_leader" or not leader_url.startswith(("http://", "https://")):
                raise
            limit_s = timeout_s or self._timeout_s
            return await self._caller.at(
                leader_url, request, answers.parse_adopted, timeout_s=limit_s
            )


async def _lines(stream: Stream) -> AsyncIterator[bytes]:
    """Iterate over the lines of a stream. Raises StreamCut."""
    rest = b""
    async for chunk in stream.chunks():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
    if rest:
        yield rest
