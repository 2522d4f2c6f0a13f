"""Run a node with one bug planted: `python -m tests.bugs BUG`, in place of `python -m node`.

It refuses without a name, so that no node ever carries a bug by accident; `none` plants none.
"""

from __future__ import annotations

import sys

from tests.planted import gateway, own_nodes  # noqa: F401 - they enter their bugs
from tests.planted.nodes import BUGS
from tests.planted.registry import plant


def main() -> int:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in (*BUGS, "none"):
        print(
            f"error: {name!r} is no bug; known are {', '.join(BUGS)}, and none",
            file=sys.stderr,
        )
        return 78
    if name in BUGS:
        plant(name)
    from node.__main__ import main as run_node

    return run_node(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
