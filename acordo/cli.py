"""The command line `acordo`: every command is one call of the client, shown. Decides nothing but
the exit code.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from acordo import commands_bulk, commands_cluster, commands_dead, commands_keys
from acordo.shell import app, hoisted

COMMANDS = (commands_keys, commands_bulk, commands_cluster, commands_dead)
"""Modules that register their commands with the app when imported."""


def main(arguments: Sequence[str] | None = None) -> Any:
    """Run the command line."""
    return app(args=hoisted(sys.argv[1:] if arguments is None else arguments), prog_name="acordo")


if __name__ == "__main__":
    from acordo.__main__ import main as guarded

    guarded()
