"""Commands on access: the switch, tokens, roles, and the roles of certificates."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from acordo import _results as results
from acordo._cli import completing
from acordo._cli.exit_codes import OK
from acordo._cli.output import Output
from acordo._cli.shell import key_of, run
from acordo._cli.text import shown, shown_key
from acordo._client import Client
from acordo._wire import forms

access_app = typer.Typer(help="Access: whether it is controlled.", no_args_is_help=True)
token_app = typer.Typer(help="Tokens, by which principals are known.", no_args_is_help=True)
role_app = typer.Typer(help="Roles: what principals may do.", no_args_is_help=True)
PREFIXES = 'Keys that begin with it. Several options add up; "" is all keys.'


@access_app.command("on")
def on(context: typer.Context) -> None:
    """Control access from now on. A valid token of an admin has to be there."""
    _switch(context, True)


@access_app.command("off")
def off(context: typer.Context) -> None:
    """Let everybody do everything from now on."""
    _switch(context, False)


def _switch(context: typer.Context, on: bool) -> None:
    async def work(client: Client, output: Output) -> None:
        await client.control_access(on=on)
        if output.as_json:
            output.json({"on": on})
        else:
            output.note("access is controlled" if on else "everybody may do everything")

    run(context, work)


@access_app.command("status")
def status(context: typer.Context) -> None:
    """Show whether access is controlled, and as whom this command asks."""

    async def work(client: Client, output: Output) -> None:
        state = await client.access()
        if output.as_json:
            output.json({"on": state.on, "principal": state.principal, "admin": state.admin})
            return
        output.say("controlled" if state.on else "not controlled: everybody may do everything")
        if state.principal is not None:
            output.say(f"you are {shown(state.principal)}{', an admin' if state.admin else ''}")

    run(context, work)


@token_app.command("create")
def create(
    context: typer.Context,
    principal: Annotated[str, typer.Argument(help="Whose it is.")],
    role: Annotated[
        list[str],
        typer.Option("--role", "-r", help="A role; give several.", autocompletion=completing.roles),
    ],
    ttl: Annotated[float | None, typer.Option(help="Seconds until it expires.")] = None,
) -> None:
    """Create a token and print what its bearer sends: nobody is shown it again."""

    async def work(client: Client, output: Output) -> None:
        made = await client.create_token(principal, role, ttl_s=ttl)
        if output.as_json:
            output.json(_token(made) | {"token": made.token})
            return
        output.say(made.token or "")
        output.note(f"token {made.id} of {made.principal}: keep it, it is not shown again")

    run(context, work)


@token_app.command("list")
def list_tokens(context: typer.Context) -> None:
    """List the tokens: id, principal, roles, and when they expire."""

    async def work(client: Client, output: Output) -> None:
        for each in await client.tokens():
            if output.as_json:
                output.json(_token(each))
                continue
            ends = "never" if each.expires_ms is None else _time(each.expires_ms)
            roles = shown(",".join(each.roles), 300)
            output.say(f"{shown(each.id)}  {shown(each.principal)}  {roles}  expires {ends}")

    run(context, work)


@token_app.command("revoke")
def revoke(
    context: typer.Context,
    token: Annotated[
        str,
        typer.Argument(help="Its id, as the list shows it.", autocompletion=completing.tokens),
    ],
) -> None:
    """Revoke a token at once."""

    async def work(client: Client, output: Output) -> int:
        await client.revoke_token(token)
        _done(output, "revoked", token)
        return OK

    run(context, work)


@role_app.command("set")
def set_(  # noqa: PLR0917  # each is an option of the command
    context: typer.Context,
    name: Annotated[str, typer.Argument(help='Its name; "anonymous" is who brings no token.')],
    read: Annotated[list[str] | None, typer.Option("--read", help=PREFIXES)] = None,
    write: Annotated[list[str] | None, typer.Option("--write", help=PREFIXES)] = None,
    admin: Annotated[bool, typer.Option("--admin", help="It may do everything.")] = False,
    metrics: Annotated[bool, typer.Option("--metrics", help="It may read /metrics.")] = False,
) -> None:
    """Set a role. It replaces the one of that name."""
    if not (read or write or admin or metrics):
        raise typer.BadParameter("a role without a right: give --read, --write or --admin")

    async def work(client: Client, output: Output) -> None:
        readable, writable = ([key_of(each) for each in given or ()] for given in (read, write))
        rules = tuple(
            results.AccessRule(prefix=each, read=each in readable, write=each in writable)
            for each in dict.fromkeys([*readable, *writable])
        )
        await client.set_role(
            results.AccessRole(name=name, rules=rules, admin=admin, metrics=metrics)
        )
        _done(output, "set", name)

    run(context, work)


@role_app.command("list")
def list_roles(context: typer.Context) -> None:
    """List the roles with their rules."""

    async def work(client: Client, output: Output) -> None:
        for each in await client.roles():
            if output.as_json:
                output.json(_role(each))
                continue
            flags = [name for name in ("admin", "metrics") if getattr(each, name)]
            output.say("  ".join([shown(each.name), *flags]))
            for rule in each.rules:
                what = "+".join(name for name in ("read", "write") if getattr(rule, name))
                output.say(f"  {what or 'nothing'}  {shown_key(rule.prefix)}")

    run(context, work)


@role_app.command("delete")
def delete(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Its name.", autocompletion=completing.roles)],
) -> None:
    """Delete a role: who has it loses what it allows."""

    async def work(client: Client, output: Output) -> None:
        await client.delete_role(name)
        _done(output, "deleted", name)

    run(context, work)


@role_app.command("bind")
def bind(
    context: typer.Context,
    certificate: Annotated[str, typer.Argument(help="A name in clients' TLS certificates.")],
    role: Annotated[
        list[str] | None,
        typer.Option(
            "--role",
            "-r",
            help="A role; without any, take them away.",
            autocompletion=completing.roles,
        ),
    ] = None,
) -> None:
    """Give roles to those whose TLS certificate has a name."""

    async def work(client: Client, output: Output) -> None:
        await client.bind_certificate(certificate, role or ())
        if output.as_json:
            output.json({"certificate": certificate, "roles": list(role or ())})
        else:
            output.note(f"{shown(certificate)}: {shown(', '.join(role or ())) or 'no role'}")

    run(context, work)


def _done(output: Output, done: str, name: str) -> None:
    if output.as_json:
        output.json({"name": name, "done": done})
    else:
        output.note(f"{done} {shown(name)}")


def _token(token: results.AccessToken) -> dict[str, object]:
    return {
        "id": token.id,
        "principal": token.principal,
        "roles": list(token.roles),
        "created_ms": token.created_ms,
        "expires_ms": token.expires_ms,
    }


def _role(role: results.AccessRole) -> dict[str, object]:
    rules = [
        {"prefix": forms.to_json(rule.prefix), "read": rule.read, "write": rule.write}
        for rule in role.rules
    ]
    return {"name": role.name, "rules": rules, "admin": role.admin, "metrics": role.metrics}


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")
