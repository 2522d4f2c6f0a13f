"""The common part of every command: the typer app, the client it opens, exit codes of errors,
arguments as bytes.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from base64 import b64encode
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

import msgspec
import typer
from rich.markup import escape

from acordo import _results as results
from acordo._base_client import TIMEOUT_S, new_op_id
from acordo._cli import interrupts
from acordo._cli.exit_codes import CODES, INTERRUPTED, OK, USAGE, code_of
from acordo._cli.output import Output
from acordo._cli.text import BASE64, printable
from acordo._client import Client
from acordo._errors import AcordoError, BadRequest
from acordo._tls import client_tls
from acordo._tokens import client_token
from acordo._wire import forms

URLS_DEFAULT: Final = "http://127.0.0.1:8001 http://127.0.0.1:8002 http://127.0.0.1:8003"
INPUT_BYTES_MAX: Final = 16 * 1024 * 1024
SILENCE_S: Final = 1.0
"""After this time without any answer the user is told that no node answers."""

_EPILOG = "\n\n".join(
    [
        "--url, --json, --timeout, --ca, --cert and --cert-key may stand anywhere. Exit codes:",
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

_HOISTED: Final = ("--url", "--timeout", "--ca", "--cert", "--cert-key")
"""Options with a value that may stand anywhere; --json, too, may."""

OpIdOption = Annotated[
    str | None, typer.Option("--op-id", help="Repeat an operation whose outcome is unknown.")
]


class GlobalOptions(msgspec.Struct, frozen=True):
    """The options that every command takes."""

    urls: tuple[str, ...]
    as_json: bool
    timeout_s: float
    ca: Path | None = None
    cert: Path | None = None
    cert_key: Path | None = None
    token: str | None = None
    token_file: Path | None = None


def _show_version(asked: bool) -> None:
    if asked:
        try:
            typer.echo(f"acordo {version('acordo')}")
        except PackageNotFoundError:  # run from the source tree, as in the image
            typer.echo("acordo, from its source tree")
        raise typer.Exit


@app.callback()
def take_global_options(
    context: typer.Context,
    *,
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
    ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="PEM file of the authority that signs the nodes' certificates. Else ACORDO_CA, "
            "else the system's authorities.",
        ),
    ] = None,
    cert: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="PEM file of a certificate to show to nodes. Else ACORDO_CERT."
        ),
    ] = None,
    cert_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its key. Else ACORDO_CERT_KEY.")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN",
            help="The token to show to nodes. Others on this machine may see it: rather "
            "--token-file. Else ACORDO_TOKEN.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The file that it is in. Else ACORDO_TOKEN_FILE."),
    ] = None,
) -> None:
    """Take the options that stand before the command."""
    given = url or [os.environ.get("ACORDO_URLS", "") or URLS_DEFAULT]
    urls = tuple(each for text in given for each in re.split(r"[\s,]+", text) if each)
    context.obj = GlobalOptions(urls, as_json, timeout, ca, cert, cert_key, token, token_file)


def run(
    context: typer.Context,
    work: Callable[[Client, Output], Awaitable[int | None]],
    *,
    level: results.Level = "linearizable",
    spread: bool = False,
) -> None:
    """Open a client, run `work`, and turn errors into messages and exit codes.

    `work` returns its exit code; None means 0. Always raises typer.Exit.
    """
    options: GlobalOptions = context.obj
    output = Output(as_json=options.as_json)
    failures: list[AcordoError] = []

    def op_id() -> str:
        output.op_id = new_op_id()
        return output.op_id

    async def inside() -> int | None:
        client = Client(
            options.urls,
            timeout_s=options.timeout_s,
            level=level,
            spread=spread,
            op_ids=op_id,
            token=client_token(options.token, file=options.token_file) or "",
            tls=client_tls(ca=options.ca, cert=options.cert, cert_key=options.cert_key),
        )
        with interrupts.cancelling():
            async with client:
                telling = asyncio.create_task(_tell_silence(client, output, options))
                try:
                    code = await work(client, output)
                    output.op_id = None  # its outcome has been shown
                    return code
                except AcordoError as error:
                    failures.append(error)  # Ctrl-C may yet come while the client is closed
                    raise
                finally:
                    telling.cancel()

    interrupts.listen()
    code = _exit_code_of(inside, output, failures)
    raise typer.Exit(INTERRUPTED if interrupts.pressed() else code)


def _exit_code_of(
    inside: Callable[[], Coroutine[Any, Any, int | None]],
    output: Output,
    failures: Sequence[AcordoError],
) -> int:
    """Run the command, report an error if there is one, and return the exit code."""
    try:
        return asyncio.run(inside()) or OK
    except AcordoError as error:
        output.error(error)
        return code_of(error)
    except BrokenPipeError:
        # The reader of our output closed the pipe. Redirect it, because Python would raise again
        # while closing it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:
        detail = f"{error.filename or ''}: {error.strerror or error}".lstrip(": ")
        output.error(BadRequest(detail, code="file"))
        return USAGE
    except (KeyboardInterrupt, asyncio.CancelledError):
        if failures:
            output.error(failures[0])
        else:
            output.interrupted()
        return INTERRUPTED


async def _tell_silence(client: Client, output: Output, options: GlobalOptions) -> None:
    """Tell the user when no node has answered for a while."""
    if options.timeout_s <= SILENCE_S or output.as_json:
        return
    while not client.answered:
        await asyncio.sleep(SILENCE_S)
        if client.unanswered_s >= SILENCE_S / 2:
            tried = escape(", ".join(printable(url, 200) for url in client.urls))
            output.note(
                f"[dim]no node answers yet ({tried}): "
                f"trying for {options.timeout_s:g} s; Ctrl-C ends it[/dim]"
            )
            return


def key_of(text: str) -> bytes:
    """Return the key that an argument stands for. A key that itself begins with `base64:` has to be
    given as base64.
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
    """Return the read level with this name. Raises BadRequest."""
    for level in results.LEVELS:
        if text == level:
            return level
    raise BadRequest(
        f"unknown read level {printable(text)!r}",
        code="bad_level",
        allowed=", ".join(results.LEVELS),
    )


def input_bytes(source: str) -> bytes:
    """Return the contents of a file, or of standard input (`-`), up to INPUT_BYTES_MAX.

    Raises BadRequest if there is more, OSError.
    """
    with opened(None if source == "-" else Path(source)) as file:
        content = file.read(INPUT_BYTES_MAX + 1)
    if len(content) > INPUT_BYTES_MAX:
        raise BadRequest(f"more than {INPUT_BYTES_MAX} bytes of input", code="value_too_large")
    return content


def opened(path: Path | None) -> BinaryIO:
    """Open a file for reading; None is standard input. Raises OSError."""
    return sys.stdin.buffer if path is None else path.open("rb")


def hoisted(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the global options moved before the command, so that they may be
    given anywhere.
    """
    front: list[str] = []
    rest: list[str] = []
    left = list(arguments)
    while left:
        each = left.pop(0)
        if each == "--":
            rest += [each, *left]
            break
        if each == "--json" or each.startswith(tuple(f"{option}=" for option in _HOISTED)):
            front.append(each)
        elif each in (*_HOISTED, "-u") and left:
            front += [each, left.pop(0)]
        else:
            rest.append(each)
    return front + rest
