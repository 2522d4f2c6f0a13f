"""Commands on the ledger: list its rows, and verify its digests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from acordo._bulk.progress import Progress
from acordo._cli.exit_codes import NO, OK
from acordo._cli.ledger_digests import Chain, Flaw
from acordo._cli.output import Output
from acordo._cli.shell import key_of, run
from acordo._cli.text import shown, shown_key
from acordo._client import Client
from acordo._results import Cluster
from acordo._wire import forms

KEYS_SHOWN: Final = 3

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
def ledger_list(  # noqa: PLR0917  # each is an option of the command
    context: typer.Context,
    start: Annotated[int, typer.Option("--from", min=1, help="First row.")] = 1,
    limit: Annotated[int, typer.Option(min=1, help="Stop after so many rows.")] = 100,
    key: Annotated[
        str | None, typer.Option(help="Print what changed this key instead, and who did.")
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="Print what changed keys that begin so, and who did.")
    ] = None,
    principal: Annotated[
        str | None, typer.Option(help="Print what this principal did instead.")
    ] = None,
) -> None:
    """Print rows of the ledger, or what was done to a key or by a principal."""
    wanted = None if key is None else forms.to_json(key_of(key))
    begin = b"" if prefix is None else key_of(prefix)
    filtered = key is not None or principal is not None or prefix is not None

    async def work(client: Client, output: Output) -> None:
        count = 0
        async for row in client.ledger(start, limit=500 if filtered else min(limit, 500)):
            if filtered:
                for each in row.body:
                    if (
                        (wanted is None or wanted in _keys(each))
                        and (principal is None or each.get("principal") == principal)
                        and (prefix is None or _begins(each, begin))
                    ):
                        _tell(output, row.log_time_ms, each)
                        count += 1
                if count >= limit:
                    return
                continue
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


def _keys(intent: dict[str, object]) -> list[object]:
    keys = intent.get("keys")
    return keys if isinstance(keys, list) else []


def _begins(intent: dict[str, object], prefix: bytes) -> bool:
    return any(forms.from_json(key).startswith(prefix) for key in _keys(intent))


def _tell(output: Output, log_time_ms: int, intent: dict[str, object]) -> None:
    """Print one intent with its time and its principal."""
    if output.as_json:
        output.json(intent | {"log_time_ms": log_time_ms})
        return
    when = datetime.fromtimestamp(log_time_ms / 1000, UTC).isoformat(timespec="milliseconds")
    who, op_id = str(intent.get("principal", "-")), str(intent.get("op_id")).partition("\x1f")[0]
    keys = [shown_key(forms.from_json(key)) for key in _keys(intent)]
    more = f" and {len(keys) - KEYS_SHOWN} more" if len(keys) > KEYS_SHOWN else ""
    output.say(
        f"{intent.get('revision'):>10}  {when}  {shown(who)}  {intent.get('outcome')}  "
        f"{shown(op_id)}  {', '.join(keys[:KEYS_SHOWN])}{more}"
    )


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
