"""Run every published reproduction with our classes, and with the library's own as a control.

`python -m tests.evidence`: exits 1 unless each exits 0 with ours and 1 (the hazard shows) with the
library's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = Path(__file__).parent / "published"
OURS = {
    "--base": "tests.evidence.base:Core",
    "--journal": "coordinator.raft.storage.journal:Journal",
}
TIMEOUT_S = 120
CONTROL_TRIES = 5
"""Some hazards are races against a kill, which the library may win now and then; ours gets
one try.
"""


def run(script: Path, *arguments: str) -> int:
    """Return its exit status, 2 when it does not end in time; what it printed is shown only when
    something is wrong.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), *arguments]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as exc:
        print(f"not over after {TIMEOUT_S} s", exc.stdout, exc.stderr, sep="\n")
        return 2
    if done.returncode not in (0, 1):
        print(done.stdout, done.stderr, sep="\n")
    return done.returncode


def main() -> int:
    scripts = sorted(path for path in PUBLISHED.glob("*.py") if path.name != "__init__.py")
    wrong = 0
    print(f"{'reproduction':28} {'library':>8} {'ours':>6}   (1: the hazard shows, 0: it does not)")
    for script in scripts:
        flag = next(flag for flag in ("--journal", "--base") if f'"{flag}"' in _text(script))
        stock = next((1 for _ in range(CONTROL_TRIES) if run(script) == 1), 0)
        ours = run(script, flag, OURS[flag])
        good = (stock, ours) == (1, 0)
        wrong += not good
        print(f"{script.stem:28} {stock:>8} {ours:>6}{'' if good else '   WRONG'}", flush=True)
    print(f"{len(scripts) - wrong} of {len(scripts)} as they should be")
    return 1 if wrong else 0


def _text(script: Path) -> str:
    return script.read_text().replace("'", '"')


if __name__ == "__main__":
    sys.exit(main())
