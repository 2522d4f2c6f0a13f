"""Run the blocks of the guide's pages, in their order, against a local cluster.

A comment on the line before a block says what is special about it:

* `<!-- not run: REASON -->`: it cannot be run here. It is counted.
* `<!-- until: TEXT -->`: it does not end by itself; it is interrupted once it has printed TEXT.
* `<!-- output -->`: no program, but what the block before it prints, line by line; `…` stands for
  anything, and lines may be left out.
* `<!-- pytest -->`: tests, run by pytest.

Pages write http://127.0.0.1:8001 to :8003; the blocks are run with the ports that the cluster has.
Blocks of Python share their names, page by page, and may await.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from sybil import Document, Example, Region
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

ROOT: Final = Path(__file__).parents[2]
WAIT_S: Final = 60.0
PROGRAMS: Final = ("python", "sh")
_SAID: Final = re.compile(
    r"<!-- (not run|until|output|pytest)(?:: ((?:(?!-->).)+?))? -->\n[ \t]*\Z", re.DOTALL
)
_FENCES: Final = RawFencedCodeBlockLexer(re.compile(r"(?P<language>[^\n]*)\n"))


class Block:
    """A fenced block of a page: its language, its text, and what the comment before it says."""

    def __init__(self, example: Example) -> None:
        region, text = example.region, example.document.text
        self.line: int = example.line
        self.path = Path(example.path)
        self.language: str = region.lexemes["language"].strip()
        self.text = str(region.lexemes["source"])
        said = _SAID.search(text[: region.start])
        self.says, self.argument = (said[1], said[2] or "") if said else ("", "")

    @property
    def place(self) -> str:
        """Return where it stands."""
        return f"{self.path.relative_to(ROOT)}:{self.line}"

    @property
    def is_program(self) -> bool:
        """Return whether somebody who reads the page would run it."""
        return self.language in PROGRAMS and self.says != "output"


def blocks(path: Path) -> list[Block]:
    """Return the blocks of a page in their order."""

    def parse(document: Document) -> Iterator[Region]:
        yield from _FENCES(document)

    return [Block(example) for example in Document.parse(str(path), parse)]


class Cluster:
    """A local cluster in a process of its own, and a directory to run commands in as a reader
    would: with `.venv` and `data` in it.
    """

    def __init__(self, directory: Path, base_port: int) -> None:
        self.directory, self.base_port = directory, base_port
        self._log = directory / "up.log"
        (directory / ".venv").symlink_to(sys.prefix)
        (directory / "bin").mkdir()
        for name, module in (("acordo", "acordo"), ("acordo-server", "acordo._serving")):
            command = directory / "bin" / name
            command.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
            command.chmod(0o755)
        (directory / "docs").symlink_to(ROOT / "docs")
        self.env = {
            **os.environ,
            "ACORDO_URLS": ",".join(f"http://127.0.0.1:{base_port + n}" for n in range(3)),
            "PATH": os.pathsep.join((f"{directory}/bin", os.environ["PATH"])),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "100",
        }

    def __enter__(self) -> Cluster:
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "cluster", "up"),
                    *("--base-port", str(self.base_port), "--data", str(self.directory / "data")),
                ],
                cwd=ROOT, stdout=out, stderr=out, env={**self.env, "ACORDO_ETCD": "true"},
            )  # fmt: skip
        deadline = time.monotonic() + WAIT_S
        while "Ctrl-C" not in self._log.read_text():
            assert self._process.poll() is None and time.monotonic() < deadline, self.said()
            time.sleep(0.05)
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def said(self) -> str:
        """Return the end of what the runner printed."""
        return self._log.read_text()[-3000:]

    def here(self, text: str) -> str:
        """Return a page's text with the ports of this cluster."""
        return re.sub(r"127\.0\.0\.1:800(\d)", self._port, text)

    def _port(self, found: re.Match[str]) -> str:
        return f"127.0.0.1:{self.base_port + int(found[1]) - 1}"

    def there(self, text: str) -> str:
        """Return what was printed with the ports of the pages."""
        for n in range(9):
            text = text.replace(f"127.0.0.1:{self.base_port + n}", f"127.0.0.1:{8001 + n}")
        return text


class Reader:
    """Somebody who follows one page: runs its blocks, and compares what they print."""

    def __init__(self, cluster: Cluster, names: dict[str, Any] | None = None) -> None:
        self.cluster = cluster
        self.names: dict[str, Any] = {"__name__": "guide"} if names is None else names
        self.printed = ""
        self._loop = asyncio.Runner()

    def __enter__(self) -> Reader:
        self._loop.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.close()

    def follow(self, block: Block) -> None:
        """Run a block, or compare it with what was printed. Raises AssertionError with its place
        and what was printed where it fails.
        """
        if block.says == "output":
            assert not (lacks := missing(block.text, self.printed)), (
                f"{block.place}: not printed: {lacks!r}; but:\n{self.printed}"
            )
        elif block.is_program and block.says != "not run":
            run: Callable[[Block], None] = {"python": self._python, "sh": self._shell}[
                block.language
            ]
            run(block)
            self.printed = self.cluster.there(self.printed)

    def _shell(self, block: Block) -> None:
        script = self.cluster.here(block.text)
        self._process(block, ["bash", "-euo", "pipefail", "-c", script])

    def _process(self, block: Block, command: list[str]) -> None:
        out = self.cluster.directory / "printed.txt"
        with out.open("wb") as file:
            process = subprocess.Popen(
                command, cwd=self.cluster.directory, env=self.cluster.env,
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip
            deadline = time.monotonic() + WAIT_S
            interrupted = False
            try:
                while process.poll() is None:
                    assert time.monotonic() < deadline, (
                        f"{block.place}: too long\n{out.read_text()}"
                    )
                    if block.says == "until" and block.argument in out.read_text():
                        os.killpg(process.pid, signal.SIGINT)
                        interrupted = True
                        process.wait(WAIT_S)
                    time.sleep(0.02)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        self.printed = out.read_text()
        ended_well = process.returncode == 0 or interrupted
        assert ended_well, f"{block.place}: exit code {process.returncode}\n{self.printed}"
        assert interrupted or block.says != "until", f"{block.place}: it ended by itself"

    def _python(self, block: Block) -> None:
        text = self.cluster.here(block.text)
        if block.says == "pytest":
            test = self.cluster.directory / "test_block.py"
            test.write_text(text)
            settings = ["-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto"]
            self._process(block, [sys.executable, "-m", "pytest", *settings, str(test)])
            return
        code = compile(
            "\n" * block.line + text, str(block.path), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        )
        out = io.StringIO()
        try:
            with contextlib.redirect_stdout(out), self._as_a_reader():
                if code.co_flags & inspect.CO_COROUTINE:
                    self._loop.run(self._awaited(code, block, out))
                else:
                    exec(code, self.names)  # noqa: S102 - a page's block is what is run here
        except Exception as exc:
            raise AssertionError(f"{block.place}: {exc!r}\n{out.getvalue()}") from exc
        finally:
            self.printed = out.getvalue()

    async def _awaited(self, code: Any, block: Block, out: io.StringIO) -> None:
        task = asyncio.ensure_future(eval(code, self.names))
        async with asyncio.timeout(WAIT_S):
            while block.says == "until" and block.argument not in out.getvalue():
                assert not task.done(), "it ended by itself"
                await asyncio.sleep(0.02)
            if block.says == "until":
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            else:
                await task

    @contextlib.contextmanager
    def _as_a_reader(self) -> Iterator[None]:
        given = {name: os.environ.get(name) for name in ("ACORDO_URLS", "PATH", "PYTHONPATH")}
        os.environ.update({name: self.cluster.env[name] for name in given})
        try:
            with contextlib.chdir(self.cluster.directory):
                yield
        finally:
            for name, value in given.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def missing(wanted: str, printed: str) -> str | None:
    """Return the first line of `wanted` that was not printed behind those before it; None: all
    were.
    """
    lines = iter([" ".join(line.split()) for line in printed.splitlines()])
    for line in filter(None, (" ".join(each.split()) for each in wanted.splitlines())):
        pattern = ".*".join(re.escape(part) for part in line.split("…"))
        if line != "…" and not any(re.fullmatch(pattern, each) for each in lines):
            return line
    return None
