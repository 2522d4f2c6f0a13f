"""Run `python -m acordo`, the command line. It starts listening for Ctrl-C before anything else is
loaded.
"""

from __future__ import annotations

import sys

from acordo._cli import interrupts


def main() -> None:
    """Run the command line and exit with its exit code."""
    interrupts.listen()
    try:
        from acordo._cli.main import main as run

        run()
        code: int | str | None = 0
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
