"""What is installed carries its types: the examples of the README and of the package are checked
against its wheel, from outside, where only the client's own dependencies are.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import acordo
from tests.unit.acordo.installing import (
    PIP,
    ROOT,
    copy_source,
    install,
    make_python,
    run,
    site_packages,
)

GOOD = "Success: no issues found in 1 source file\n"


@pytest.fixture(scope="module")
def client_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has what `pip install acordo` brings."""
    directory = tmp_path_factory.mktemp("client")
    python = make_python(directory / "venv")
    install(wheel, python)
    return python


def as_program(text: str) -> str:
    """Return an example as a program: `async with` stands in a function."""
    lines = textwrap.dedent(text).strip().splitlines()
    imports = [line for line in lines if line.startswith(("from ", "import "))]
    body = textwrap.indent("\n".join(line for line in lines if line not in imports), "    ")
    return "\n".join([*imports, "", "", "async def main() -> None:", body, ""])


def of_the_package() -> str:
    assert acordo.__doc__ is not None
    text = "\n".join(re.findall(r"^(    .*|)$", acordo.__doc__, re.MULTILINE))
    return as_program(text)


def of_the_readme() -> str:
    (first, *_) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return as_program(first)


def checked(program: str, python: Path, outside: Path) -> str:
    """Return what mypy says of a program that lies outside the repository."""
    outside.mkdir(exist_ok=True)
    (outside / "program.py").write_text(program)
    options = ("--strict", "--python-executable", str(python), "program.py")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options],
        cwd=outside,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_the_examples_are_typed_in_the_wheel(client_python: Path, tmp_path: Path) -> None:
    readme, package = of_the_readme(), of_the_package()
    assert "client.watch" in package
    assert checked(readme, client_python, tmp_path / "outside") == GOOD
    assert checked(package, client_python, tmp_path / "outside") == GOOD
    wrong = package.replace('"hello"', "5")
    # and it is really looked at
    assert 'incompatible type "int"' in checked(wrong, client_python, tmp_path / "outside")


@pytest.mark.timeout(300)
def test_the_client_comes_alone(client_python: Path, tmp_path: Path) -> None:
    there = {path.name for path in site_packages(client_python).iterdir()}
    assert {"aiohttp", "msgspec", "acordo"} <= there
    # nor does anything of the server's take a name of everybody's
    assert not {"typer", "rich", "redis", "kv", "node", "cluster"} & there
    program = "from acordo import Client; print(Client.put.__name__)"
    assert run(str(client_python), "-c", program, cwd=tmp_path) == "put\n"
    program = "import acordo.settings"
    done = subprocess.run(
        [client_python, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert 'pip install "acordo[settings]"' in done.stderr


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("command", "extra"), [("acordo", "cli"), ("acordo-server", "server")])
def test_a_missing_extra_is_said_by_name(
    client_python: Path, tmp_path: Path, command: str, extra: str
) -> None:
    done = subprocess.run(
        [client_python.with_name(command), "status"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78
    assert f'pip install "acordo[{extra}]"' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.timeout(300)
def test_the_editable_install_is_found_outside_the_repository(tmp_path: Path) -> None:
    """Installed as the Makefile does it."""
    command = next(
        line for line in (ROOT / "Makefile").read_text().splitlines() if "pip install" in line
    )
    options = shlex.split(command.partition("pip install")[2])
    source, python = copy_source(tmp_path / "source"), make_python(tmp_path / "venv")
    lent = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    # its own .pth files do not count there
    (site_packages(python) / "lent.pth").write_text(run(sys.executable, "-c", lent, cwd=tmp_path))
    run(*PIP, "--python", str(python), "install", "--no-index", *options, cwd=source)
    assert checked(of_the_package(), python, tmp_path / "outside") == GOOD


def test_it_runs_from_its_source_tree_as_in_the_image(tmp_path: Path) -> None:
    """The image has the packages' directories and the locked dependencies, and nothing
    installed.
    """
    assert "COPY acordo acordo" in (ROOT / "Dockerfile").read_text()
    locked = (ROOT / "requirements-run.lock").read_text()
    assert all(f"\n{name}==" in locked for name in ("aiohttp", "msgspec", "typer", "rich"))
    source, python = copy_source(tmp_path / "source"), make_python(tmp_path / "venv")
    lent = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    (site_packages(python) / "lent.pth").write_text(run(sys.executable, "-c", lent, cwd=tmp_path))
    (source / "pyproject.toml").unlink()
    assert run(str(python), "-m", "acordo", "--version", cwd=source).startswith("acordo")
