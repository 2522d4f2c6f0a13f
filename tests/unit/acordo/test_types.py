"""What is installed carries its types: the example that the package shows is checked against its
wheel, from outside.

Nothing is asked of a package index: the wheel is built with what is installed, and its dependencies
are lent.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest

import acordo

ROOT = Path(__file__).parents[3]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")


def run(*argv: str, cwd: Path) -> str:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of what the package is built from: building leaves files behind."""
    made = tmp_path / "source"
    made.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, made)
    shutil.copytree(ROOT / "acordo", made / "acordo", ignore=shutil.ignore_patterns("__pycache__"))
    return made


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A fresh interpreter that has the locked dependencies, and no acordo."""
    run(sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv"), cwd=tmp_path)
    packages = next((tmp_path / "venv" / "lib").glob("python3*")) / "site-packages"
    # its own .pth files do not count there
    (packages / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return tmp_path / "venv" / "bin" / "python"


def example() -> str:
    """The example of the package's docstring, as a program."""
    assert acordo.__doc__ is not None
    lines = (
        textwrap.dedent("\n".join(re.findall(r"^(    .*|)$", acordo.__doc__, re.MULTILINE)))
        .strip()
        .splitlines()
    )
    imports = [line for line in lines if line.startswith("from ")]
    body = textwrap.indent("\n".join(line for line in lines if line not in imports), "    ")
    return "\n".join([*imports, "", "", "async def main() -> None:", body, ""])


def checked(program: str, python: Path, outside: Path) -> str:
    """Return what mypy says of a program that lies outside the repository."""
    outside.mkdir(exist_ok=True)
    (outside / "program.py").write_text(program)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--python-executable",
        str(python),
        "program.py",
    ]
    done = subprocess.run(command, cwd=outside, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_the_example_is_typed_in_the_wheel(source: Path, python: Path, tmp_path: Path) -> None:
    run(
        *PIP,
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(tmp_path),
        ".",
        cwd=source,
    )
    wheel = next(tmp_path.glob("acordo-*.whl"))
    run(
        *PIP,
        "--python",
        str(python),
        "install",
        "--no-deps",
        "--no-index",
        str(wheel),
        cwd=tmp_path,
    )
    shutil.rmtree(source)
    program = example()
    assert "client.watch" in program
    assert (
        checked(program, python, tmp_path / "outside")
        == "Success: no issues found in 1 source file\n"
    )
    wrong = program.replace('"hello"', "5")
    # and it is really looked at
    assert 'incompatible type "int"' in checked(wrong, python, tmp_path / "outside")
    assert run(str(python), "-m", "acordo", "--version", cwd=tmp_path).startswith("acordo 0.")


@pytest.mark.timeout(300)
def test_the_editable_install_is_found_outside_the_repository(
    source: Path, python: Path, tmp_path: Path
) -> None:
    """Installed as the Makefile does it."""
    command = next(
        line for line in (ROOT / "Makefile").read_text().splitlines() if "pip install" in line
    )
    options = shlex.split(command.partition("pip install")[2])
    run(*PIP, "--python", str(python), "install", "--no-index", *options, cwd=source)
    assert (
        checked(example(), python, tmp_path / "outside")
        == "Success: no issues found in 1 source file\n"
    )


def test_it_runs_from_its_source_tree_as_in_the_image(source: Path, python: Path) -> None:
    """The image has the packages' directories and the locked dependencies, and nothing
    installed.
    """
    assert "COPY acordo acordo" in (ROOT / "Dockerfile").read_text()
    locked = (ROOT / "requirements-run.lock").read_text()
    assert all(f"\n{name}==" in locked for name in ("aiohttp", "msgspec", "typer", "rich"))
    (source / "pyproject.toml").unlink()
    assert run(str(python), "-m", "acordo", "--version", cwd=source).startswith("acordo")
