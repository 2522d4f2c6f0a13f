# Made by `make sync` from acordo/_webhook_calls.py; do not edit.
"""Manage webhooks: subscriptions to changes, each of the principal that created it."""

from __future__ import annotations

from acordo import _results as results
from acordo._intents import Bytes
from acordo._sync._base_client import BaseClient
from acordo._wire import answers, webhooks


class WebhookCalls(BaseClient):
    """A client with the calls about webhooks.

    Changes raise NotApplied (retry freely), OutcomeUnknown (look with `webhooks`), BadRequest
    ("not_there", "not_allowed", "not_signed_in", …) and Refused ("name_taken", or
    "access_changed" where another change of access or webhooks came first).
    """

    def create_webhook(
        self,
        name: str,
        url: str,
        *,
        prefix: Bytes = b"",
        secret: str | None = None,
        after: int | None = None,
        replaces: int | None = None,
        timeout_s: float | None = None,
    ) -> results.Webhook:
        """Send changes under a prefix to a URL, after a revision, from now on if it is None. The
        result has the secret that signs them, which nobody is told again, unless one was given.
        `replaces`: the revision of the key that held it up to version 0.2.0.
        """
        request = webhooks.creation(
            name, url, prefix, secret=secret, after=after, replaces=replaces
        )
        return self._call(request, webhooks.parse_webhook, timeout_s)

    def webhooks(self, *, timeout_s: float | None = None) -> tuple[results.Webhook, ...]:
        """Return the webhooks that this client may see, without their secrets."""
        return self._call(webhooks.listing(), webhooks.parse_webhooks, timeout_s)

    def webhook(self, name: str, *, timeout_s: float | None = None) -> results.Webhook:
        """Return one webhook, without its secret."""
        return self._call(webhooks.one(name), webhooks.parse_webhook, timeout_s)

    def delete_webhook(self, name: str, *, timeout_s: float | None = None) -> None:
        """End a webhook, and forget how far it was."""
        self._call(webhooks.removal(name), answers.served, timeout_s)

    def give_webhook(
        self, name: str, owner: str, *, timeout_s: float | None = None
    ) -> results.Webhook:
        """Let a webhook be another principal's, whose rights count from then on."""
        return self._call(webhooks.giving(name, owner), webhooks.parse_webhook, timeout_s)

    def sign_delivery(
        self, name: str, id: str, timestamp: int, body: bytes, *, timeout_s: float | None = None
    ) -> results.Signed:
        """Have a delivery signed, as workers do. Only an admin may."""
        request = webhooks.signing(name, id, timestamp, body)
        return self._call(request, webhooks.parse_signed, timeout_s)
