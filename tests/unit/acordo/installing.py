"""Build the wheel, and make interpreters that have what an extra of it brings and nothing else.

Nothing is asked of a package index: the wheel is built with what is installed, and each dependency
that its metadata names is lent, file by file, from the locked environment.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
PACKAGES = ("acordo", "kv", "backends", "coordinator", "node", "cluster")


def run(*argv: str, cwd: Path) -> str:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_source(to: Path) -> Path:
    """Copy what the package is built from: building leaves files behind."""
    to.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, to)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
    return to


def build_wheel(directory: Path) -> Path:
    source = copy_source(directory / "source")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "-w", str(directory))
    run(*PIP, "wheel", *options, ".", cwd=source)
    shutil.rmtree(source)
    return next(directory.glob("acordo-*.whl"))


def make_python(directory: Path) -> Path:
    """Make a fresh interpreter without any package."""
    run(sys.executable, "-m", "venv", "--without-pip", str(directory), cwd=directory.parent)
    return directory / "bin" / "python"


def install(wheel: Path, python: Path, *extras: str) -> None:
    """Install the wheel, and lend it what it and its extras require."""
    options = ("--no-deps", "--no-index", "--no-compile", str(wheel))
    run(*PIP, "--python", str(python), "install", *options, cwd=wheel.parent)
    site = site_packages(python)
    (made,) = (Distribution.at(path) for path in site.glob("acordo-*.dist-info"))
    lent = set[str]()
    _lend(made, site, set(extras), lent)
    run(*PIP, "--python", str(python), "check", cwd=wheel.parent)


def lend(name: str, python: Path) -> None:
    """Lend an interpreter another distribution, with what it requires."""
    site = site_packages(python)
    _place(distribution(name), site)
    _lend(distribution(name), site, set(), set())


def site_packages(python: Path) -> Path:
    return next((python.parents[1] / "lib").glob("python3*")) / "site-packages"


def _lend(dist: Distribution, site: Path, extras: set[str], lent: set[str]) -> None:
    for text in dist.requires or ():
        asked = Requirement(text)
        if asked.marker and not any(asked.marker.evaluate({"extra": e}) for e in (*extras, "")):
            continue
        if asked.name == "acordo":
            _lend(dist, site, asked.extras, lent)
            continue
        key = f"{asked.name.lower()}[{','.join(sorted(asked.extras))}]"
        if key in lent:
            continue
        lent.add(key)
        found = distribution(asked.name)
        assert found.version in asked.specifier, (text, found.version)
        _place(found, site)
        _lend(found, site, set(asked.extras), lent)


def _place(dist: Distribution, site: Path) -> None:
    for file in dist.files or ():
        top = site / file.parts[0]
        if file.parts[0] != ".." and not top.exists():
            top.symlink_to(Path(str(dist.locate_file(file.parts[0]))))
