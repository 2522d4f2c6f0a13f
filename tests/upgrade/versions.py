"""Take the tree of another version out of this repository's history, and find a Python for it.

It changes nothing in the checkout.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
TAG: Final = "v0.2.0"
COMMIT: Final = "f29281400b03963bcb7775c8e00cf5a52125455d"
"""What the tag names; a clone may lack tags."""
PROGRAM: Final = ("kv", "backends", "coordinator", "node", "cluster", "acordo")
"""What a node consists of."""
LEVEL_FILE: Final = Path("coordinator/machine/book.py")
_LEVEL: Final = re.compile(r"^LEVEL: Final = (\d+)$", re.MULTILINE)
_PIN: Final = re.compile(r"^([A-Za-z0-9_.-]+)==([^\s;]+)", re.MULTILINE)


class NoTree(Exception):
    """Why the tree of the other version cannot be had."""


@dataclass(frozen=True)
class Version:
    """A version that can be started: its name, its tree, and a Python with what it needs."""

    name: str
    tree: Path
    python: str

    @property
    def level(self) -> int:
        """Return the newest feature level that it speaks."""
        found = _LEVEL.search((self.tree / LEVEL_FILE).read_text())
        assert found is not None, f"{self.tree / LEVEL_FILE} names no level"
        return int(found[1])


def working() -> Version:
    """Return the version in the working tree."""
    return Version("this version", ROOT, sys.executable)


def released(folder: Path, root: Path = ROOT) -> Version:
    """Write the tree of the released version into a new folder. Raises NoTree."""
    commit = _commit(root)
    tree = folder / TAG
    tree.mkdir(parents=True)
    packed = _git(root, "archive", "--format=tar", commit, stdout=True)
    subprocess.run(["tar", "-x", "-C", str(tree)], input=packed.stdout, check=True)
    return Version(TAG, tree, _python(tree))


def of_a_later_level(folder: Path) -> Version:
    """Copy the working tree, with a feature level above its own: it changes nothing but that."""
    tree = folder / "later"
    for package in PROGRAM:
        shutil.copytree(
            ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    path = tree / LEVEL_FILE
    text, changed = _LEVEL.subn(lambda m: f"LEVEL: Final = {int(m[1]) + 1}", path.read_text())
    assert changed == 1, f"{path} names no level"
    path.write_text(text)
    return Version("a later level", tree, sys.executable)


def _commit(root: Path) -> str:
    """Return the released commit: by its tag, else by its id."""
    if shutil.which("git") is None:
        raise NoTree("there is no git, and the released version is taken from the history")
    for name in (TAG, COMMIT):
        found = _git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", stdout=True)
        if found.returncode == 0 and _git(root, "cat-file", "-e", name).returncode == 0:
            return found.stdout.decode().strip()
    if _git(root, "rev-parse", "--git-dir").returncode:
        raise NoTree(f"{root} is no clone of the repository: the tree of {TAG} is in its history")
    shallow = _git(root, "rev-parse", "--is-shallow-repository", stdout=True).stdout.strip()
    why = "a shallow clone lacks it: git fetch --unshallow --tags" if shallow == b"true" else (
        "it is not in this clone: git fetch --tags"
    )  # fmt: skip
    raise NoTree(f"{TAG} ({COMMIT[:7]}) cannot be taken from the history; {why}")


def _git(root: Path, *words: str, stdout: bool = False) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["git", "-C", str(root), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if stdout else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )


def _python(tree: Path) -> str:
    """Return a Python that has exactly what the tree pins: this one, or one that is made."""
    pins = dict(_PIN.findall((tree / "requirements-run.lock").read_text()))
    if all(_installed(name) == version for name, version in pins.items()):
        return sys.executable
    made = [str(tree / ".ci/venv"), ".venv", "requirements-run.lock"]
    subprocess.run(made, cwd=tree, check=True, stdin=subprocess.DEVNULL)
    return str(tree / ".venv/bin/python")


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
