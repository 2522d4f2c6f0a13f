"""Commands on dead letters: messages that the workers could not deliver or submit.

Dead letters of webhooks are stored in the cluster. Those of asynchronous writes are in the broker,
which is contacted only when it is named.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from acordo._cli import broker as amqp
from acordo._cli import webhooks
from acordo._cli.exit_codes import NO, OK
from acordo._cli.output import Output
from acordo._cli.shell import run
from acordo._cli.text import shown
from acordo._client import Client
from acordo._errors import BadRequest

dead_app = typer.Typer(
    help="Dead letters of asynchronous writes and of webhooks.", no_args_is_help=True
)

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
        async for letter in webhooks.dead_letters(client, limit):
            _show(output, letter)
        if amqp.is_amqp(broker):
            _, dead = await amqp.queue_names(client)
            async with amqp.open_channel(broker) as channel:
                for message in await amqp.get_messages(channel, dead, limit):
                    _show(output, amqp.letter_of(message))

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
        async for letter in webhooks.dead_letters(client, limit):
            if everything or letter["id"] in wanted:
                await webhooks.replay(client, letter)
                found.add(letter["id"])
                _tell_replayed(output, letter["id"], "will be delivered again")
        if amqp.is_amqp(broker) and (everything or wanted - found):
            commands, dead = await amqp.queue_names(client)
            async with amqp.open_channel(broker) as channel:
                for message in await amqp.get_messages(channel, dead, limit):
                    name = amqp.letter_of(message)["id"]
                    if everything or name in wanted:
                        await amqp.replay(channel, commands, message)
                        found.add(name)
                        _tell_replayed(output, name, "waits for a worker again")
        for missing in sorted(wanted - found):
            output.note(f"{shown(missing, 200)} is no dead letter")
        return NO if wanted - found else OK

    run(context, work)


def _tell_replayed(output: Output, name: str, what: str) -> None:
    if output.as_json:
        output.json({"id": name, "replayed": True})
    else:
        output.say(f"{shown(name, 200)} {what}")


def _show(output: Output, letter: dict[str, Any]) -> None:
    if output.as_json:
        output.json(letter)
    else:
        output.say(f"{shown(letter['id'], 200)}  {letter['kind']}  {shown(letter['reason'], 300)}")
