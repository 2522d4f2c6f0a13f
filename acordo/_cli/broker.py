"""List the dead letters of asynchronous writes at the broker, and return them to the workers'
queue.

It needs the library aiormq, which is imported only when a broker is named. A message is
acknowledged only after it is stored in its new place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from acordo._client import Client
from acordo._errors import Unreachable, Unsupported

CONNECT_TIMEOUT_S: Final = 3.0


def is_amqp(broker: str) -> bool:
    """Return whether `broker` is the URL of a broker that this module supports."""
    return broker.startswith(("amqp://", "amqps://"))


async def queue_names(client: Client) -> tuple[str, str]:
    """Return the names of the cluster's queues at its broker, as the cluster gives them:
    asynchronous writes, dead letters. Raises Unsupported.
    """
    names = (await client.cluster()).raw.get("channels")
    if not isinstance(names, dict):
        raise Unsupported(
            "the cluster does not say what its queues are called", allowed="nodes of this version"
        )
    return str(names["async"]), str(names["dead"])


@asynccontextmanager
async def open_channel(broker: str) -> AsyncIterator[Any]:
    """Open a channel with publisher confirms at the first broker that answers. Raises Unsupported,
    Unreachable.
    """
    try:
        import aiormq
    except ImportError as exc:
        raise Unsupported(
            "dead letters of the broker need the library aiormq", allowed="pip install aiormq"
        ) from exc
    parts = urlsplit(broker)
    login, at, hosts = parts.netloc.rpartition("@")
    trouble: Exception | None = None
    for host in hosts.split(","):
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                connection = await aiormq.connect(
                    f"{parts.scheme}://{login}{at}{host}{parts.path or '/'}"
                )
                channel = await connection.channel(publisher_confirms=True)
        except (aiormq.AMQPError, OSError, TimeoutError) as exc:
            trouble = exc
            continue
        try:
            yield channel
        finally:
            await connection.close()
        return
    raise Unreachable(f"no broker answers: {trouble!r}", reason="unreachable")


async def get_messages(channel: Any, dead: str, limit: int) -> list[Any]:
    """Return up to `limit` dead letters. They are not acknowledged, so closing the channel returns
    them to the queue.
    """
    import aiormq

    messages: list[Any] = []
    try:
        while len(messages) < limit:
            message = await channel.basic_get(dead, timeout=CONNECT_TIMEOUT_S)
            if message.delivery_tag is None or message.delivery is None or message.header is None:
                break
            if type(message.delivery).__name__ == "GetEmpty":
                break
            messages.append(message)
    except aiormq.exceptions.ChannelNotFoundEntity:
        pass  # no worker has declared the queue yet
    return messages


async def replay(channel: Any, commands: str, message: Any) -> None:
    """Publish the message to the workers' queue, wait for the confirm, and only then acknowledge
    the dead letter.

    Raises Unreachable when the broker does not confirm it.
    """
    properties = message.header.properties
    properties.headers = {k: v for k, v in (properties.headers or {}).items() if k == "schema"}
    confirm = await channel.basic_publish(
        message.body, routing_key=commands, properties=properties, mandatory=True
    )
    if type(confirm).__name__ != "Ack":
        raise Unreachable("the broker did not take it", reason="refused")
    await channel.basic_ack(message.delivery_tag)


def letter_of(message: Any) -> dict[str, Any]:
    """Return a dead letter in the form in which it is listed."""
    headers = message.header.properties.headers or {}
    reason = headers.get("x-acordo-reason") or headers.get("x-first-death-reason") or ""
    return {
        "id": message.header.properties.message_id or "-",
        "kind": "async",
        "reason": _text(reason),
        "body": message.body.decode("utf-8", "replace"),
    }


def _text(given: object) -> str:
    return given.decode("utf-8", "replace") if isinstance(given, bytes) else str(given)
