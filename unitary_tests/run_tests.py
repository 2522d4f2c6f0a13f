"""Check an installation under the original project's name: `python3 -m unitary_tests.run_tests
[URL]`.

Runs `python -m cluster.installation` in the project's own environment, which it makes first where
there is none. Any python3 will do. URL: http://127.0.0.1 unless given, where ./start.sh publishes
the stack. Exit codes are the check's.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main(arguments: list[str]) -> None:
    """Replace this process by the check; exit with 2 where the environment cannot be made."""
    os.chdir(ROOT)
    if subprocess.run(["make", "-s", "install"], stdout=sys.stderr, check=False).returncode:
        print("the environment cannot be made; what make says stands above", file=sys.stderr)
        sys.exit(2)  # as the check's own "wrong usage or nobody answers": nothing was checked
    os.execv(
        ".venv/bin/python",
        [".venv/bin/python", "-m", "cluster.installation", *(arguments or ["http://127.0.0.1"])],
    )


if __name__ == "__main__":
    main(sys.argv[1:])
