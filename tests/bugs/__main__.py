"""Run a node with one bug planted: `python -m tests.bugs`, in place of `python -m node`.

It refuses without ACORDO_TEST_ALLOW_BUGS=1, so that no node ever carries a bug by accident.
"""

from __future__ import annotations

import os
import sys

from tests.bugs.planted import BUGS


def main() -> int:
    name = os.environ.get("ACORDO_TEST_BUG", "")
    if os.environ.get("ACORDO_TEST_ALLOW_BUGS") != "1":
        print("error: bugs are planted with ACORDO_TEST_ALLOW_BUGS=1 only", file=sys.stderr)
        return 78
    if name and name not in BUGS:
        print(
            f"error: ACORDO_TEST_BUG={name!r} is no bug; known are {', '.join(BUGS)}",
            file=sys.stderr,
        )
        return 78
    if name:
        BUGS[name]()
    from node.__main__ import main as run_node

    return run_node(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
