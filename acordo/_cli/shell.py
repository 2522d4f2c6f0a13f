"""What every command shares: the typer app, the client it opens, errors into exit codes, arguments
into bytes.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import msgspec
import typer
from rich.markup import escape

from acordo import _results as results
from acordo._base_client import TIMEOUT_S, new_op_id
from acordo._cli import interrupts
from acordo._cli.output import BASE64, CODES, INTERRUPTED, OK, USAGE, Output, code_of, printable
from acordo._client import Client
from acordo._errors import AcordoError, BadRequest
from acordo._wire import forms

URLS_DEFAULT: Final = "http://127.0.0.1:8001 http://127.0.0.1:8002 http://127.0.0.1:8003"
INPUT_BYTES_MAX: Final = 16 * 1024 * 1024
SILENCE_S: Final = 1.0
"""After so long without any answer it is said that none comes."""

_EPILOG = "\n\n".join(
    [
        "--url, --json and --timeout may stand anywhere. Exit codes:",
        *(f"{code}  {meaning}" for code, meaning in CODES.items()),
    ]
)
app = typer.Typer(
    name="acordo",
    help="Talk to an Acordo cluster: a distributed key-value store.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
ledger_app = typer.Typer(
    help="The ledger: the store's chain of committed groups.", no_args_is_help=True
)
members_app = typer.Typer(
    help="List, add, promote and remove members.", invoke_without_command=True
)
app.add_typer(ledger_app, name="ledger")
app.add_typer(members_app, name="members")


class Settings(msgspec.Struct, frozen=True):
    """What every command is told."""

    urls: tuple[str, ...]
    as_json: bool
    timeout_s: float


def _show_version(asked: bool) -> None:
    if asked:
        try:
            typer.echo(f"acordo {version('acordo')}")
        except PackageNotFoundError:  # run from the source tree, as in the image
            typer.echo("acordo, from its source tree")
        raise typer.Exit


@app.callback()
def settings(
    context: typer.Context,
    url: Annotated[
        list[str] | None,
        typer.Option(
            "--url",
            "-u",
            help=f"A node's URL; give several. Else ACORDO_URLS, else {URLS_DEFAULT}.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, one document a line.")
    ] = False,
    _: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=0.01, help="Seconds for each call as a whole.")
    ] = TIMEOUT_S,
) -> None:
    given = url or [os.environ.get("ACORDO_URLS", "") or URLS_DEFAULT]
    urls = tuple(each for text in given for each in re.split(r"[\s,]+", text) if each)
    context.obj = Settings(urls, as_json, timeout)


def run(
    context: typer.Context,
    work: Callable[[Client, Output], Awaitable[int | None]],
    *,
    level: results.Level = "linearizable",
    spread: bool = False,
) -> None:
    """Open a client, do the work, turn errors into messages and exit codes."""
    given: Settings = context.obj
    output = Output(as_json=given.as_json)
    failures: list[AcordoError] = []

    def op_id() -> str:
        output.op_id = new_op_id()
        return output.op_id

    async def inside() -> int | None:
        client = Client(
            given.urls, timeout_s=given.timeout_s, level=level, spread=spread, op_ids=op_id
        )
        with interrupts.cancelling():
            async with client:
                telling = asyncio.create_task(_tell_silence(client, output, given))
                try:
                    code = await work(client, output)
                    output.op_id = None  # how it ended was said
                    return code
                except AcordoError as error:
                    failures.append(error)  # Ctrl-C may yet come while the client is closed
                    raise
                finally:
                    telling.cancel()

    interrupts.listen()
    try:
        code = asyncio.run(inside()) or OK
    except AcordoError as error:
        output.error(error)
        code = code_of(error)
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain again while closing it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = OK
    except OSError as error:
        output.error(
            BadRequest(
                f"{error.filename or ''}: {error.strerror or error}".lstrip(": "), code="file"
            )
        )
        code = USAGE
    except (KeyboardInterrupt, asyncio.CancelledError):
        if failures:
            output.error(failures[0])
        else:
            output.interrupted()
        code = INTERRUPTED
    raise typer.Exit(INTERRUPTED if interrupts.pressed() else code)


async def _tell_silence(client: Client, output: Output, given: Settings) -> None:
    """Say it when no node answers for a while, and a person would wonder."""
    if given.timeout_s <= SILENCE_S or output.as_json:
        return
    while not client.answered:
        await asyncio.sleep(SILENCE_S)
        if client.unanswered_s >= SILENCE_S / 2:
            tried = escape(", ".join(printable(url, 200) for url in client.urls))
            output.note(
                f"[dim]no node answers yet ({tried}): trying for {given.timeout_s:g} s; Ctrl-C ends it[/dim]"
            )
            return


def key_of(text: str) -> bytes:
    """Return the key that an argument stands for. A key that itself begins with `base64:` is given
    as base64.
    """
    raw = os.fsencode(text)
    if not text.startswith(BASE64):
        return raw
    try:
        return forms.from_base64(text.removeprefix(BASE64))
    except BadRequest as exc:
        literal = BASE64 + b64encode(raw).decode()
        raise BadRequest(
            exc.detail, code=exc.code, allowed=f"base64; the key {text} itself is {literal}"
        ) from exc


def level_of(text: str) -> results.Level:
    for level in results.LEVELS:
        if text == level:
            return level
    raise BadRequest(
        f"unknown read level {printable(text)!r}",
        code="bad_level",
        allowed=", ".join(results.LEVELS),
    )


def input_bytes(source: str) -> bytes:
    with opened(None if source == "-" else Path(source)) as file:
        content = file.read(INPUT_BYTES_MAX + 1)
    if len(content) > INPUT_BYTES_MAX:
        raise BadRequest(f"more than {INPUT_BYTES_MAX} bytes of input", code="value_too_large")
    return content


def opened(path: Path | None) -> BinaryIO:
    return sys.stdin.buffer if path is None else path.open("rb")


def hoisted(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with --url, --json and --timeout before the command, so that they may
    stand anywhere.
    """
    front: list[str] = []
    rest: list[str] = []
    left = list(arguments)
    while left:
        each = left.pop(0)
        if each == "--":
            rest += [each, *left]
            break
        if each == "--json" or each.startswith(("--url=", "--timeout=")):
            front.append(each)
        elif each in ("--url", "-u", "--timeout") and left:
            front += [each, left.pop(0)]
        else:
            rest.append(each)
    return front + rest
