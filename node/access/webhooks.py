"""Keep subscriptions of webhooks, and sign deliveries of what their owners may read at that moment.

No secret leaves the node but once, in the answer that creates it: workers have deliveries signed
here. So a delivery that nobody may be told has no signature, whatever a worker does.
"""

from __future__ import annotations

import base64
import secrets
from typing import Final, NamedTuple

import msgspec

from kv.access import ANONYMOUS, NAME, Policy, Rights, end_of
from kv.errors import BadRequest, NotAllowed
from kv.model import FROM_KEY, AtRevision, Delete, Guard
from node.access.access import RESCUE, Access
from node.access.changes import Changes
from node.access.judging import check
from node.wire.byte_forms import bytes_from
from node.wire.documents import decode
from node.wire.webhook_forms import Told, WebhookForm

from kv.webhooks import (  # isort: skip
    CURSORS,
    EARLIER,
    SECRET_CHARS,
    SECRET_START,
    WEBHOOKS,
    WEBHOOKS_MAX,
    WEBHOOKS_OF_ONE_MAX,
    Webhook,
    acordo_signature,
    delivers,
    may_tell,
    standard_signature,
    webhooks_of,
    wrong_url,
)

SECRET_BYTES: Final = 32
"""Random bytes of a secret that is made here."""


class Subscribed(NamedTuple):
    """A subscription, the revision at which it was written, and whether it is delivered now."""

    webhook: Webhook
    revision: int
    delivers: bool


class Signatures(NamedTuple):
    """The signatures of one delivery."""

    standard: str
    acordo: str


class WebhookRecords:
    """The subscriptions as one node knows them."""

    def __init__(self, access: Access, changes: Changes) -> None:
        self._access, self._changes = access, changes
        self._policy: Policy | None = None
        self._known: dict[str, Webhook] = {}

    def _webhooks(self) -> dict[str, Webhook]:
        """Return what stands. Raises NotApplied."""
        policy = self._changes.policy
        if policy is not self._policy:
            self._known, self._policy = webhooks_of(self._access.records()), policy
        return self._known

    def _subscribed(self, webhook: Webhook) -> Subscribed:
        revision = self._access.revision_of(_key(webhook.name))
        told = delivers(webhook, self._changes.policy, self._access.now_ms())
        return Subscribed(webhook, revision, told)

    def _of(self, by: Rights, name: str) -> Webhook:
        """Return a subscription that is the caller's, or any for an admin. Raises
        BadRequest("not_there") for another's too: nobody is told that it is there.
        """
        found = self._webhooks().get(name)
        if found is None or not (by.admin or found.owner == by.principal):
            raise BadRequest("not_there", f"there is no {name[:64]!r}", allowed="one of the list")
        return found

    def list(self, by: Rights) -> list[Subscribed]:
        """Return the caller's subscriptions by name; an admin's are all."""
        found = sorted(self._webhooks().values(), key=lambda each: each.name)
        return [self._subscribed(w) for w in found if by.admin or w.owner == by.principal]

    def get(self, by: Rights, name: str) -> Subscribed:
        """Return one subscription. Raises BadRequest."""
        return self._subscribed(self._of(by, name))

    async def create(self, by: Rights, form: WebhookForm, *, deadline: float) -> Subscribed:
        """Create a subscription of the caller's, or move one here that stands as a key. Raises
        BadRequest, NotAllowed, NotApplied, OutcomeUnknown.
        """
        prefix = bytes_from(form.prefix, "prefix")
        self._check_new(by, form, prefix)
        stands = None if form.replaces is None else self._webhooks().get(form.name)
        webhook = Webhook(
            form.name,
            form.url,
            form.secret or SECRET_START + _random(),
            prefix,
            self._access.now_ms() if stands is None else stands.created_ms,
            by.principal,
            form.after,
        )
        guards: tuple[Guard, ...] = ()
        gone = CURSORS + form.name.encode()
        if form.replaces is not None:  # it goes on where it was
            gone = EARLIER + form.name.encode()
            guards = (AtRevision(gone, (form.replaces,)),)
        revision = await self._changes.change(
            by, _key(form.name), webhook, deadline, guards=guards, also=(Delete(gone),)
        )
        told = delivers(webhook, self._changes.policy, self._access.now_ms())
        return Subscribed(webhook, revision, told)

    def _check_new(self, by: Rights, form: WebhookForm, prefix: bytes) -> None:
        if by.principal in (ANONYMOUS, RESCUE) or (form.replaces is not None and not by.admin):
            raise NotAllowed("no right to create this webhook: it would have no lasting owner")
        check(by, "read", prefix, end_of(prefix) or FROM_KEY)
        if not NAME.fullmatch(form.name):
            raise BadRequest(
                "bad_name",
                f"{form.name[:64]!r} is no name of a webhook",
                allowed="1 to 64 letters, digits, . _ and -, beginning with a letter or digit",
            )
        if (wrong := wrong_url(form.url)) is not None:
            raise BadRequest("bad_url", wrong, allowed="http(s)://HOST[:PORT]/PATH, no login")
        if form.secret is not None and not SECRET_CHARS[0] <= len(form.secret) <= SECRET_CHARS[1]:
            raise BadRequest(
                "bad_secret",
                "the secret's length",
                allowed="{} to {} characters".format(*SECRET_CHARS),
            )
        stand = self._webhooks()
        own = sum(1 for each in stand.values() if each.owner == by.principal)
        if len(stand) >= WEBHOOKS_MAX or (own >= WEBHOOKS_OF_ONE_MAX and not by.admin):
            raise BadRequest("too_many", f"{own} webhooks", allowed="remove some")
        if form.name in stand and form.replaces is None:
            raise BadRequest(
                "name_taken", f"a webhook {form.name!r} is there", allowed="another name"
            )

    async def give(self, by: Rights, name: str, owner: str, *, deadline: float) -> Subscribed:
        """Let a subscription be another principal's, whose rights count from then on. Raises
        BadRequest, NotApplied, OutcomeUnknown.
        """
        webhook = self._of(by, name)
        if not NAME.fullmatch(owner) or owner in (ANONYMOUS, RESCUE):
            raise BadRequest(
                "bad_name", f"{owner[:64]!r} is no principal", allowed="the name of one"
            )
        begun = self._subscribed(webhook).revision if webhook.after is None else webhook.after
        given = msgspec.structs.replace(webhook, owner=owner, after=begun)
        revision = await self._changes.change(by, _key(name), given, deadline)
        return self._subscribed(given)._replace(revision=revision)

    async def remove(self, by: Rights, name: str, *, deadline: float) -> None:
        """End a subscription, and forget how far it was. Raises BadRequest, NotApplied,
        OutcomeUnknown.
        """
        self._of(by, name)
        also = (Delete(CURSORS + name.encode()),)
        await self._changes.change(by, _key(name), None, deadline, also=also)

    def sign(
        self, by: Rights, name: str, id: str, timestamp: int, body: bytes
    ) -> Signatures | None:
        """Return the signatures of a delivery; None: its owner may not be told that now. What it
        tells of is read from its body. Raises BadRequest, NotApplied.
        """
        webhook = self._of(by, name)
        policy, now_ms = self._changes.policy, self._access.now_ms()
        self._access.check_time()
        told = decode(body, Told)
        key = bytes_from(told.key, "key")
        if told.type == "undone":
            allowed = not key and delivers(webhook, policy, now_ms)
        else:
            allowed = may_tell(webhook, key, policy, now_ms)
        if not allowed:
            return None
        return Signatures(
            standard_signature(webhook.secret, id, timestamp, body),
            acordo_signature(webhook.secret, timestamp, body),
        )


def _key(name: str) -> bytes:
    return WEBHOOKS + name.encode()


def _random() -> str:
    return base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
