"""Run `acordo-server`: a node, or one of the commands of `python -m cluster`, from the installed
package.
"""

from __future__ import annotations

import os
import sys

from acordo._extras import MissingExtra, server_home

EX_CONFIG = 78
"""Exit code of sysexits.h: something must be corrected; a restart would fail the same way."""
USAGE = """usage: acordo-server [SETTINGS]           run a node; --help lists the settings
       acordo-server COMMAND [ARGUMENTS]   manage nodes of this machine; `help` lists the commands

For a cluster to try things with: acordo dev
"""


def main() -> None:
    """Run a node, or the command that the first argument names."""
    arguments = sys.argv[1:]
    try:
        home = str(server_home("acordo-server"))
    except MissingExtra as exc:
        print(f"error: {exc}", file=sys.stderr)
        sys.exit(EX_CONFIG)
    if not arguments:
        # A node without any setting would be refused for its first missing one; say what there is.
        if not any(name.startswith("ACORDO_") for name in os.environ):
            print(USAGE, end="", file=sys.stderr)
            sys.exit(2)
        module = "node"
    elif arguments[0].startswith("-"):
        module = "node"
    else:
        module = "cluster"
        arguments = ["--help"] if arguments[0] == "help" else arguments
    path = os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH")])])
    # in this very process: whoever started it signals the node itself
    os.execve(
        sys.executable,
        [sys.executable, "-m", module, *arguments],
        {**os.environ, "PYTHONPATH": path},
    )


if __name__ == "__main__":
    main()
