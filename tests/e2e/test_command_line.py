"""Every example of the help pages on a real cluster, as a person types it and with --json, whose
documents are held to docs/command-line.md.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

import msgspec
import pytest
from typer.testing import CliRunner

from acordo._cli import main as cli
from acordo._cli.examples import EXAMPLES, Example
from acordo._cli.shell import app, hoisted
from cluster.local.process import ROOT
from tests.e2e.conftest import Start

assert cli.PANELS  # importing it registers the commands

PAGE: Final = (ROOT / "docs" / "command-line.md").read_text()
ROW: Final = re.compile(r"^\| `([a-z -]+)` \| (.+) \|$", re.MULTILINE)
MORE: Final = "and all else"
"""In a row of the page: there are other names too."""
ELSEWHERE: Final = {"dev", "kill", "mirror", "top"}
"""Commands whose examples other tests run: test_installed, test_top, test_mirror, and the end of
this one.
"""
TYPED: Final = {name: each for name, each in EXAMPLES.items() if name not in ELSEWHERE}
NONE_HERE: Final = {"dead list", "dead replay", "adopt", "restore", "lock", "elect"}
"""Commands that have nothing to show of a new cluster, or are refused by it."""


class Form:
    """The names that a document has, and those that it may have."""

    def __init__(self, cell: str) -> None:
        named, self.open, _ = cell.partition(MORE)
        names = re.findall(r"`(\w+)`(\??)", named)
        self.must = {name for name, may in names if not may}
        self.may = {name for name, may in names if may}

    def fits(self, document: dict[str, object]) -> bool:
        given = set(document)
        return self.must <= given and (bool(self.open) or given <= self.must | self.may)


def documented() -> dict[str, list[Form]]:
    """Command → its documents."""
    forms: dict[str, list[Form]] = {}
    for command, cell in ROW.findall(PAGE.partition("## JSON")[2]):
        forms[command] = [Form(each) for each in cell.split(" or ")]
    return forms


class Ran:
    def __init__(self, line: str, code: int, out: bytes, err: str) -> None:
        self.line, self.code, self.out, self.err = line, code, out, err

    def __repr__(self) -> str:
        return f"{self.line}: {self.code}\n{self.out.decode()}\n{self.err}"


class Person:
    """Somebody who types the examples, and puts for ID the newest token's."""

    def __init__(self, urls: str) -> None:
        self.runner = CliRunner(env={"ACORDO_URLS": urls, "TERM": "dumb"})
        self.token_id = ""

    async def type(self, line: str, *more: str) -> Ran:
        words = shlex.split(line)
        assert words.pop(0) == "acordo"
        words = [self.token_id if word == "ID" else word for word in words]
        at = words.index("--") if "--" in words else len(words)
        words[at:at] = more
        result = await asyncio.to_thread(self.runner.invoke, app, hoisted(words))
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        if line.startswith("acordo token create ada") and "--json" not in more:
            Path("ada.token").write_bytes(result.stdout_bytes)
        ids = re.findall(rb'^(?:\{"id":")?([0-9a-f]{12})', result.stdout_bytes, re.MULTILINE)
        if line == "acordo token list":
            self.token_id = ids[-1].decode()
        return Ran(line, result.exit_code, result.stdout_bytes, result.stderr)


@pytest.mark.timeout(300)
async def test_every_example_does_what_it_says(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("app.json").write_text("{}")
    async with start() as cluster:
        person = Person(" ".join(node.url for node in cluster.nodes.values()))
        for command, examples in TYPED.items():
            for each in examples:
                ran = await person.type(each.line)
                assert ran.code == each.code, (command, ran)
        for left in ("stock/7", "log/1"):
            await person.type(f"acordo delete {left}")
        shutil.rmtree("clients")
        Path("stock.position").unlink()
        forms = documented()
        assert set(forms) == {*TYPED, "kill", "mirror", "top"}
        for command, examples in TYPED.items():
            seen = 0
            for each in examples:
                typed = max(
                    (name for name in forms if f"{each.line} ".startswith(f"acordo {name} ")),
                    key=len,
                )  # an example may show another command first
                count = check_json(await as_json(person, each), forms[typed])
                seen += count if typed == command else 0
            assert seen or command in NONE_HERE, command
        (killing,) = EXAMPLES["kill"]  # last, because others would wait for a new leader
        led = await cluster.leader()
        killed = await type_in_shell(killing.line, "--json")
        assert Form("`member` `pid` `led`").fits(killed), killed
        assert (killed["member"], killed["led"]) == (led, True)


async def type_in_shell(line: str, *more: str) -> dict[str, object]:
    """Run a command whose output is another process's."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *shlex.split(line), *more), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    found = msgspec.json.decode(out)
    assert isinstance(found, dict)
    return found


async def as_json(person: Person, example: Example) -> Ran:
    line = example.line.replace("n4", "n5")  # a member that was removed cannot come back
    return await person.type(line, *([] if "--json" in line else ["--json"]))


def check_json(ran: Ran, forms: list[Form]) -> int:
    """Assert that what was printed is as documented; return how many documents there were."""
    count = 0
    for line in ran.out.splitlines():
        document = msgspec.json.decode(line)
        documents = document if isinstance(document, list) else [document]
        for each in documents:
            assert any(form.fits(each) for form in forms), (each, ran)
            count += 1
    if ran.code in (2, 3, 4, 5, 6):
        told = msgspec.json.decode(ran.err.splitlines()[-1])
        assert {"error", "detail", "code", "maybe_applied", "advice", "exit_code"} <= set(told), ran
        assert told["exit_code"] == ran.code
    return count
