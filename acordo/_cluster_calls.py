"""Ask about the cluster itself, and change who belongs to it: what operators and tools need."""

from __future__ import annotations

from collections.abc import AsyncIterator

from acordo import _results as results
from acordo._base_client import BaseClient
from acordo._errors import BadRequest
from acordo._wire import answers, requests


class ClusterCalls(BaseClient):
    """A client with the calls about members, leadership, retentions and the ledger.

    Each is bounded by `timeout_s` seconds (None: the client's). Questions raise ReadFailed or
    Unreachable when no node answers; changes raise NotApplied (retry freely), OutcomeUnknown (look
    at `cluster`) and BadRequest (the cluster cannot take it as it is).
    """

    async def leader(self, *, timeout_s: float | None = None) -> results.Leader:
        """Return who leads. Raises ReadFailed while nobody does."""
        return await self._call(requests.plain_get("/v1/leader"), answers.parse_leader, timeout_s)

    async def cluster(self, *, timeout_s: float | None = None) -> results.Cluster:
        """Return how the answering node sees the cluster. Raises ReadFailed, Unreachable."""
        return await self._call(requests.plain_get("/v1/cluster"), answers.parse_cluster, timeout_s)

    async def ledger(
        self, start: int = 1, *, limit: int = 500, timeout_s: float | None = None
    ) -> AsyncIterator[results.LedgerRow]:
        """Iterate over the ledger's rows from `seq` start to its present end.

        `limit`: rows in a request, 1 to 1000; `timeout_s` bounds each. Raises ReadFailed,
        Unreachable, BadRequest.
        """
        at: int | None = start
        while at is not None:
            request = requests.ledger_request(at, limit)
            rows, at = await self._call(request, answers.parse_ledger, timeout_s)
            for row in rows:
                yield row

    async def transfer(self, to: str | None = None, *, timeout_s: float | None = None) -> str:
        """Hand leadership to a member (None: the most advanced); return who leads.

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

        `raft_address`: HOST:PORT where members reach it, `url`: where clients do. Raises NotApplied
        while that would be unsafe, OutcomeUnknown, BadRequest.
        """
        request = requests.add_member_request(member, raft_address, url, voter)
        await self._call(request, answers.served, timeout_s)

    async def promote_member(self, member: str, *, timeout_s: float | None = None) -> None:
        """Let an observer vote. Raises NotApplied, OutcomeUnknown, BadRequest."""
        await self._call(requests.promote_request(member), answers.served, timeout_s)

    async def remove_member(self, member: str, *, timeout_s: float | None = None) -> None:
        """Remove a member. Raises NotApplied, OutcomeUnknown, BadRequest."""
        await self._call(requests.remove_member_request(member), answers.served, timeout_s)

    async def amend(self, *, timeout_s: float | None = None) -> tuple[str, ...]:
        """Let the retentions that the answering node is set to be those of all members; return
        which changed.

        Raises NotApplied, OutcomeUnknown, BadRequest.
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
            leader_url = exc.allowed or ""
            if exc.code != "ask_leader" or not leader_url.startswith(("http://", "https://")):
                raise
            limit_s = timeout_s or self._timeout_s
            return await self._caller.at(
                leader_url, request, answers.parse_adopted, timeout_s=limit_s
            )
