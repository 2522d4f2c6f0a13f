"""Commands on webhooks: their subscriptions and dead letters, which are stored in the cluster as
keys.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec
import typer

from acordo import _intents as intents
from acordo._cli.exit_codes import NO, OK
from acordo._cli.output import Output
from acordo._cli.shell import run
from acordo._cli.text import shown
from acordo._client import Client
from acordo._errors import BadRequest, PreconditionFailed, Refused

SUBSCRIPTIONS: Final = "acordo/webhooks/subscriptions/"
CURSORS: Final = "acordo/webhooks/cursors/"
DEAD: Final = "acordo/webhooks/dead/"
REPLAYS: Final = "acordo/webhooks/replays/"

webhook_app = typer.Typer(
    help="Webhooks: changes under a prefix, sent to a URL.", no_args_is_help=True
)


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
        made = secret or secrets.token_urlsafe(32)
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
            name = each.key[len(SUBSCRIPTIONS) :].decode("utf-8", "replace")
            url, prefix = str(form.get("url")), str(form.get("prefix", ""))
            if output.as_json:
                output.json({"name": name, "url": url, "prefix": prefix})
            else:
                output.say(f"{shown(name)}  {shown(prefix)}*  {shown(url, 300)}")

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
                intents.delete(CURSORS + name),
            ),
            reads=(SUBSCRIPTIONS + name,),
        )
        existed = done.reads[0].present
        output.say(f"{shown(name)} removed" if existed else f"{shown(name)} is no subscription")
        return OK if existed else NO

    run(context, work)


async def dead_letters(client: Client, limit: int) -> AsyncIterator[dict[str, Any]]:
    """Iterate over up to `limit` dead letters, in the form in which they are listed."""
    left = limit
    async for each in client.list(DEAD, limit=min(limit, 100)):
        if left <= 0:
            return
        left -= 1
        form = _object(each.value)
        yield {
            "id": each.key[len(DEAD) :].decode("utf-8", "replace"),
            "kind": "webhook",
            "reason": str(form.get("reason", "")),
            "attempts": form.get("attempts"),
            "revision": each.revision,
            "body": each.value.decode("utf-8", "replace"),
        }


async def replay(client: Client, letter: dict[str, Any]) -> None:
    """Move a dead letter, in one transaction, to where the subscription's worker looks for it."""
    try:
        await client.txn(
            guards=(intents.at_revision(DEAD + letter["id"], letter["revision"]),),
            writes=(
                intents.put(REPLAYS + letter["id"], letter["body"]),
                intents.delete(DEAD + letter["id"]),
            ),
        )
    except (Refused, PreconditionFailed):
        return  # someone else has already moved it


def _object(value: bytes) -> dict[str, Any]:
    try:
        form = msgspec.json.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    return form if isinstance(form, dict) else {}
