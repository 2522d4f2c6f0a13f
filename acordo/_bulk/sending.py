"""Send a batch of lines until each one is written or definitely refused. Never writes a line twice.

The op_id of a line is made of the load's id, the line's number and its content. The cluster
recognises lines that an interrupted run has sent, and changes nothing.
"""

from __future__ import annotations

from typing import Final, Literal

from acordo._bulk.leasing import Leases
from acordo._bulk.lines import EXPIRIES_MAX, Line
from acordo._bulk.tally import Tally
from acordo._client import Client
from acordo._errors import BadRequest, NotApplied, OutcomeUnknown
from acordo._outcomes import EXPIRED, LEASE_GONE
from acordo._results import Item

RUN_AGAIN: Final = "other lines may be in: run it again, nothing is doubled"


class Sender:
    """The sender of a load's batches."""

    def __init__(self, client: Client, tally: Tally, leases: Leases, *, timeout_s: float) -> None:
        self._client, self._tally, self._timeout_s = client, tally, timeout_s
        self._leases = leases

    async def send(self, batch: list[Line]) -> None:
        """Send a batch until each line is written or refused. Its keys are distinct, so the lines
        may be written in any order.

        Raises Rejected (see Tally), NotApplied or OutcomeUnknown for the first line that the
        cluster did not take in time.
        """
        expiries = 0
        batch = [line for line in await self._leased(batch) if line.key]
        while batch:
            if expiries > EXPIRIES_MAX:
                why = f"line {batch[0].number} expires every time"
                raise NotApplied(why, reason=EXPIRED, op_id=batch[0].op_id, advice=RUN_AGAIN)
            items = await self._ask(batch, expiries)
            if len(batch) > 1 and any(item.outcome == "bad_request" for item in items):
                # One bad operation makes the whole request fail, and so does a proxy in between
                # that accepts less than a node. Halve the batch until each part is accepted or the
                # bad line is found.
                middle = len(batch) // 2
                await self.send(batch[:middle])
                await self.send(batch[middle:])
                return
            late = []
            for line, item in zip(batch, items, strict=True):
                ended = item.outcome == "refused" and line.lease and expiries < EXPIRIES_MAX
                if item.outcome == EXPIRED or ended:
                    late.append(line)
                else:
                    self._take(line, item)
                if ended and line.lease:
                    self._leases.forget(line.lease[0])
            batch, expiries = await self._leased(late), expiries + 1

    async def _leased(self, batch: list[Line]) -> list[Line]:
        """Return the lines whose leases are there now, if they have one. Raises Rejected (see
        Tally) for one that cannot be granted, NotApplied, OutcomeUnknown.
        """
        found = []
        for line in batch:
            try:
                if line.lease:
                    await self._leases.ensure(*line.lease)
            except BadRequest as exc:
                self._tally.reject(line.number, f"its lease: {exc.detail}")
            else:
                found.append(line)
        return found

    async def _ask(self, batch: list[Line], expiries: int) -> tuple[Item, ...]:
        first = batch[0]
        if not first.large:
            intents = [line.intent(expiries) for line in batch]
            return await self._client.batch(intents, timeout_s=self._timeout_s)
        op_id = first.op_id_after(expiries)
        try:
            written = await self._client.put(
                first.key,
                first.value,
                ttl_s=first.ttl_s,
                lease=first.lease[0] if first.lease else None,
                op_id=op_id,
                timeout_s=self._timeout_s,
            )
        except NotApplied as exc:
            if exc.reason != EXPIRED:
                exc.advice = RUN_AGAIN
                raise
            return (Item(op_id=op_id, outcome="expired"),)
        except BadRequest as exc:
            outcome: Literal["refused", "bad_request"] = (
                "refused" if exc.code == LEASE_GONE else "bad_request"
            )
            return (Item(op_id=op_id, outcome=outcome, detail=exc.detail),)
        return (
            Item(op_id=op_id, outcome="applied", revision=written.revision, again=written.again),
        )

    def _take(self, line: Line, item: Item) -> None:
        detail = f"line {line.number}: {item.detail or item.outcome}"
        match item.outcome:
            case "applied":
                self._tally.applied(item)
            case "unknown":
                raise OutcomeUnknown(detail, op_id=line.op_id)
            case "not_applied" | "expired":  # `send` renews expired ones before this
                raise NotApplied(detail, reason=item.outcome, op_id=line.op_id, advice=RUN_AGAIN)
            case "bad_request" | "mismatch" | "refused":
                self._tally.reject(line.number, item.detail or item.outcome)
