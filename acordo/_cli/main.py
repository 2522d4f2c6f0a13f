"""The command line `acordo`: every command is one call of the client, shown. Decides nothing but
the exit code.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from acordo._cli import bulk, cluster, dead, keys
from acordo._cli.shell import app, hoisted

COMMANDS = (keys, bulk, cluster, dead)
"""Modules that register their commands with the app when imported."""


def main(arguments: Sequence[str] | None = None) -> Any:
    """Run the command line."""
    return app(args=hoisted(sys.argv[1:] if arguments is None else arguments), prog_name="acordo")
