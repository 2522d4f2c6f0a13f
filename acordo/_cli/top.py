"""The command `acordo top`: the cluster live in a terminal. It only reads, unless a key asks for a
transfer of the lead.
"""

from __future__ import annotations

import typer

from acordo._cli.exit_codes import USAGE
from acordo._cli.output import Output
from acordo._cli.shell import GlobalOptions
from acordo._errors import BadRequest


def top(
    context: typer.Context,
    every: float = typer.Option(1.0, min=0.2, max=60.0, help="Seconds between two looks."),
) -> None:
    """Show the cluster live: members, leader, term, writes per second, p99, watchers, leases,
    alarms.

    Keys: q ends it, p pauses it, t lets the member under the cursor lead, arrows move the cursor.
    Needs the extra `top`.
    """
    options: GlobalOptions = context.obj
    try:
        # Only this command needs the library, and the command line alone does not bring it.
        from acordo._cli.screen import Screen
    except ImportError as exc:
        Output(as_json=options.as_json).error(
            BadRequest(
                f"acordo top takes the package textual: {exc}",
                code="not_installed",
                allowed='pip install "acordo[top]"',
            )
        )
        raise typer.Exit(USAGE) from exc
    screen = Screen(options, every)
    screen.run()
    raise typer.Exit(screen.return_code or 0)
