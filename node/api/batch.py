"""POST /v1/batch: run many independent operations in one request, each with its own outcome; not
atomic.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

from kv.errors import BadRequest, KvError, NotApplied, OutcomeUnknown
from kv.model import Intent
from node.exchange.exchange import Exchange
from node.wire.answers import BatchAnswer, ItemAnswer, item_of
from node.wire.problems import problem_of
from node.wire.requests import BATCH_PARTS_MAX, BatchForm, TransactionForm, intent_of, parts_of
from node.wire.text_fields import checked_op_id
from node.writes.submit_queue import Result


async def post(x: Exchange) -> web.Response:
    """Run a batch. Answers 503 or 504 only when every operation ended that way; otherwise 200, and
    each result says how its operation ended.
    """
    x.params()
    for name in _ELSEWHERE & x.request.headers.keys():
        raise BadRequest(
            "bad_op_id", f"{name} does not work on a batch", allowed="op_id in each operation"
        )
    form = await x.form(BatchForm)
    if (parts := sum(parts_of(each) for each in form.operations)) > BATCH_PARTS_MAX:
        raise BadRequest(
            "too_many_operations",
            f"{parts} guards, writes and reads",
            allowed=f"up to {BATCH_PARTS_MAX} in all",
        )
    intents = [_intent(x, each, place) for place, each in enumerate(form.operations)]
    x.mutation = True
    results = await x.services.writes.many(intents, deadline=x.deadline)
    _raise_if_all(results)
    items = [_item(intent.op_id, result) for intent, result in zip(intents, results, strict=True)]
    return x.json(BatchAnswer(items), revision=max(item.revision for item in items))


_ELSEWHERE: Final = frozenset({"Idempotency-Key", "Acordo-Op-Id", "Acordo-Lifetime"})
"""Headers that apply to a single write. A batch has many writes, so these are refused rather than
ignored.
"""


def _intent(x: Exchange, form: TransactionForm, place: int) -> Intent:
    op_id = x.services.writes.new_op_id() if form.op_id is None else checked_op_id(form.op_id)
    try:
        if not (form.guards or form.writes or form.otherwise):
            raise BadRequest(
                "empty_transaction", "neither guards nor writes", allowed="at least one of them"
            )
        return intent_of(form, op_id)
    except BadRequest as exc:
        raise BadRequest(
            exc.code, f"operations[{place}]: {exc.detail}", allowed=exc.allowed
        ) from exc


def _raise_if_all(results: list[Result]) -> None:
    for kind in (NotApplied, OutcomeUnknown):
        if all(isinstance(result, kind) for result in results):
            first = results[0]
            if isinstance(first, OutcomeUnknown):
                # Leave the op_id out: each operation has its own, and this one would look like that
                # of the whole batch.
                raise OutcomeUnknown(first.detail)
            if isinstance(first, NotApplied):
                raise first


def _item(op_id: str, result: Result) -> ItemAnswer:
    if not isinstance(result, KvError):
        return item_of(op_id, result)
    document = problem_of(result, mutation=True, op_id=op_id)
    outcome = document.outcome or "not_applied"
    return ItemAnswer(
        op_id, outcome, code=document.code, detail=document.detail, advice=document.advice
    )
