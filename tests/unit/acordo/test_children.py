"""Listing by separator, through the client and the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from typer.testing import CliRunner

from acordo import Child, Client
from acordo._cli import main as cli
from acordo._cli.shell import app, hoisted
from tests.unit.node.conftest import Api, opened

assert cli.COMMANDS  # importing it registers the commands


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with opened(kind="replicated") as made:
        yield made


async def test_children_of_a_prefix(api: Api) -> None:
    async with Client(api.url) as client:
        for key in ("a", "a/1", "a/2", "b", b"\xff/x"):
            await client.put(key, "v")
        past = (await client.put("c/d/e", "v")).revision
        await client.put("z", "later")
        for limit in (1, 1000):
            found = [each async for each in client.children(limit=limit)]
            assert [(each.name, each.is_folder) for each in found] == [
                (b"a", False), (b"a/", True), (b"b", False), (b"c/", True), (b"z", False),
                (b"\xff/", True),
            ]  # fmt: skip
        names = [each.name async for each in client.children("c/", revision=past)]
        assert names == [b"c/d/"]
        colons = [each async for each in client.children("a", separator="/")]
        assert colons == [Child(name=b"a", revision=1), Child(name=b"a/", revision=None)]


async def test_the_command_lists_by_separator(api: Api) -> None:
    async with Client(api.url) as client:
        await client.put("a/1", "v")
        at = (await client.put(b"b\xff", "v")).revision
    shown = await run(api, "list", "--separator", "/")
    assert shown == (0, "a/\nbase64:Yv8=\n")
    code, out = await run(api, "--json", "list", "--separator", "/")
    assert (code, [json.loads(line) for line in out.splitlines()]) == (
        0,
        [{"prefix": "a/"}, {"key": {"base64": "Yv8="}, "revision": at}],
    )
    assert (await run(api, "list", "--separator", "/", "--limit", "1"))[1] == "a/\n"
    assert (await run(api, "list", "--separator", "/", "--count"))[0] == 2


async def run(api: Api, *arguments: str) -> tuple[int, str]:
    runner = CliRunner(env={"ACORDO_URLS": api.url, "TERM": "dumb"})
    result = await asyncio.to_thread(runner.invoke, app, hoisted(arguments))
    return result.exit_code, result.stdout
