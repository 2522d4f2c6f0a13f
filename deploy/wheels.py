"""Build the wheels that a node needs, from what the lock names by hash: `python -m deploy.wheels
DIRECTORY`.

Some packages are published as source alone, and a wheel that is built here has a hash of its own.
So DIRECTORY gets a lock of its own beside the wheels, for `pip install --no-index`. It never takes
a file whose hash the lock does not name.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
LOCK: Final = "requirements-run.lock"


def build(folder: Path, lock: Path = ROOT / LOCK) -> Path:
    """Build every wheel of a lock into a folder; return the lock of the wheels. Raises
    CalledProcessError if a file has another hash, or cannot be built.
    """
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--require-hashes"),
            *("-w", str(folder), "-r", str(lock)),
        ],
        check=True,
        env=os.environ | {"SOURCE_DATE_EPOCH": "315532800"},  # 1980: the oldest that a zip can say
    )
    own = folder / LOCK
    own.write_text("".join(map(pinned, sorted(folder.glob("*.whl")))))
    return own


def pinned(wheel: Path) -> str:
    """Return the line of a lock that names this very file."""
    name, version, *_ = wheel.name.split("-")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return f"{name}=={version} --hash=sha256:{digest}\n"


if __name__ == "__main__":
    build(Path(sys.argv[1]))
