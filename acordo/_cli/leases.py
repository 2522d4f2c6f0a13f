"""Commands on leases: grant, keep-alive, show, list, revoke."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from acordo import _results as results
from acordo._cli import completing
from acordo._cli.exit_codes import NO, OK
from acordo._cli.output import Output
from acordo._cli.shell import OpIdOption, run
from acordo._cli.text import shown_key
from acordo._client import Client
from acordo._wire import forms

lease_app = typer.Typer(
    help="Leases: keys that live as long as somebody keeps them alive.", no_args_is_help=True
)
LeaseArgument = Annotated[
    str,
    typer.Argument(help="The lease: 16 hexadecimal digits.", autocompletion=completing.leases),
]
SHARE = 3
"""With --keep, a lease is kept alive this many times within its ttl."""


@lease_app.command("grant")
def grant(
    context: typer.Context,
    ttl: Annotated[float, typer.Argument(help="Seconds that it lives without being kept alive.")],
    lease: Annotated[str | None, typer.Option("--id", help="Its id; else one is chosen.")] = None,
    op_id: OpIdOption = None,
) -> None:
    """Grant a lease and print its id."""

    async def work(client: Client, output: Output) -> None:
        output.op_id = op_id
        _show(output, await client.grant_lease(ttl, lease=lease, op_id=op_id), "granted")

    run(context, work)


@lease_app.command("keep-alive")
def keep_alive(
    context: typer.Context,
    lease: LeaseArgument,
    keep: Annotated[
        bool, typer.Option("--keep", help="Go on until it ends, or Ctrl-C is pressed.")
    ] = False,
) -> None:
    """Let a lease live its whole ttl from now on. Leaves with 1 if there is none."""

    async def work(client: Client, output: Output) -> int:
        while True:
            found = await client.keep_alive(lease)
            if found is None:
                output.note(f"not found: {lease}")
                return NO
            _show(output, found, "alive")
            if not keep:
                return OK
            await asyncio.sleep(found.ttl_s / SHARE)

    run(context, work)


@lease_app.command("show")
def show(
    context: typer.Context,
    lease: LeaseArgument,
    keys: Annotated[bool, typer.Option("--keys", "-k", help="Print its keys too.")] = False,
) -> None:
    """Show how long a lease lives. Leaves with 1 if there is none."""

    async def work(client: Client, output: Output) -> int:
        found = await client.lease(lease, keys=keys)
        if found is None:
            output.note(f"not found: {lease}")
            return NO
        _show(output, found, "alive")
        if not output.as_json:
            for key in found.keys or ():
                output.say(shown_key(key))
        return OK

    run(context, work)


@lease_app.command("list")
def list_(context: typer.Context) -> None:
    """List the leases by id."""

    async def work(client: Client, output: Output) -> None:
        async for each in client.leases():
            _show(output, each, "")

    run(context, work)


@lease_app.command("revoke")
def revoke(context: typer.Context, lease: LeaseArgument, op_id: OpIdOption = None) -> None:
    """End a lease and delete all its keys. Leaves with 1 if there is none."""

    async def work(client: Client, output: Output) -> int:
        output.op_id = op_id
        revision = await client.revoke_lease(lease, op_id=op_id)
        if output.as_json:
            output.json({"id": lease, "revision": revision})
        elif revision is None:
            output.note(f"not found: {lease}")
        else:
            output.say(f"revoked at revision {revision}")
        return NO if revision is None else OK

    run(context, work)


def _show(output: Output, lease: results.Lease, verb: str) -> None:
    if output.as_json:
        form: dict[str, object] = {"id": lease.id, "ttl": lease.ttl_s}
        if lease.left_s is not None:
            form["left"] = lease.left_s
        if lease.keys is not None:
            form["keys"] = [forms.to_json(key) for key in lease.keys]
        output.json(form)
        return
    left = "" if lease.left_s is None else f", {lease.left_s:g} s left"
    output.say(f"{lease.id}  ttl {lease.ttl_s:g} s{left}" + (f"  ({verb})" if verb else ""))
