"""Commands on the ledger: list its rows, and verify its digests."""

from __future__ import annotations

from typing import Annotated

import typer

from acordo._bulk.progress import Progress
from acordo._cli.exit_codes import NO, OK
from acordo._cli.ledger_digests import Chain, Flaw
from acordo._cli.output import Output
from acordo._cli.shell import run
from acordo._cli.text import shown
from acordo._client import Client
from acordo._results import Cluster

ledger_app = typer.Typer(
    help="The ledger: the store's chain of committed groups.", no_args_is_help=True
)


@ledger_app.command("verify")
def ledger_verify(
    context: typer.Context,
    start: Annotated[int, typer.Option("--from", min=1, help="First row.")] = 1,
) -> None:
    """Recompute the whole chain of the ledger, and compare every member's digest with it."""

    async def work(client: Client, output: Output) -> int:
        chain = Chain()
        flaws: list[Flaw] = []
        with output.progress("verify", None) as progress:
            async for row in client.ledger(start):
                flaws += chain.add(row)
                progress(Progress(chain.rows, 0))
        differing = _differing(chain, await client.cluster())
        newest = chain.newest
        if output.as_json:
            output.json(
                {
                    "rows": chain.rows,
                    "intents": chain.intents,
                    "first_seq": chain.first_seq,
                    "last": newest.last if newest else 0,
                    "digest": newest.digest if newest else None,
                    "flaws": flaws,
                    "differing_members": differing,
                }
            )
        else:
            for flaw in flaws[:20]:
                output.say(f"[red]row {flaw.seq}: {shown(flaw.why, 300)}[/red]")
            for each in differing:
                output.say(
                    f"[red]member {shown(each)} has another digest at its settled revision[/red]"
                )
            output.say(
                f"{chain.rows} rows, {chain.intents} intents, "
                f"to revision {newest.last if newest else 0}: "
                + (f"[red]{len(flaws)} flaws[/red]" if flaws else "the chain holds")
            )
        return NO if flaws or differing else OK

    run(context, work)


@ledger_app.command("list")
def ledger_list(
    context: typer.Context,
    start: Annotated[int, typer.Option("--from", min=1, help="First row.")] = 1,
    limit: Annotated[int, typer.Option(min=1, help="Stop after so many rows.")] = 100,
) -> None:
    """Print rows of the ledger."""

    async def work(client: Client, output: Output) -> None:
        count = 0
        async for row in client.ledger(start, limit=min(limit, 500)):
            if output.as_json:
                output.json(row)
            else:
                what = (
                    f"revisions {row.first} to {row.last}" if row.body else "no intents (take-over)"
                )
                output.say(
                    f"{row.seq:>10}  term {row.term}  {shown(row.committer)}  "
                    f"{what}  {row.digest[:16]}"
                )
            count += 1
            if count == limit:
                return

    run(context, work)


def _differing(chain: Chain, seen: Cluster) -> list[str]:
    """Return the members whose digest differs from the ledger's at the revision that they have
    settled.
    """
    found = []
    for each in seen.members:
        ledgers = chain.digests.get(each.settled or 0)
        if each.digest and ledgers and ledgers != each.digest:
            found.append(each.id)
    return found
