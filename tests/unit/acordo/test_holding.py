"""The commands that run another one: lock, elect and watch, against a node over fakes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from acordo import Client
from acordo._cli import holding
from acordo._cli.holding import Hold
from acordo.recipes import Election, Lock
from tests.unit.acordo.test_cli import Shell
from tests.unit.node.conftest import Api, opened


@pytest.fixture
async def node() -> AsyncIterator[Api]:
    async with opened() as made:
        yield made


@pytest.fixture
async def client(node: Api) -> AsyncIterator[Client]:
    async with Client(node.url) as made:
        yield made


@pytest.fixture
def acordo(node: Api) -> Shell:
    return Shell([node.url])


def script(tmp_path: Path, text: str) -> list[str]:
    """Return a command that runs a shell script in a directory."""
    return ["sh", "-c", f"cd {tmp_path}; {text}"]


async def until_there(path: Path, text: str = "") -> None:
    async with asyncio.timeout(60):
        while not path.exists() or text not in path.read_text():
            await asyncio.sleep(0.01)


async def test_a_command_runs_under_the_lock_and_its_exit_code_is_passed_on(
    acordo: Shell, client: Client, tmp_path: Path
) -> None:
    tokens = []
    for code in (0, 3):
        run = script(tmp_path, f"echo $ACORDO_LOCK $ACORDO_FENCING_TOKEN >out; exit {code}")
        assert (await acordo("lock", "jobs/a", "--", *run)).code == code
        name, token = (tmp_path / "out").read_text().split()
        assert name == "jobs/a"
        tokens.append(int(token))
        assert await client.count("jobs/a") == 0
        assert [each async for each in client.leases()] == []
    assert tokens[0] < tokens[1]
    assert (await acordo("lock", "jobs/a", "--", "sh", "-c", "kill -9 $$")).code == 137
    assert (await acordo("lock", "jobs/a", "--", str(tmp_path / "none"))).code == 127
    assert (await acordo("lock", "jobs/a", "--", str(tmp_path))).code == 126


async def test_a_lock_that_is_held_is_waited_for_as_long_as_it_is_told(
    acordo: Shell, client: Client, tmp_path: Path
) -> None:
    run = script(tmp_path, "echo $ACORDO_FENCING_TOKEN >out")
    async with Lock(client, "jobs/a", value="ada") as lock:
        ran = await acordo("lock", "jobs/a", "--wait", "0.2", "--", *run)
        assert (ran.code, (tmp_path / "out").exists()) == (1, False)
        assert "waiting for jobs/a: ada has it" in ran.err
        waiting = asyncio.create_task(acordo("lock", "jobs/a", "--", *run))
        async with asyncio.timeout(60):
            while await client.count("jobs/a/") < 2:
                await asyncio.sleep(0.01)
        token = lock.token
    assert (await waiting).code == 0
    assert int((tmp_path / "out").read_text()) > token


async def test_a_node_that_is_silent_because_it_was_asked_to_is_not_waited_for(
    client: Client,
) -> None:
    """Else whoever waits for a lock is told after a second that no answer comes."""
    at = (await client.put("k", "v")).revision
    polling = asyncio.create_task(client.poll("k", after=at, wait_s=30))
    async with asyncio.timeout(60):
        while client.waiting is None:
            await asyncio.sleep(0)
    assert client.waiting[0] < 0
    await client.put("k", "w")
    assert [event.value for event in (await polling).events] == [b"w"]


async def test_two_never_hold_it_at_a_time(client: Client) -> None:
    seen: list[str] = []
    tokens: list[int] = []

    async def work(hold: Hold) -> int:
        seen.append("in")
        tokens.append(hold.token)
        await client.put("under/it", "x")
        seen.append("out")
        return hold.token

    more: dict[str, Any] = {"ttl_s": 30, "wait_s": None, "on_waiting": lambda holder: None}
    done = await asyncio.gather(
        *(holding.while_held(client, b"k", b"v", work, **more) for _ in range(5))
    )
    assert seen == ["in", "out"] * 5
    assert tokens == sorted(cast(list[int], done)) and len(set(tokens)) == 5


async def test_what_goes_wrong_under_a_lock_is_told_as_it_is(client: Client) -> None:
    """Such as a pipe that its reader has closed; a group of exceptions would be a traceback."""

    async def work(_: Hold) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        await holding.while_held(
            client, b"k", b"v", work, ttl_s=30, wait_s=None, on_waiting=lambda holder: None
        )
    assert await client.count("k") == 0


async def test_a_lock_that_is_lost_ends_the_command(
    acordo: Shell, client: Client, tmp_path: Path
) -> None:
    run = script(tmp_path, "trap 'echo told >>out; exit 0' TERM; echo in >out; sleep 60 & wait")
    running = asyncio.create_task(acordo("lock", "jobs/a", "--", *run))
    await until_there(tmp_path / "out", "in")
    (key,) = [each async for each in client.keys("jobs/a/")]
    await client.delete(key[0])
    ran = await running
    assert (ran.code, "its key was deleted" in ran.err) == (7, True)
    assert (tmp_path / "out").read_text() == "in\ntold\n"


async def test_who_is_elected_again_runs_the_command_again(
    acordo: Shell, client: Client, tmp_path: Path
) -> None:
    run = script(tmp_path, "echo $ACORDO_ELECTION >>out; test -e again && exit 4; exec sleep 60")
    running = asyncio.create_task(acordo("elect", "lead", "--value", "n1", "--", *run))
    await until_there(tmp_path / "out", "lead")
    found = await Election(client, "lead").leader()
    assert found is not None and found.text == "n1"
    (tmp_path / "again").touch()
    await client.revoke_lease(found.lease or "")
    assert (await running).code == 4
    assert (tmp_path / "out").read_text() == "lead\nlead\n"


async def test_what_is_sent_to_us_is_sent_to_the_command(
    node: Api, client: Client, tmp_path: Path
) -> None:
    """SIGTERM, as a supervisor stops us: the command must not go on without its lock."""
    run = script(tmp_path, "trap 'exit 5' TERM; echo in >out; sleep 60 & wait")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "acordo", "lock", "jobs/a", "--", *run),
        env={**os.environ, "ACORDO_URLS": node.url},
    )
    await until_there(tmp_path / "out", "in")
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 5
    assert await client.count("jobs/a") == 0


async def test_a_watch_ends_when_it_is_told_to_also_if_its_command_makes_nothing_of_it(
    node: Api, client: Client, tmp_path: Path
) -> None:
    """Else a supervisor's SIGTERM ends one command, and the next change starts another one."""
    await client.put("app/1", "v")
    await client.put("app/2", "v")
    run = script(tmp_path, "trap 'exit 0' TERM; echo in >>out; sleep 60 & wait")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "acordo", "watch", "app/", "--after", "0", "--keep-going"),
        *("--", *run),
        env={**os.environ, "ACORDO_URLS": node.url},
    )
    await until_there(tmp_path / "out", "in")
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(60):
        assert await process.wait() == 128 + signal.SIGTERM
    assert (tmp_path / "out").read_text() == "in\n"


async def test_who_was_told_to_end_does_not_stand_for_election_again(
    node: Api, client: Client, tmp_path: Path
) -> None:
    goes_on = "trap 'echo told >>out' TERM; echo in >>out; while :; do sleep 0.1; done"
    run = script(tmp_path, goes_on)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "acordo", "elect", "lead", "--ttl", "5", "--", *run),
        env={**os.environ, "ACORDO_URLS": node.url},
    )
    await until_there(tmp_path / "out", "in")
    process.send_signal(signal.SIGTERM)
    await until_there(tmp_path / "out", "told")
    found = await Election(client, "lead").leader()
    assert found is not None
    await client.revoke_lease(found.lease or "")
    async with asyncio.timeout(60):
        assert await process.wait() == 128 + signal.SIGTERM
    assert (tmp_path / "out").read_text().count("in") == 1


async def test_a_lease_that_ended_ends_the_command(
    acordo: Shell, client: Client, tmp_path: Path
) -> None:
    run = script(tmp_path, "echo $ACORDO_LEASE >out; exec sleep 60")
    running = asyncio.create_task(acordo("lock", "jobs/a", "--", *run))
    await until_there(tmp_path / "out", "\n")
    await client.revoke_lease((tmp_path / "out").read_text().strip())
    ran = await running
    assert (ran.code, "jobs/a is lost" in ran.err) == (7, True)


async def test_a_program_and_a_script_exclude_each_other(
    acordo: Shell, client: Client, tmp_path: Path
) -> None:
    async with Lock(client, "jobs/a", value="a program") as lock:
        ran = await acordo("lock", "jobs/a", "--wait", "0", "--", *script(tmp_path, "touch out"))
        assert (ran.code, "a program has it" in ran.err) == (1, True)
        token = lock.token
    run = script(tmp_path, "echo $ACORDO_FENCING_TOKEN >out")
    assert (await acordo("lock", "jobs/a", "--wait", "0", "--", *run)).code == 0
    assert int((tmp_path / "out").read_text()) > token


async def test_a_command_for_each_change_goes_on_where_it_was(
    acordo: Shell, client: Client, tmp_path: Path
) -> None:
    for n in range(3):
        await client.put(f"app/{n}", f"v{n}")
    state = ["--state", str(tmp_path / "position")]
    fails = script(
        tmp_path, '{ printf "$ACORDO_EVENT $ACORDO_KEY "; cat; echo; } >>out; test -e fixed'
    )
    watch = ["watch", "app/", "--after", "0", *state]
    stopped = await acordo(*watch, "--", *fails)
    assert stopped.code == 1
    (tmp_path / "fixed").touch()
    done = await acordo(*watch, "--count", "3", "--", *fails)
    assert done.code == 0
    await client.delete("app/1")
    assert (await acordo(*watch, "--count", "1", "--", *fails)).code == 0
    assert (tmp_path / "out").read_text().splitlines() == [
        "put app/0 v0",  # it failed, and is seen again
        "put app/0 v0",
        "put app/1 v1",
        "put app/2 v2",
        "delete app/1 ",
    ]


async def test_a_command_is_told_of_one_key_alone_if_that_is_asked(
    acordo: Shell, client: Client, tmp_path: Path
) -> None:
    for key in ("app", "app/1", "app"):
        await client.put(key, os.urandom(20))
    run = script(tmp_path, "echo $ACORDO_KEY $ACORDO_REVISION >>out; false")
    watch = ["watch", "app", "--exact", "--after", "0", "--count", "2", "--keep-going"]
    assert (await acordo(*watch, "--", *run)).code == 0
    assert (tmp_path / "out").read_text() == "app 1\napp 3\n"
    (tmp_path / "bad").write_text("no\nposition")
    refused = await acordo("watch", "--state", str(tmp_path / "bad"))
    assert (refused.code, "holds no position" in refused.err) == (2, True)
