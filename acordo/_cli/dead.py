"""Commands on what the workers left: dead letters of asynchronous writes and webhooks; and the
subscriptions.

Dead letters of webhooks lie in the cluster; those of asynchronous writes in the broker, which is
asked only when it is named (needs the library aiormq). Nothing is taken away before it is kept
where it goes.
"""

from __future__ import annotations

import asyncio
import secrets as chance
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec
import typer

from acordo import _intents as intents
from acordo._cli.output import NO, OK, Output, shown
from acordo._cli.shell import app, run
from acordo._client import Client
from acordo._errors import BadRequest, PreconditionFailed, Refused, Unreachable, Unsupported

SUBSCRIPTIONS: Final = "acordo/webhooks/subscriptions/"
DEAD: Final = "acordo/webhooks/dead/"
REPLAYS: Final = "acordo/webhooks/replays/"
CONNECT_TIMEOUT_S: Final = 3.0

dead_app = typer.Typer(
    help="Dead letters of asynchronous writes and of webhooks.", no_args_is_help=True
)
webhook_app = typer.Typer(
    help="Webhooks: changes under a prefix, sent to a URL.", no_args_is_help=True
)
app.add_typer(dead_app, name="dead")
app.add_typer(webhook_app, name="webhook")

Broker = Annotated[
    str,
    typer.Option(
        "--broker",
        envvar="ACORDO_BROADCAST",
        help="amqp://USER:PASSWORD@HOST[,HOST]/VHOST of the nodes",
    ),
]
Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Look at so many at most.")]


@dead_app.command("list")
def dead_list(context: typer.Context, broker: Broker = "", limit: Limit = 100) -> None:
    """List dead letters: id, why it is one, and what it says."""

    async def work(client: Client, output: Output) -> None:
        async for letter in _webhook_letters(client, limit):
            _show(output, letter)
        if _is_amqp(broker):
            _, dead = await _queues(client)
            async with _channel(broker) as channel:
                # not acknowledged: closing gives them back
                for message in await _got(channel, dead, limit):
                    _show(output, _command_letter(message))

    run(context, work)


@dead_app.command("replay")
def dead_replay(
    context: typer.Context,
    ids: Annotated[list[str] | None, typer.Argument(help="Ids as listed.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    broker: Broker = "",
    limit: Limit = 100,
) -> None:
    """Let dead letters be tried again. Leaves with 1 if an id was not found."""

    async def work(client: Client, output: Output) -> int:
        if not ids and not everything:
            raise BadRequest("nothing is named", code="no_id", allowed="ids, or --all")
        wanted = set(ids or ())
        found: set[str] = set()
        async for letter in _webhook_letters(client, limit):
            if everything or letter["id"] in wanted:
                await _replay_webhook(client, letter)
                found.add(letter["id"])
                output.say(f"{shown(letter['id'], 200)} will be delivered again")
        if _is_amqp(broker) and (everything or wanted - found):
            commands, dead = await _queues(client)
            async with _channel(broker) as channel:
                for message in await _got(channel, dead, limit):
                    name = _command_letter(message)["id"]
                    if everything or name in wanted:
                        await _replay_command(channel, commands, message)
                        found.add(name)
                        output.say(f"{shown(name, 200)} waits for a worker again")
        for missing in sorted(wanted - found):
            output.note(f"{shown(missing, 200)} is no dead letter")
        return NO if wanted - found else OK

    run(context, work)


@webhook_app.command("add")
def webhook_add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A name for it.")],
    url: Annotated[str, typer.Argument(help="Where to send changes: http(s)://…")],
    prefix: Annotated[str, typer.Option(help="Only keys that begin so.")] = "",
    secret: Annotated[
        str, typer.Option(help="What signatures are made with; else one is made and printed.")
    ] = "",
) -> None:
    """Subscribe a URL to changes from now on."""

    async def work(client: Client, output: Output) -> None:
        parts = urlsplit(url)
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or parts.username is not None
        ):
            raise BadRequest(
                "no URL for webhooks",
                code="bad_url",
                allowed="http(s)://HOST[:PORT]/PATH, no login",
            )
        made = secret or chance.token_urlsafe(32)
        if not 16 <= len(made) <= 256:
            raise BadRequest(
                "the secret's length", code="bad_secret", allowed="16 to 256 characters"
            )
        value = msgspec.json.encode({"url": url, "secret": made, "prefix": prefix})
        written = await client.put(SUBSCRIPTIONS + name, value, exists=False)
        if output.as_json:
            output.json({"name": name, "revision": written.revision, "secret": made})
        else:
            output.say(
                f"{shown(name)} from revision {written.revision} on"
                + ("" if secret else f"; secret: {made}")
            )

    run(context, work)


@webhook_app.command("list")
def webhook_list(context: typer.Context) -> None:
    """List subscriptions, secrets left out."""

    async def work(client: Client, output: Output) -> None:
        async for each in client.list(SUBSCRIPTIONS):
            form = _object(each.value)
            told = {"name": each.key[len(SUBSCRIPTIONS) :].decode("utf-8", "replace"), "url": str(form.get("url")),
                    "prefix": str(form.get("prefix", ""))}  # fmt: skip
            if output.as_json:
                output.json(told)
            else:
                output.say(
                    f"{shown(told['name'])}  {shown(told['prefix'])}*  {shown(told['url'], 300)}"
                )

    run(context, work)


@webhook_app.command("remove")
def webhook_remove(
    context: typer.Context, name: Annotated[str, typer.Argument(help="Its name.")]
) -> None:
    """End a subscription, and forget how far it was."""

    async def work(client: Client, output: Output) -> int:
        done = await client.txn(
            writes=(
                intents.delete(SUBSCRIPTIONS + name),
                intents.delete("acordo/webhooks/cursors/" + name),
            ),
            reads=(SUBSCRIPTIONS + name,),
        )
        existed = done.reads[0].present
        output.say(f"{shown(name)} removed" if existed else f"{shown(name)} is no subscription")
        return OK if existed else NO

    run(context, work)


# ----------------------------------------------------------------------------------------- webhooks


async def _webhook_letters(client: Client, limit: int) -> AsyncIterator[dict[str, Any]]:
    left = limit
    async for each in client.list(DEAD, limit=min(limit, 100)):
        if left <= 0:
            return
        left -= 1
        form = _object(each.value)
        yield {
            "id": each.key[len(DEAD) :].decode("utf-8", "replace"), "kind": "webhook",
            "reason": str(form.get("reason", "")), "attempts": form.get("attempts"), "revision": each.revision,
            "body": each.value.decode("utf-8", "replace"),
        }  # fmt: skip


async def _replay_webhook(client: Client, letter: dict[str, Any]) -> None:
    """Move it, in one step, to where the subscription's worker looks for it."""
    try:
        await client.txn(
            guards=(intents.at_revision(DEAD + letter["id"], letter["revision"]),),
            writes=(
                intents.put(REPLAYS + letter["id"], letter["body"]),
                intents.delete(DEAD + letter["id"]),
            ),
        )
    except (Refused, PreconditionFailed):
        return  # somebody else did it


# ------------------------------------------------------------------------------------------- broker


def _is_amqp(broker: str) -> bool:
    return broker.startswith(("amqp://", "amqps://"))


async def _queues(client: Client) -> tuple[str, str]:
    """Return the names of the cluster's queues on its broker, as it says them: asynchronous writes,
    dead letters.
    """
    names = (await client.cluster()).raw.get("channels")
    if not isinstance(names, dict):
        raise Unsupported(
            "the cluster does not say what its queues are called", allowed="nodes of this version"
        )
    return str(names["async"]), str(names["dead"])


@asynccontextmanager
async def _channel(broker: str) -> AsyncIterator[Any]:
    """Open a confirming channel at the first broker that answers. Raises Unsupported,
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


async def _got(channel: Any, dead: str, limit: int) -> list[Any]:
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
        pass  # no worker was ever here
    return messages


async def _replay_command(channel: Any, commands: str, message: Any) -> None:
    """Put it into the workers' queue, confirmed, and only then take it from the dead letters."""
    properties = message.header.properties
    properties.headers = {k: v for k, v in (properties.headers or {}).items() if k == "schema"}
    confirm = await channel.basic_publish(
        message.body, routing_key=commands, properties=properties, mandatory=True
    )
    if type(confirm).__name__ != "Ack":
        raise Unreachable("the broker did not take it", reason="refused")
    await channel.basic_ack(message.delivery_tag)


def _command_letter(message: Any) -> dict[str, Any]:
    headers = message.header.properties.headers or {}
    reason = headers.get("x-acordo-reason") or headers.get("x-first-death-reason") or ""
    return {
        "id": message.header.properties.message_id or "-", "kind": "async", "reason": _words(reason),
        "body": message.body.decode("utf-8", "replace"),
    }  # fmt: skip


def _words(given: object) -> str:
    return given.decode("utf-8", "replace") if isinstance(given, bytes) else str(given)


def _show(output: Output, letter: dict[str, Any]) -> None:
    if output.as_json:
        output.json(letter)
    else:
        output.say(f"{shown(letter['id'], 200)}  {letter['kind']}  {shown(letter['reason'], 300)}")


def _object(value: bytes) -> dict[str, Any]:
    try:
        form = msgspec.json.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    return form if isinstance(form, dict) else {}
