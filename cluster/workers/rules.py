"""Define subscriptions, and the form and signature of a delivery. Pure: it does no I/O."""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Any, Final

import msgspec

from kv.errors import BadRequest
from kv.webhooks import SECRET_CHARS, wrong_url

RESERVED: Final = b"acordo/"
"""Prefix of Acordo's own keys. Changes of them are never delivered."""
SUBSCRIPTIONS: Final = "acordo/webhooks/subscriptions/"
"""Where subscriptions stood up to version 0.2.0. A worker moves them to /v1/webhooks."""
LEASES: Final = "acordo/webhooks/leases/"
CURSORS: Final = "acordo/webhooks/cursors/"
DEAD: Final = "acordo/webhooks/dead/"
REPLAYS: Final = "acordo/webhooks/replays/"
ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
VALUE_BYTES_MAX: Final = 256 * 1024
"""Largest value that a delivery contains. For a larger one the delivery gives its size only, and
the receiver can read the value at its revision.
"""
DELIVERY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}/[0-9]{1,16}-([0-9]{1,5}|gap)")
"""Name of a delivery: subscription, revision, and the index of the change within that revision."""


class Subscription(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A subscription, as version 0.2.0 stored it as the value of a key under SUBSCRIPTIONS."""

    url: str
    secret: str
    """Empty: the cluster keeps it, and signs."""
    prefix: str = ""
    after: int | None = None
    """Revision after which deliveries begin; None: the subscription's own revision."""


class Cursor(msgspec.Struct, frozen=True):
    """The position of a subscription, stored as the value of a key under CURSORS.

    Everything up to `revision` is delivered or kept as a dead letter.
    """

    revision: int
    fence: int = 0
    """Revision at which the worker that wrote the cursor took its lease."""
    position: str = ""
    """The same place as `revision`, as a watch gave it; empty: a node gave none."""
    of: int = 0
    """When its subscription was created; another of the same name does not begin here. 0: it was
    not said.
    """


class DeadLetter(msgspec.Struct, frozen=True):
    """A delivery that was given up, stored as the value of a key under DEAD."""

    subscription: str
    delivery: str
    revision: int
    body: str
    """The body that was sent, in Base64."""
    reason: str
    attempts: int


def parse_subscription(name: str, value: bytes) -> Subscription:
    """Parse the value of a subscription's key. Raises BadRequest("bad_subscription")."""

    def refuse(why: str, allowed: str) -> BadRequest:
        return BadRequest("bad_subscription", f"subscription {name!r}: {why}", allowed=allowed)

    if not ID.fullmatch(name):
        raise refuse("its name", "1 to 64 letters, digits and . _ -, a letter or digit first")
    try:
        found = msgspec.json.decode(value, type=Subscription)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise refuse(str(exc), '{"url", "secret", "prefix"?, "after"?}') from exc
    if (wrong := wrong_url(found.url)) is not None:
        raise refuse(wrong, "http(s)://HOST[:PORT]/PATH, no login")
    if not SECRET_CHARS[0] <= len(found.secret) <= SECRET_CHARS[1]:
        raise refuse("its secret", f"{SECRET_CHARS[0]} to {SECRET_CHARS[1]} characters")
    if found.after is not None and found.after < 0:
        raise refuse("after", "a revision")
    return found


def body_of(kind: str, key: bytes, value: bytes | None, revision: int, op_id: str | None) -> bytes:
    """Return the JSON of one delivery (docs/asyncapi.yaml)."""
    form: dict[str, Any] = {
        "schema": 1,
        "type": kind,
        "key": _text(key),
        "revision": revision,
        "op_id": op_id,
    }
    if kind == "put" and value is not None:
        if len(value) > VALUE_BYTES_MAX:
            form["size"] = len(value)
        else:
            form["value"] = _text(value)
    return msgspec.json.encode(form)


def undone_body(after: int, to: int) -> bytes:
    """Return the JSON of the delivery that reports which revisions an adoption undid."""
    return msgspec.json.encode(
        {"schema": 1, "type": "undone", "key": "", "revision": to, "op_id": None, "after": after}
    )


def _text(raw: bytes) -> str | dict[str, str]:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(raw).decode()}
