"""Convert webhooks to JSON and back. Pure. It shows a secret only in the answer that creates it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from kv.webhooks import SECRET_CHARS, URL_CHARS_MAX, Webhook
from node.wire.access_forms import NameForm
from node.wire.byte_forms import Bytes, json_form

BODY_CHARS_MAX = 2_500_000
"""Longest body of a delivery, in Base64: one contains a value of up to 256 KiB, of which JSON may
make six bytes of each.
"""


class WebhookForm(Struct, frozen=True, forbid_unknown_fields=True):
    """A webhook to create. `secret`: None: one is made. `replaces`: the revision of the key
    under acordo/webhooks/subscriptions/ that it takes the place of.
    """

    name: NameForm
    url: Annotated[str, Meta(min_length=1, max_length=URL_CHARS_MAX)]
    prefix: Bytes = ""
    secret: Annotated[str, Meta(min_length=SECRET_CHARS[0], max_length=SECRET_CHARS[1])] | None = (
        None
    )
    after: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    replaces: Annotated[int, Meta(ge=1, le=2**53)] | None = None


class OwnerForm(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose a webhook is to be."""

    owner: NameForm


class SignForm(Struct, frozen=True, forbid_unknown_fields=True):
    """A delivery to sign: its name, the time in seconds, and its body in Base64."""

    id: Annotated[str, Meta(min_length=1, max_length=128)]
    timestamp: Annotated[int, Meta(ge=0, le=2**53)]
    body: Annotated[str, Meta(max_length=BODY_CHARS_MAX)]


class Told(Struct, frozen=True):
    """As much of the body of a delivery as says what it tells of."""

    type: str
    key: Bytes


class WebhookAnswer(Struct, frozen=True, omit_defaults=True):
    """A webhook. `delivers`: whether its owner may be told anything now. `secret` is told once,
    when it is created.
    """

    name: str
    url: str
    prefix: str | dict[str, str]
    owner: str | None
    revision: int
    created_ms: int
    delivers: bool
    after: int | None = None
    secret: str | None = None


class WebhooksAnswer(Struct, frozen=True):
    """All webhooks that the caller may see, by name."""

    webhooks: list[WebhookAnswer]


class SignedAnswer(Struct, frozen=True, omit_defaults=True):
    """The signatures of a delivery. `told` false: its owner may not be told that now."""

    told: bool
    standard: str | None = None
    acordo: str | None = None


def webhook_answer(
    webhook: Webhook, revision: int, *, delivers: bool, secret: str | None = None
) -> WebhookAnswer:
    """Return a webhook as it is shown."""
    return WebhookAnswer(
        webhook.name,
        webhook.url,
        json_form(webhook.prefix),
        webhook.owner,
        revision,
        webhook.created_ms,
        delivers,
        webhook.after,
        secret,
    )
