"""/v1/operations/{op_id}: GET returns what is known of an operation and changes nothing; POST makes
its outcome definite.

A POST cancels an op_id that is not ordered, so that it never takes effect: a client that sends one
gives up the operation.
"""

from __future__ import annotations

from aiohttp import web

from kv.errors import BadRequest
from kv.model import NODE_OP_ID_PREFIX, OP_ID_CHARS_MAX, Answer
from node.exchange.exchange import Exchange
from node.exchange.parameters import percent_decoded
from node.wire.answers import ItemAnswer, item_of
from node.wire.requests import NothingForm
from node.wire.text_fields import checked_op_id
from node.writes.lookups import Found, StillUnknown


async def get(x: Exchange) -> web.Response:
    """Return what is known of an operation."""
    x.params()
    op_id = _op_id(x)
    return _answer(x, op_id, await x.services.lookups.find(op_id, deadline=x.deadline))


async def post(x: Exchange) -> web.Response:
    """Return how an operation ended. An operation that is not ordered is cancelled for good."""
    x.params()
    if x.request.can_read_body:
        await x.form(NothingForm)
    op_id = _op_id(x)
    return _answer(x, op_id, await x.services.lookups.settle(op_id, deadline=x.deadline))


def _answer(x: Exchange, op_id: str, found: Found) -> web.Response:
    if isinstance(found, StillUnknown):
        return x.problem(found.code, found.why, op_id=op_id)
    if isinstance(found, Answer):
        return x.json(item_of(op_id, found), revision=found.revision)
    if found == "pending":
        detail = "ordered, and its commit not yet known: ask again"
        return x.json(ItemAnswer(op_id, "pending", detail=detail))
    detail = (
        "not ordered: never sent, still on its way, or in the broker for a worker; it may yet "
        "take effect"
    )
    return x.json(ItemAnswer(op_id, "unknown", code="not_ordered", detail=detail))


def _op_id(x: Exchange) -> str:
    """Return the op_id in the path. Op_ids made by nodes may be looked up too."""
    text = percent_decoded(x.rest).decode("utf-8", "replace")
    if text.startswith(NODE_OP_ID_PREFIX):
        if len(text) > OP_ID_CHARS_MAX or not text.isascii() or not text.isprintable():
            raise BadRequest("bad_op_id", "no node makes such an op_id", allowed="an op_id")
        return text
    return checked_op_id(text, reserved=())
