"""Commands on webhooks, and on their dead letters, which are stored in the cluster as keys."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

import msgspec
import typer

from acordo import _intents as intents
from acordo import _results as results
from acordo._cli import completing
from acordo._cli.exit_codes import NO, OK
from acordo._cli.output import Output
from acordo._cli.shell import run
from acordo._cli.text import shown, shown_key
from acordo._client import Client
from acordo._errors import BadRequest, PreconditionFailed, Refused
from acordo._wire.forms import to_json

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
        made = await client.create_webhook(name, url, prefix=prefix, secret=secret or None)
        if output.as_json:
            output.json(_shown(made) | ({} if made.secret is None else {"secret": made.secret}))
            return
        output.say(
            f"{shown(name)} from revision {made.revision} on"
            + ("" if made.secret is None else f"; secret: {made.secret}")
        )
        if made.secret is not None:
            output.note("keep the secret: it is not shown again")

    run(context, work)


@webhook_app.command("list")
def webhook_list(context: typer.Context) -> None:
    """List webhooks, secrets left out: one's own, an admin's are all."""

    async def work(client: Client, output: Output) -> None:
        for each in await client.webhooks():
            if output.as_json:
                output.json(_shown(each))
                continue
            whose = "" if each.owner is None else f"  of {shown(each.owner)}"
            waits = "" if each.delivers else "  waits: its owner may be told nothing"
            prefix = shown_key(each.prefix)
            output.say(f"{shown(each.name)}  {prefix}*  {shown(each.url, 300)}{whose}{waits}")

    run(context, work)


@webhook_app.command("remove")
def webhook_remove(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Its name.", autocompletion=completing.webhooks)],
) -> None:
    """End a webhook, and forget how far it was."""

    async def work(client: Client, output: Output) -> int:
        try:
            await client.delete_webhook(name)
            existed = True
        except BadRequest as exc:
            if exc.code != "not_there":
                raise
            existed = False
        if output.as_json:
            output.json({"name": name, "existed": existed})
        else:
            output.say(f"{shown(name)} removed" if existed else f"{shown(name)} is no webhook")
        return OK if existed else NO

    run(context, work)


@webhook_app.command("give")
def webhook_give(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Its name.", autocompletion=completing.webhooks)],
    owner: Annotated[str, typer.Argument(help="The principal whose it is to be.")],
) -> None:
    """Let a webhook be another principal's: what that one may read is delivered."""

    async def work(client: Client, output: Output) -> None:
        given = await client.give_webhook(name, owner)
        if output.as_json:
            output.json(_shown(given))
        else:
            output.say(f"{shown(name)} is {shown(owner)}'s")

    run(context, work)


def _shown(webhook: results.Webhook) -> dict[str, object]:
    return {
        "name": webhook.name,
        "url": webhook.url,
        "prefix": to_json(webhook.prefix),
        "owner": webhook.owner,
        "revision": webhook.revision,
        "delivers": webhook.delivers,
    }


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
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    return form if isinstance(form, dict) else {}
