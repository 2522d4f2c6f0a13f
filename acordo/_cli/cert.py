"""Commands on certificates: an authority in a directory, what it issues, what a file says. They ask
no node.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer
from rich.markup import escape

from acordo._cli.exit_codes import OK, USAGE, code_of
from acordo._cli.output import Output
from acordo._errors import AcordoError, BadRequest

cert_app = typer.Typer(
    help="Certificates: an authority in a directory, and what it issues.", no_args_is_help=True
)
DirectoryOption = Annotated[
    Path, typer.Option("--dir", "-d", help="Directory of the authority.", file_okay=False)
]


@cert_app.command("init")
def init(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(help="Directory; it is made if need be.")],
    name: Annotated[str, typer.Option(help="Name of the authority.")] = "acordo",
    days: Annotated[int, typer.Option(min=1, max=36500, help="Days until it ends.")] = 3650,
) -> None:
    """Make an authority: `ca.pem`, which everybody may have, and `ca.key`, which nobody may.

    Members and clients need authorities of their own: whoever has a certificate of the members'
    authority with a member's name can be that member.
    """

    def work(output: Output, made: ModuleType) -> None:
        _say_file(output, made.make_authority(directory, name, days))

    _run(context, work)


@cert_app.command("issue")
def issue(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Whom it names: a member's id, a host, a client.")],
    *,
    directory: DirectoryOption = Path(),
    host: Annotated[
        list[str] | None,
        typer.Option(help="A DNS name or address under which it serves; give several."),
    ] = None,
    client: Annotated[
        bool, typer.Option("--client", help="It proves a client, and cannot serve.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the files of an earlier one.")
    ] = False,
    days: Annotated[int, typer.Option(min=1, max=36500, help="Days until it ends.")] = 825,
) -> None:
    """Make a key and a certificate: `NAME.key` and `NAME.pem` beside the authority's."""

    def work(output: Output, made: ModuleType) -> None:
        file = made.issue(directory, name, host or (), days, client=client, replace=replace)
        _say_file(output, file)

    _run(context, work)


@cert_app.command("show")
def show(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="PEM files of certificates.")],
) -> None:
    """Show whom certificates name, who signed them, and when they end. Leaves with 1 if one has."""

    def work(output: Output, made: ModuleType) -> int:
        ended = False
        now = datetime.datetime.now(datetime.UTC)
        for each in (found for file in files for found in made.shown(file)):
            left = (each.ends - now).total_seconds()
            ended = ended or left <= 0
            if output.as_json:
                output.json(each._asdict() | {"ends": each.ends.isoformat(), "left_s": int(left)})
                continue
            output.say(f"[bold]{escape(each.file)}[/bold]  {escape(each.subject)}")
            output.say(f"  names   {escape(', '.join(each.names)) or '-'}")
            output.say(f"  signed  {escape(each.issuer)}")
            how_long = f"{left / 86400:.0f} days left" if left > 0 else "[red]it has ended[/red]"
            output.say(f"  ends    {each.ends:%Y-%m-%d %H:%M} UTC, {how_long}")
            output.say(f"  sha256  {each.fingerprint}")
        return 1 if ended else OK

    _run(context, work)


def _say_file(output: Output, file: Path) -> None:
    if output.as_json:
        output.json({"certificate": str(file), "key": str(file.with_suffix(".key"))})
    else:
        output.say(f"{escape(str(file))} and {escape(file.with_suffix('.key').name)}")


def _run(context: typer.Context, work: Callable[[Output, ModuleType], int | None]) -> None:
    """Do what needs no node, turn errors into messages and exit codes, and leave."""
    output = Output(as_json=context.obj.as_json)
    try:
        try:
            # Only these commands need the library, and the client alone does not bring it.
            from acordo._cli import authority
        except ImportError as exc:
            raise BadRequest(
                f"certificates take the package cryptography: {exc}",
                code="not_installed",
                allowed="pip install acordo[cert]",
            ) from exc
        code = work(output, authority) or OK
    except AcordoError as error:
        output.error(error)
        code = code_of(error)
    except OSError as error:
        detail = f"{error.filename or ''}: {error.strerror or error}".lstrip(": ")
        output.error(BadRequest(detail, code="file"))
        code = USAGE
    raise typer.Exit(code)
