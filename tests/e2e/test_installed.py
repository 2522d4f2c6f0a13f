"""The wheel with its extra `server`, in an environment that has nothing else: the README's example
runs there, and Ctrl-C ends it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from acordo import Client
from cluster.ports import free_base_port, lasting_port
from tests.unit.acordo.installing import ROOT, install, lend, make_python, run, site_packages
from tests.unit.acordo.test_types import of_the_readme

BARE = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("ACORDO_", "PYTHON", "VIRTUAL_ENV"))
}


@pytest.fixture(scope="module")
def server_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has what `pip install "acordo[server]"` brings."""
    directory = tmp_path_factory.mktemp("server")
    python = make_python(directory / "venv")
    install(wheel, python, "server")
    return python


@contextmanager
def dev(python: Path, outside: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    temporary = outside / "tmp"
    temporary.mkdir()
    process = subprocess.Popen(
        [python.with_name("acordo"), "dev", "--port", str(port)],
        cwd=outside,
        env={**BARE, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 130, out
        assert "stopped" in out
        assert list(temporary.iterdir()) == []
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


async def test_the_readme_example_runs_on_a_node_of_the_wheel(
    server_python: Path, tmp_path: Path
) -> None:
    port = free_base_port(1, lasting_port())
    url = f"http://127.0.0.1:{port}"
    program = re.sub(r"\[\"http.*?\]", f'["{url}"]', of_the_readme()).replace(
        "event.revision)", "event.revision, flush=True)"
    )
    assert url in program
    (tmp_path / "program.py").write_text(f"{program}\nimport asyncio\nasyncio.run(main())\n")
    with dev(server_python, tmp_path, port):
        await answering(url)
        with subprocess.Popen(
            [server_python, "program.py"], cwd=tmp_path, env=BARE, stdout=subprocess.PIPE, text=True
        ) as ran:
            assert ran.stdout is not None
            line = ran.stdout.readline()
            ran.kill()
        assert "greeting" in line


async def answering(url: str) -> None:
    """Wait until a node leads. Raises an error after a minute."""
    async with Client(url, timeout_s=60) as client:
        await client.get("nothing")


SUITE = """
async def test_client(acordo, acordo_node, acordo_prefix):
    await acordo.put(acordo_prefix + "k", "v")
    assert (await acordo.get(acordo_prefix + "k")).text == "v"

def test_cluster(acordo_cluster):
    assert len(acordo_cluster.urls) == 3
"""


def test_the_pytest_fixtures_work_outside_the_repository(
    server_python: Path, tmp_path: Path
) -> None:
    lend("pytest", server_python)
    lend("pytest-asyncio", server_python)
    (tmp_path / "test_suite.py").write_text(SUITE)
    options = ("-q", "-o", "asyncio_mode=auto", "-p", "no:cacheprovider", "--rootdir", ".")
    command = [str(server_python), "-m", "pytest", *options, "test_suite.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env=BARE, capture_output=True, text=True, check=False
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_the_console_script_runs_nodes_and_the_runner(server_python: Path, tmp_path: Path) -> None:
    script = str(server_python.with_name("acordo-server"))
    assert "--data-dir" in run(script, "--help", cwd=tmp_path)
    assert "python -m cluster COMMAND" in run(script, "help", cwd=tmp_path)


def test_the_wheel_has_every_file_that_a_node_serves(server_python: Path) -> None:
    served, installed = ROOT / "node" / "page", site_packages(server_python) / "acordo" / "_server"
    there = {path.relative_to(ROOT) for path in served.rglob("*") if path.is_file()}
    assert Path("node/page/index.html") in there
    assert there == {
        path.relative_to(installed)
        for path in (installed / "node" / "page").rglob("*")
        if path.is_file()
    }


def test_the_extra_is_what_the_server_requires() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements.in").read_text().splitlines()
    required = {line.partition("#")[0].strip() for line in lines} - {""}
    assert {*project["optional-dependencies"]["server"]} - {"acordo[cli]"} == required
