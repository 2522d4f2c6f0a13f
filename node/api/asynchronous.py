"""POST /v1/async: hand a write to the broker and answer 202 before it takes effect; a worker
submits it later.
"""

from __future__ import annotations

import msgspec
from aiohttp import web

from kv.errors import BadRequest
from kv.model import ASYNC_OP_ID_PREFIX
from node.exchange.exchange import Exchange
from node.exchange.parameters import percent_encoded
from node.wire.documents import encode
from node.wire.requests import TransactionForm, intent_of


async def post(x: Exchange) -> web.Response:
    """Accept a transaction for later. Answers 501 when no broker is configured, and 503 while the
    broker does not answer.
    """
    broker = x.services.async_writes
    params = x.text_params("op_id")
    if broker is None:
        return x.problem(
            "not_configured", "asynchronous writes need a broker: set ACORDO_BROADCAST=amqp://…"
        )
    form = await x.form(TransactionForm)
    if not (form.writes or form.otherwise):
        raise BadRequest("empty_transaction", "nothing to write", allowed="writes or otherwise")
    if "Acordo-Lifetime" in x.request.headers:
        raise BadRequest(
            "bad_lifetime",
            "an accepted write lasts as its worker says",
            allowed="no Acordo-Lifetime",
        )
    # Redelivery is harmless only if `ops` records the op_id, and `ops` does not record the op_ids
    # that nodes make for their own clients. So an op_id made here has a prefix of its own. A
    # client's own op_id is not changed, because the client looks it up by that name.
    op_id = x.take_op_id(params, form.op_id, prefix=ASYNC_OP_ID_PREFIX)
    # Raise here what POST /v1/txn would raise. Otherwise only a worker would find out, when nobody
    # waits for the answer.
    intent_of(form, op_id)
    given = msgspec.to_builtins(form) | {"op_id": op_id}
    transaction = encode({name: value for name, value in given.items() if value is not None})
    await broker.accept(op_id, transaction, timeout_s=x.left_s)
    url = f"/v1/operations/{percent_encoded(op_id)}"
    return x.json(
        {"op_id": op_id, "operation": url}, 202, more={"Location": url, "Acordo-Op-Id": op_id}
    )
