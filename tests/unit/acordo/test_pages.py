"""The help pages, the options that every command takes, and completion."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import subprocess
import sys
from typing import Any, Final

import pytest
import typer
from rich.markup import escape
from typer.core import TyperGroup
from typer.testing import CliRunner

from acordo import Client, client_tls
from acordo._cli import main as cli
from acordo._cli.examples import EXAMPLES
from acordo._cli.shell import GlobalOptions, app, hoisted
from acordo._tokens import client_token
from tests.unit.acordo.fake_cluster import FakeCluster

CALLBACKS: Final = {"members"}
"""Groups that do something without a command of theirs."""


def pages() -> dict[str, str]:
    """Command → what its page says below its options."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    found = {}
    for name, command in group.commands.items():
        inner = getattr(command, "commands", {})
        if not inner:
            found[name] = command.epilog or ""
        found |= {f"{name} {each}": below.epilog or "" for each, below in inner.items()}
    return found


def test_every_command_has_examples_on_its_page() -> None:
    found = pages()
    assert set(EXAMPLES) - CALLBACKS == set(found)
    for command in found:
        lines = [each.line for each in EXAMPLES[command]]
        assert all(escape(line) in found[command] for line in lines), command
        assert any(line.startswith(f"acordo {command}") for line in lines), command
    said = CliRunner(env={"COLUMNS": "100", "TERM": "dumb"}).invoke(app, ["put", "--help"]).output
    assert "Examples # set a key acordo put greeting hello" in " ".join(said.split())


def test_the_commands_are_in_panels() -> None:
    said = CliRunner(env={"COLUMNS": "100", "TERM": "dumb"}).invoke(app, ["--help"]).output
    assert [panel for panel in cli.PANELS if f"─ {panel} ─" in said] == list(cli.PANELS)
    assert "─ Commands ─" not in said, "each command is in a panel"
    assert re.search(r"^│ put +Set a key\. +│$", said, re.MULTILINE)


OF_THE_CLIENT: Final = {
    "urls": "--url", "timeout_s": "--timeout", "attempt_timeout_s": "--attempt-timeout",
    "connect_timeout_s": "--connect-timeout", "retries": "--no-retry", "token": "--token",
    "level": "--level of reads", "op_ids": "--op-id of writes", "tls": "--ca, --cert, --cert-key",
    "spread": "`load` alone spreads", "connections_max": "a command needs few",
    "headers": "what a program adds of its own",
}  # fmt: skip
"""Parameters of the client → what stands for them on the command line."""


def test_the_options_are_those_of_the_client() -> None:
    said = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, ["--help"]).output
    own = set(re.findall(r"(--[a-z-]+)", said))
    parameters = set(inspect.signature(Client).parameters)
    assert parameters == set(OF_THE_CLIENT)
    needed = {each for each in OF_THE_CLIENT.values() if re.fullmatch(r"--[a-z-]+", each)}
    for made, named in ((client_tls, {}), (client_token, {"file": "--token-file"})):
        for name in inspect.signature(made).parameters:
            if name != "environ":
                needed.add(named.get(name) or f"--{name.replace('_', '-')}")
    assert needed <= own
    for each in needed:  # before the command and behind it
        assert hoisted(["get", each, "x"])[0] == each, each
    sources = inspect.getsource(client_tls) + inspect.getsource(client_token)
    variables = {*re.findall(r"ACORDO_[A-Z_]+", sources), "ACORDO_URLS"}
    assert variables == set(re.findall(r"ACORDO_[A-Z_]+", said))


def test_the_defaults_are_those_of_the_client() -> None:
    defaults = {name: each.default for name, each in inspect.signature(Client).parameters.items()}
    options = GlobalOptions(urls=(), as_json=False, timeout_s=1)
    for name in ("attempt_timeout_s", "connect_timeout_s", "retries"):
        assert getattr(options, name) == defaults[name], name


def completed(line: str, urls: list[str], shell: str) -> str:
    """Return what a shell is given when TAB is pressed at the end of the line."""
    words = line.split(" ")
    asked: dict[str, Any] = {
        "_ACORDO_COMPLETE": f"complete_{shell}",
        "ACORDO_URLS": " ".join(urls),
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    result = CliRunner(env=asked).invoke(app, [], prog_name="acordo")
    return result.output.strip()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_keys_and_members_are_completed(shell: str) -> None:
    async with FakeCluster(2) as cluster, Client(cluster.urls) as client:
        for key in ("app/a", "app/b/1", "app/b/2", "apple", "zoo"):
            await client.put(key, "x")

        async def press(line: str) -> set[str]:
            said = await asyncio.to_thread(completed, line, cluster.urls, shell)
            return set(re.findall(r"[\w/-]+", said.replace("_arguments", "")))

        assert await press("acordo get ap") == {"app/", "apple"}
        assert await press("acordo delete app/") == {"app/a", "app/b/"}
        assert await press("acordo watch z") == {"zoo"}
        assert await press("acordo txn --read app/b") == {"app/b/"}
        assert await press("acordo transfer n") == {"n1", "n2"}
        assert await press("acordo get k --level st") == {"stale"}
        assert "promote" in await press("acordo members p")


def test_completion_is_empty_where_no_node_answers() -> None:
    assert completed("acordo get ap", ["http://127.0.0.1:1"], "bash") == ""


def test_a_shell_is_given_a_script() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "acordo", "--show-completion", "bash"],
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "_ACORDO_COMPLETE=complete_bash" in ran.stdout
