"""Commands on the cluster: leader, status, transfer, adopt, limits, members."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Annotated

import typer

from acordo import _results as results
from acordo._cli import completing
from acordo._cli.exit_codes import NO, OK
from acordo._cli.output import Output
from acordo._cli.shell import run
from acordo._cli.text import shown, table
from acordo._client import Client

members_app = typer.Typer(
    help="List, add, promote and remove members.", invoke_without_command=True
)


def leader(context: typer.Context) -> None:
    """Say who leads."""

    async def work(client: Client, output: Output) -> None:
        found = await client.leader()
        if output.as_json:
            output.json(found)
        else:
            output.say(f"{shown(found.id)}  {shown(found.url or '', 300)}  term {found.term}")

    run(context, work)


def status(context: typer.Context) -> None:
    """Show how a node sees the cluster. Leaves with 1 if there is no quorum, writes are refused, or
    it is not ready.
    """

    async def work(client: Client, output: Output) -> int:
        seen = await client.cluster()
        if output.as_json:
            output.json(seen.raw)
        else:
            _show_members(output, seen)
        return OK if seen.quorum and seen.leader and not seen.refusal and not seen.unready else NO

    run(context, work)


def transfer(
    context: typer.Context,
    to: Annotated[
        str | None,
        typer.Argument(help="Member; else the most advanced.", autocompletion=completing.members),
    ] = None,
) -> None:
    """Hand leadership to another member."""

    async def work(client: Client, output: Output) -> None:
        now = await client.transfer(to)
        if output.as_json:
            output.json({"leader": now})
        else:
            output.say(f"{shown(now)} leads")

    run(context, work)


def adopt(
    context: typer.Context,
    gives_up: Annotated[
        int | None,
        typer.Option(
            "--gives-up",
            min=0,
            help="How many settled revisions may be lost, as it says without this.",
        ),
    ] = None,
) -> None:
    """Adopt the head of a store that was restored from a backup, so that the cluster goes on from
    there.

    Without --gives-up it only says what that would give up.
    """

    async def work(client: Client, output: Output) -> None:
        settled = await client.adopt(gives_up=gives_up)
        if output.as_json:
            output.json({"settled": settled})
        else:
            output.say(f"adopted, settled at revision {settled}")

    run(context, work)


def limits(
    context: typer.Context,
    apply: Annotated[
        bool, typer.Option("--apply", help="Make that node's settings the rule for all.")
    ] = False,
) -> None:
    """Show in which retentions a node is set otherwise than the cluster. Leaves with 1 if it is in
    any.

    The cluster's count, whatever a member is set to; --apply orders those of the node that answers
    (name one by --url).
    """

    async def work(client: Client, output: Output) -> int:
        if apply:
            changed = list(await client.amend())
        else:
            raw = (await client.cluster()).raw.get("limits_differ")
            changed = [str(name) for name in raw] if isinstance(raw, list) else []
        if output.as_json:
            output.json({"changed" if apply else "differing": changed})
        else:
            output.say(", ".join(map(shown, changed)) or "as the cluster goes by")
        return OK if apply or not changed else NO

    run(context, work)


@members_app.callback()
def members(context: typer.Context) -> None:
    """List the members."""
    if context.invoked_subcommand is not None:
        return

    async def work(client: Client, output: Output) -> None:
        seen = await client.cluster()
        if output.as_json:
            output.json(list(seen.members))
        else:
            _show_members(output, seen)

    run(context, work)


MemberArgument = Annotated[
    str, typer.Argument(help="The member's id.", autocompletion=completing.members)
]


@members_app.command("add")
def members_add(
    context: typer.Context,
    member: MemberArgument,
    raft_address: Annotated[
        str, typer.Option("--raft-address", help="HOST:PORT where members reach it.")
    ],
    member_url: Annotated[str, typer.Option("--member-url", help="URL where clients reach it.")],
    voter: Annotated[
        bool, typer.Option("--voter", help="Let it vote at once; else it observes first.")
    ] = False,
) -> None:
    """Add a member, as an observer."""
    run(
        context,
        lambda client, output: _member_done(
            output,
            client.add_member(member, raft_address=raft_address, url=member_url, voter=voter),
            member,
            "added",
        ),
    )


@members_app.command("promote")
def members_promote(context: typer.Context, member: MemberArgument) -> None:
    """Let an observer vote."""

    async def work(client: Client, output: Output) -> None:
        votes = [each.id for each in (await client.cluster()).members if each.voter]
        if member in votes:
            if output.as_json:
                output.json({"member": member, "done": "nothing"})
            else:
                output.say(f"{shown(member)} votes already: nothing to do")
            return
        await _member_done(output, client.promote_member(member), member, "promoted")

    run(context, work)


@members_app.command("remove")
def members_remove(context: typer.Context, member: MemberArgument) -> None:
    """Remove a member."""
    run(
        context,
        lambda client, output: _member_done(
            output, client.remove_member(member), member, "removed"
        ),
    )


def _show_members(output: Output, seen: results.Cluster) -> None:
    state = "[green]quorum[/green]" if seen.quorum else "[red]no quorum[/red]"
    who = (
        f"{shown(seen.leader)} leads" if seen.leader else "[red]this node knows no leader yet[/red]"
    )
    output.say(
        f"{who} in term {seen.term}, {state}, settled at revision {seen.settled} "
        f"(as {shown(seen.node)} sees it)"
    )
    if seen.raw.get("store_kind") == "replicated":
        detail = shown(str(seen.raw.get("store_detail") or ""), 300)
        state = shown(str(seen.raw.get("store_state")))
        output.say(f"its own store is {state}" + (f": {detail}" if detail else ""))
    if seen.raw.get("unsafe_fsync"):
        fsync = shown(str(seen.raw.get("fsync")))
        output.say(f"[red]fsync={fsync}: a power cut may lose acknowledged writes[/red]")
    if seen.refusal and not seen.refusal.startswith("own_store"):  # `unready` says more of those
        output.say(
            f"[red]writes are refused until somebody decides: {shown(seen.refusal, 300)}[/red]"
        )
        way = (
            "" if seen.refusal == "store_foreign" else ", or go on from this one with: acordo adopt"
        )
        output.say(f"  put the store back that was settled{way}")
    for reason in seen.unready:
        who, why = shown(seen.node), shown(reason.why, 300)
        output.say(
            f"[red]{who} is not ready: {shown(reason.check)}: {why}[/red] ({shown(reason.code)})"
        )
    rows = []
    for each in seen.members:
        colour = {"leader": "green", "unknown": "red"}.get(each.role, "default")
        rows.append(
            [
                shown(each.id),
                f"[{colour}]{each.role}[/{colour}]" + ("" if each.voter else " (does not vote)"),
                _figure(each.settled),
                _figure(each.applied),
                _figure(each.lag),
                "" if each.last_seen_s is None else f"{each.last_seen_s:.1f} s",
                (each.digest or "")[:12],
                shown(each.url or "", 2000),
            ]
        )
    output.table(
        table(["member", "role", "settled", "ordered", "lag", "seen", "digest", "url"], rows)
    )


def _figure(number: int | None) -> str:
    return "" if number is None else str(number)


async def _member_done(output: Output, change: Awaitable[None], member: str, verb: str) -> None:
    await change
    if output.as_json:
        output.json({"member": member, "done": verb})
    else:
        output.say(f"{shown(member)} {verb}")
