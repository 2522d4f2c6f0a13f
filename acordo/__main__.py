"""Run `python -m acordo`, the command line. It starts listening for Ctrl-C before anything else is
loaded.
"""

from __future__ import annotations

import sys

from acordo._cli import interrupts
from acordo._extras import MissingExtra, require

EX_CONFIG = 78
"""Exit code of sysexits.h: something must be corrected; a repetition would fail the same way."""


def main() -> None:
    """Run the command line and exit with its exit code."""
    interrupts.listen()
    try:
        require("cli", "the command line acordo")
        from acordo._cli.main import main as run

        run()
        code: int | str | None = 0
    except MissingExtra as exc:
        print(f"error: {exc}", file=sys.stderr)
        code = EX_CONFIG
    except SystemExit as exc:
        code = exc.code
    except KeyboardInterrupt:
        code = 0
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    sys.exit(interrupts.end(code or 0))


if __name__ == "__main__":
    main()
