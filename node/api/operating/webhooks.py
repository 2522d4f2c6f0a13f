"""/v1/webhooks: subscriptions, each of a principal, and the signing of what they are told.

Only the answer that creates a subscription contains its secret.
"""

from __future__ import annotations

import base64
import binascii

from aiohttp import web

from kv.access import UNCONTROLLED, Rights
from kv.errors import BadRequest
from node.exchange.exchange import Exchange
from node.exchange.parameters import percent_decoded
from node.wire.webhook_forms import (
    OwnerForm,
    SignedAnswer,
    SignForm,
    WebhookForm,
    WebhooksAnswer,
    webhook_answer,
)

SIGN = "/sign"


def _by(x: Exchange) -> Rights:
    """Return the rights of who asks."""
    return UNCONTROLLED if x.services.grant is None else x.services.grant.rights


def _name(x: Exchange, end: str = "") -> str:
    raw = x.rest.removesuffix(end)
    name = percent_decoded(raw).decode("utf-8", "replace")
    if not name.isascii():
        raise BadRequest("bad_name", f"{name[:64]!r} is no name", allowed="ASCII")
    return name


async def listing(x: Exchange) -> web.Response:
    """List the caller's webhooks; an admin sees all."""
    x.params()
    found = x.services.webhooks.list(_by(x))
    return x.json(WebhooksAnswer([webhook_answer(w, at, delivers=told) for w, at, told in found]))


async def create(x: Exchange) -> web.Response:
    """Create a webhook, and tell its secret this once."""
    x.params()
    form = await x.form(WebhookForm)
    x.mutation = True
    webhook, at, told = await x.services.webhooks.create(_by(x), form, deadline=x.deadline)
    secret = webhook.secret if form.secret is None else None
    return x.json(webhook_answer(webhook, at, delivers=told, secret=secret), 201)


async def get(x: Exchange) -> web.Response:
    """Show a webhook of the caller's."""
    x.params()
    webhook, at, told = x.services.webhooks.get(_by(x), _name(x))
    return x.json(webhook_answer(webhook, at, delivers=told))


async def remove(x: Exchange) -> web.Response:
    """End a webhook of the caller's."""
    x.params()
    name = _name(x)
    x.mutation = True
    await x.services.webhooks.remove(_by(x), name, deadline=x.deadline)
    return x.json({"removed": name})


async def give(x: Exchange) -> web.Response:
    """Let a webhook be another principal's."""
    x.params()
    form = await x.form(OwnerForm)
    x.mutation = True
    webhook, at, told = await x.services.webhooks.give(
        _by(x), _name(x, "/owner"), form.owner, deadline=x.deadline
    )
    return x.json(webhook_answer(webhook, at, delivers=told))


async def sign(x: Exchange) -> web.Response:
    """Sign a delivery, if the webhook's owner may be told that now: a node that lags learns first
    what the owner may, and who asks.
    """
    x.params()
    form = await x.form(SignForm)
    try:
        body = base64.b64decode(form.body, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise BadRequest("bad_base64", "the body is not base64", allowed="RFC 4648") from exc
    name = _name(x, SIGN)
    await x.services.access.wait_fresh(x.deadline)
    signed = x.services.webhooks.sign(_by(x), name, form.id, form.timestamp, body)
    if signed is None:
        return x.json(SignedAnswer(False))
    return x.json(SignedAnswer(True, signed.standard, signed.acordo))
