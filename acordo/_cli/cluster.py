"""Commands on the cluster: leader, transfer, adopt, limits, members."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Annotated

import typer

from acordo._cli import completing
from acordo._cli.exit_codes import NO, OK
from acordo._cli.output import Output
from acordo._cli.shell import run
from acordo._cli.status import list_members
from acordo._cli.text import shown
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
        await list_members(client, output, context)

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


async def _member_done(output: Output, change: Awaitable[None], member: str, verb: str) -> None:
    await change
    if output.as_json:
        output.json({"member": member, "done": verb})
    else:
        output.say(f"{shown(member)} {verb}")
