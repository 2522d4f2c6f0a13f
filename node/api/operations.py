"""GET /v1/operations/{op_id}: how an operation ended, made definite if nobody knows it.

A look-up of an op_id that nobody knows cancels it. 504 while it cannot be made definite.
"""

from __future__ import annotations

from aiohttp import web

from kv.errors import BadRequest
from kv.model import NODE_OP_ID_PREFIX, OP_ID_CHARS_MAX, Answer
from node import wire
from node.exchange import Exchange, percent_decoded
from node.lookups import StillUnknown


async def get(x: Exchange) -> web.Response:
    """Return how an operation ended."""
    x.params()
    op_id = _op_id(x)
    found = await x.rooms.lookups.find(op_id, deadline=x.deadline)
    if isinstance(found, StillUnknown):
        return x.problem(found.code, found.why, op_id=op_id)
    if isinstance(found, Answer):
        return x.json(wire.item_of(op_id, found), revision=found.revision)
    return x.json(wire.ItemAnswer(op_id, "pending", detail="ordered, and its commit not yet known: ask again"))


def _op_id(x: Exchange) -> str:
    text = percent_decoded(x.rest).decode("utf-8", "replace")
    if text.startswith(NODE_OP_ID_PREFIX):
        if len(text) > OP_ID_CHARS_MAX or not text.isascii() or not text.isprintable():
            raise BadRequest("bad_op_id", "no node makes such an op_id", allowed="an op_id")
        return text
    return wire.checked_op_id(text)
