"""The common part of every command: the typer app, the client it opens, exit codes of errors,
arguments as bytes.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
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
from acordo._base_client import ATTEMPT_TIMEOUT_S, CONNECT_TIMEOUT_S, TIMEOUT_S, new_op_id
from acordo._cli import interrupts
from acordo._cli.exit_codes import CODES, INTERRUPTED, OK, USAGE, code_of
from acordo._cli.output import Output
from acordo._cli.text import BASE64, printable
from acordo._client import Client
from acordo._errors import AcordoError, BadRequest
from acordo._tls import client_tls, unasked
from acordo._tokens import client_token
from acordo._wire import forms

URLS_DEFAULT: Final = "http://127.0.0.1:8001 http://127.0.0.1:8002 http://127.0.0.1:8003"
INPUT_BYTES_MAX: Final = 16 * 1024 * 1024
SILENCE_S: Final = 1.0
"""After this time without an answer the user is told what is waited for."""
_WHERE: Final = "Where the cluster is"
_TLS: Final = "TLS and tokens"

_EPILOG = "\n".join(
    [
        "The options above may stand anywhere. Completion: acordo --install-completion",
        "",
        "[bold]Exit codes[/bold]",
        *(f"{code:>3}  {meaning}" for code, meaning in CODES.items()),
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

_HOISTED: Final = (
    *("--url", "--timeout", "--attempt-timeout", "--connect-timeout"),
    *("--ca", "--cert", "--cert-key", "--token", "--token-file"),
)
"""Options with a value that may stand anywhere."""
_HOISTED_FLAGS: Final = ("--json", "--no-retry")

OpIdOption = Annotated[
    str | None, typer.Option("--op-id", help="Repeat an operation whose outcome is unknown.")
]


ANSWER_S: Final = 2.0
"""How long a member may take to say how it is."""


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
    attempt_timeout_s: float = ATTEMPT_TIMEOUT_S
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    retries: bool = True


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
            metavar="URL",
            rich_help_panel=_WHERE,
            help=f"A node's URL; give several. Else ACORDO_URLS, else {URLS_DEFAULT}.",
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            min=0.01, metavar="S", rich_help_panel=_WHERE, help="Seconds for each call as a whole."
        ),
    ] = TIMEOUT_S,
    attempt_timeout: Annotated[
        float,
        typer.Option(
            min=0.01, metavar="S", rich_help_panel=_WHERE, help="Seconds for one attempt of a call."
        ),
    ] = ATTEMPT_TIMEOUT_S,
    connect_timeout: Annotated[
        float,
        typer.Option(min=0.01, metavar="S", rich_help_panel=_WHERE, help="Seconds to connect."),
    ] = CONNECT_TIMEOUT_S,
    no_retry: Annotated[
        bool,
        typer.Option("--no-retry", rich_help_panel=_WHERE, help="Make one attempt of each call."),
    ] = False,
    ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=_TLS,
            help="PEM file of the authority that signs the nodes' certificates. Else ACORDO_CA, "
            "else the system's authorities.",
        ),
    ] = None,
    cert: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=_TLS,
            help="PEM file of a certificate to show to nodes. Else ACORDO_CERT.",
        ),
    ] = None,
    cert_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", rich_help_panel=_TLS, help="Its key. Else ACORDO_CERT_KEY."),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN",
            rich_help_panel=_TLS,
            help="The token to show to nodes. Others on this machine may see it: rather "
            "--token-file. Else ACORDO_TOKEN.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=_TLS,
            help="The file that it is in. Else ACORDO_TOKEN_FILE.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, one document a line.")
    ] = False,
    _: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Take the options that stand before the command."""
    context.obj = GlobalOptions(
        urls=urls_of(url),
        as_json=as_json,
        timeout_s=timeout,
        ca=ca,
        cert=cert,
        cert_key=cert_key,
        token=token,
        token_file=token_file,
        attempt_timeout_s=attempt_timeout,
        connect_timeout_s=connect_timeout,
        retries=not no_retry,
    )


def urls_of(given: Sequence[str] | None) -> tuple[str, ...]:
    """Return the URLs that are given, else those of ACORDO_URLS, else the local runner's."""
    texts = given or [os.environ.get("ACORDO_URLS", "") or URLS_DEFAULT]
    return tuple(each for text in texts for each in re.split(r"[\s,]+", text) if each)


def client_of(
    options: GlobalOptions,
    *,
    level: results.Level = "linearizable",
    spread: bool = False,
    op_ids: Callable[[], str] = new_op_id,
) -> Client:
    """Return a client, not yet open, with the given options. Raises BadRequest."""
    return Client(
        options.urls,
        timeout_s=options.timeout_s,
        attempt_timeout_s=options.attempt_timeout_s,
        connect_timeout_s=options.connect_timeout_s,
        retries=options.retries,
        level=level,
        spread=spread,
        op_ids=op_ids,
        token=client_token(options.token, file=options.token_file) or "",
        headers={"X-Request-Id": f"cli-{secrets.token_hex(6)}"},
        tls=client_tls(ca=options.ca, cert=options.cert, cert_key=options.cert_key),
    )


def client_of_member(options: GlobalOptions, url: str, timeout_s: float) -> Client:
    """Return a client, not yet open, of one member by the URL that a node names. Raises BadRequest,
    also where the token would be shown in the clear.
    """
    if why := unasked(options.urls, url):
        raise BadRequest(why, code="no_https", allowed="HTTPS as the member's URL")
    timeout_s = min(timeout_s, options.timeout_s)
    alone = msgspec.structs.replace(options, urls=(url,), timeout_s=timeout_s, retries=False)
    return client_of(alone)


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
        client = client_of(options, level=level, spread=spread, op_ids=op_id)
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
    """Say once what a call waits for, when it has been silent for a while."""
    if options.timeout_s <= SILENCE_S or output.as_json:
        return
    told = f"trying for {options.timeout_s:g} s; Ctrl-C ends it"
    while True:
        await asyncio.sleep(SILENCE_S / 4)
        if client.unanswered_s >= SILENCE_S:
            tried = escape(", ".join(printable(url, 2000) for url in client.urls))
            output.note(f"[dim]no node answers yet ({tried}): {told}[/dim]")
            return
        if client.answered and client.waiting and client.waiting[0] >= SILENCE_S:
            _, url, why = client.waiting
            whom = f"an answer: {url} said: {why}" if url else "an answer"
            output.note(f"[dim]waiting for {escape(printable(whom, 2000))}; {told}[/dim]")
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
        if each in _HOISTED_FLAGS or each.startswith(tuple(f"{option}=" for option in _HOISTED)):
            front.append(each)
        elif each in (*_HOISTED, "-u") and left:
            front += [each, left.pop(0)]
        else:
            rest.append(each)
    return front + rest
