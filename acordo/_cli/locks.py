"""Commands that hold a key while another command runs: lock and elect."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from acordo._cli import completing
from acordo._cli.children import CannotStart, code_of_child, end, started
from acordo._cli.exit_codes import LOST, NO, OK
from acordo._cli.holding import Hold, while_held
from acordo._cli.output import Output
from acordo._cli.shell import key_of, run
from acordo._cli.text import shown, typed_key
from acordo._client import Client
from acordo._wire import forms

NameArgument = Annotated[
    str,
    typer.Argument(
        help="Its name: who holds it, and who waits, are the keys under NAME/.",
        autocompletion=completing.keys,
    ),
]
CommandArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="-- COMMAND...",
        help="What to run while it is held; without one it is held until Ctrl-C.",
    ),
]
TtlOption = Annotated[
    float,
    typer.Option(
        min=1.0,
        max=86400.0,
        help="Seconds after which others may have it if this process or its machine dies.",
    ),
]
ValueOption = Annotated[
    str | None, typer.Option("--value", help="What others see of this holder; else HOST:PID.")
]


def lock(
    context: typer.Context,
    name: NameArgument,
    command: CommandArgument = None,
    *,
    ttl: TtlOption = 15.0,
    wait: Annotated[
        float | None,
        typer.Option(min=0.0, help="Seconds to wait for it; else as long as it takes."),
    ] = None,
    value: ValueOption = None,
) -> None:
    """Run a command while holding a lock. Leaves with the command's exit code; with 1 if the lock
    was not to be had within --wait; with 7 if it was lost, and the command was ended.

    It is the lock of the recipe `Lock`, for Python programs too. The command finds
    ACORDO_LOCK, ACORDO_FENCING_TOKEN (a number that grows with each holder: let what it writes to
    refuse smaller ones) and ACORDO_LEASE in its environment. When the lock is lost, the command is
    sent SIGTERM before anybody else can have it, and SIGKILL when that may be.
    """

    async def work(client: Client, output: Output) -> int:
        async def held(hold: Hold) -> int:
            return await _run_held(output, hold, command, "holds")

        code = await while_held(
            client,
            key_of(name),
            _value(value),
            held,
            ttl_s=ttl,
            wait_s=wait,
            on_waiting=_waiting(output, name),
        )
        if code is None:
            output.note(f"{shown(name)} is held by somebody else")
            output.op_id = None
        return NO if code is None else code

    run(context, work)


def elect(
    context: typer.Context,
    name: NameArgument,
    command: CommandArgument = None,
    *,
    ttl: TtlOption = 15.0,
    value: ValueOption = None,
) -> None:
    """Stand for election, and run a command while leading. Leaves with the command's exit code.

    When the lead is lost, the command is ended as `acordo lock` does it, and this stands again. The
    command finds ACORDO_ELECTION, ACORDO_FENCING_TOKEN and ACORDO_LEASE in its environment. Who
    leads is the oldest key of `acordo list NAME/`.
    """

    async def work(client: Client, output: Output) -> int:
        async def leading(hold: Hold) -> int:
            return await _run_held(output, hold, command, "leads")

        while True:
            code = await while_held(
                client,
                key_of(name),
                _value(value),
                leading,
                ttl_s=ttl,
                wait_s=None,
                on_waiting=_waiting(output, name),
            )
            if code != LOST:
                return code or OK

    run(context, work)


def _value(given: str | None) -> bytes:
    return os.fsencode(given if given is not None else f"{socket.gethostname()}:{os.getpid()}")


def _waiting(output: Output, name: str) -> Callable[[bytes], None]:
    def tell(holder: bytes) -> None:
        if not output.as_json:
            whose = shown(holder) if holder else "somebody"
            output.note(f"[dim]waiting for {shown(name)}: {whose} has it[/dim]")

    return tell


async def _run_held(output: Output, hold: Hold, command: Sequence[str] | None, verb: str) -> int:
    """Run the command until it ends or the hold is lost; return the exit code."""
    output.op_id = None
    name = typed_key(hold.name)
    losing = asyncio.create_task(hold.lost.wait())
    told: list[int] = []
    try:
        if not command:
            _show(output, hold, verb)
            await losing
        else:
            variables = {
                "ACORDO_LOCK" if verb == "holds" else "ACORDO_ELECTION": name,
                "ACORDO_FENCING_TOKEN": str(hold.token),
                "ACORDO_LEASE": hold.lease,
            }
            async with started(command, variables, on_signal=told.append) as child:
                ending = asyncio.create_task(child.wait())
                await asyncio.wait((ending, losing), return_when=asyncio.FIRST_COMPLETED)
                if ending.done():
                    return code_of_child(child)
                output.note(f"[red]{shown(name)} is lost: {shown(hold.why, 300)}[/red]")
                await end(child, hold.grace_s)
                await ending
                # who was told to end does not stand again
                return 128 + told[0] if told and verb == "leads" else LOST
    except CannotStart as exc:
        output.note(f"[red]{shown(exc.detail, 300)}[/red]")
        return exc.code
    finally:
        losing.cancel()
    output.note(f"[red]{shown(name)} is lost: {shown(hold.why, 300)}[/red]")
    return LOST


def _show(output: Output, hold: Hold, verb: str) -> None:
    if output.as_json:
        form = {"name": forms.to_json(hold.name), "token": hold.token, "lease": hold.lease}
        output.json(form)
    else:
        output.say(f"{verb} {shown(hold.name)}, fencing token {hold.token}; Ctrl-C gives it up")
