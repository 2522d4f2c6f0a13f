"""Define subscriptions of webhooks as a cluster keeps them, and sign deliveries. Pure.

The records stand beside those of access, so nobody reads their secrets as keys.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

import msgspec

from kv.access import ACCESS_PREFIX, Policy
from kv.leases import SYSTEM_PREFIX

WEBHOOKS: Final = ACCESS_PREFIX + b"webhooks/"
EARLIER: Final = b"acordo/webhooks/subscriptions/"
"""Where subscriptions stood up to version 0.2.0, with their secrets, as keys."""
CURSORS: Final = b"acordo/webhooks/cursors/"
"""How far each subscription was delivered, as workers write it."""
WEBHOOKS_MAX: Final = 1000
WEBHOOKS_OF_ONE_MAX: Final = 100
"""Subscriptions of one principal that is no admin."""
URL_CHARS_MAX: Final = 2048
SECRET_CHARS: Final = (16, 256)
SECRET_START: Final = "whsec_"
"""What secrets begin with that the cluster makes (Standard Webhooks)."""


class Webhook(msgspec.Struct, frozen=True):
    """A subscription: where changes under a prefix are sent, for whom, and signed with what."""

    name: str
    url: str
    secret: str
    prefix: bytes
    created_ms: int
    owner: str | None = None
    """The principal whose rights decide what is delivered; None: access was not controlled."""
    after: int | None = None
    """Revision after which deliveries begin; None: the record's own."""


def webhooks_of(records: Mapping[bytes, bytes]) -> dict[str, Webhook]:
    """Return the subscriptions among records of access, by name. One that cannot be read is
    none.
    """
    return {each.name: each for each in _read(records)}


def _read(records: Mapping[bytes, bytes]) -> Iterable[Webhook]:
    for key, raw in sorted(records.items()):
        if key.startswith(WEBHOOKS):
            try:
                yield msgspec.json.decode(raw, type=Webhook)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                continue


def delivers(webhook: Webhook, policy: Policy, now_ms: int) -> bool:
    """Return whether a subscription's owner may be told anything at all now."""
    return policy.rights_of(webhook.owner, now_ms) is not None


def may_tell(webhook: Webhook, key: bytes, policy: Policy, now_ms: int) -> bool:
    """Return whether a change of a key may be delivered now: its owner may read the key."""
    rights = policy.rights_of(webhook.owner, now_ms)
    if rights is None or key.startswith(SYSTEM_PREFIX) or not key.startswith(webhook.prefix):
        return False
    return rights.may("read", key)


def wrong_url(url: str) -> str | None:
    """Return what is wrong with a subscription's URL, if anything."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or len(url) > URL_CHARS_MAX or not url.isascii() or not url.isprintable():
        return f"it is no http or https URL of at most {URL_CHARS_MAX} ASCII characters"
    if parts.username is not None or parts.password is not None:
        return "it holds a login"
    return None


def standard_signature(secret: str, id: str, timestamp: int, body: bytes) -> str:
    """Return the signature of a delivery by the scheme of Standard Webhooks."""
    signed = f"{id}.{timestamp}.".encode() + body
    digest = hmac.new(_key(secret), signed, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def acordo_signature(secret: str, timestamp: int, body: bytes) -> str:
    """Return the signature of a delivery in the form of the header `Acordo-Signature`."""
    return "v1=" + hmac.new(secret.encode(), b"%d." % timestamp + body, hashlib.sha256).hexdigest()


def _key(secret: str) -> bytes:
    """Return what a secret stands for; one of another form stands for itself."""
    if secret.startswith(SECRET_START):
        try:
            return base64.b64decode(secret[len(SECRET_START) :], validate=True)
        except (binascii.Error, ValueError):
            pass
    return secret.encode()
