"""Encode requests about webhooks, and parse their answers. A parser raises `Damaged` when an answer
is not what the API promises.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import msgspec

from acordo import _results as results
from acordo._intents import Bytes, as_bytes
from acordo._messages import Reply, Request
from acordo._wire.answers import served
from acordo._wire.forms import Damaged, from_json, to_json

PATH = "/v1/webhooks"
T = TypeVar("T")


class _Webhook(msgspec.Struct):
    name: str
    url: str
    prefix: Any
    owner: str | None
    revision: int
    created_ms: int
    delivers: bool
    after: int | None = None
    secret: str | None = None


class _Webhooks(msgspec.Struct):
    webhooks: tuple[_Webhook, ...]


def creation(
    name: str,
    url: str,
    prefix: Bytes,
    *,
    secret: str | None,
    after: int | None,
    replaces: int | None,
) -> Request:
    """Return a request to create a webhook."""
    form: dict[str, object] = {"name": name, "url": url, "prefix": to_json(as_bytes(prefix))}
    more = {"secret": secret, "after": after, "replaces": replaces}
    return _sent("POST", PATH, form | {k: v for k, v in more.items() if v is not None})


def listing() -> Request:
    """Return a request to list webhooks."""
    return Request(method="GET", path=PATH)


def one(name: str) -> Request:
    """Return a request to show a webhook."""
    return Request(method="GET", path=_path(name))


def removal(name: str) -> Request:
    """Return a request to end a webhook."""
    return Request(method="DELETE", path=_path(name), mutation=True)


def giving(name: str, owner: str) -> Request:
    """Return a request to give a webhook to a principal."""
    return _sent("PUT", f"{_path(name)}/owner", {"owner": owner})


def signing(name: str, id: str, timestamp: int, body: bytes) -> Request:
    """Return a request to sign a delivery; it changes nothing."""
    form = {"id": id, "timestamp": timestamp, "body": b64encode(body).decode()}
    return _sent("POST", f"{_path(name)}/sign", form, mutation=False)


def parse_webhook(reply: Reply) -> results.Webhook:
    """Return a webhook. Raises Damaged."""
    return _webhook(_decoded(reply, _Webhook))


def parse_webhooks(reply: Reply) -> tuple[results.Webhook, ...]:
    """Return webhooks. Raises Damaged."""
    return tuple(_webhook(each) for each in _decoded(reply, _Webhooks).webhooks)


def parse_signed(reply: Reply) -> results.Signed:
    """Return the signatures of a delivery. Raises Damaged."""
    return _decoded(reply, results.Signed)


def _webhook(form: _Webhook) -> results.Webhook:
    return results.Webhook(
        name=form.name,
        url=form.url,
        prefix=from_json(form.prefix),
        owner=form.owner,
        revision=form.revision,
        created_ms=form.created_ms,
        delivers=form.delivers,
        after=form.after,
        secret=form.secret,
    )


def _path(name: str) -> str:
    return f"{PATH}/{quote(name, safe='')}"


def _sent(
    method: Literal["PUT", "POST"], path: str, form: object, *, mutation: bool = True
) -> Request:
    return Request(
        method=method,
        path=path,
        headers={"Content-Type": "application/json"},
        body=msgspec.json.encode(form),
        mutation=mutation,
    )


def _decoded(reply: Reply, kind: type[T]) -> T:
    served(reply)
    try:
        return msgspec.json.decode(reply.body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise Damaged(str(exc)) from exc
