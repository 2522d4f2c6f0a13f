"""The command line and the watching client against a real cluster, also while its leader is
killed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from acordo import Change, Client, put
from cluster.local.process import ROOT
from cluster.local.runner import LocalCluster
from tests.e2e.conftest import Start, until


def urls(cluster: LocalCluster) -> list[str]:
    return [node.url for node in cluster.nodes.values()]


async def begin(cluster: LocalCluster, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "acordo", *arguments),
        cwd=ROOT,
        env={**os.environ, "ACORDO_URLS": " ".join(urls(cluster))},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def acordo(cluster: LocalCluster, *arguments: str, code: int = 0) -> bytes:
    process = await begin(cluster, *arguments)
    out, err = await process.communicate()
    assert process.returncode == code, (arguments, out, err)
    return out


async def json_of(cluster: LocalCluster, *arguments: str, code: int = 0) -> Any:
    return msgspec.json.decode(await acordo(cluster, *arguments, "--json", code=code))


@pytest.mark.timeout(400)
async def test_every_command(start: Start, tmp_path: Path) -> None:
    async with start() as cluster:
        assert await acordo(cluster, "put", "k", "v") == b"created at revision 1\n"
        assert await acordo(cluster, "get", "k") == b"v"
        assert await acordo(cluster, "cas", "k", "1", "w") == b"written at revision 2\n"
        await acordo(cluster, "cas", "k", "1", "x", code=1)
        await acordo(cluster, "put", "k", "x", "--if-absent", code=1)
        assert (await json_of(cluster, "get", "k", "--at-revision", "1"))["value"] == "v"
        assert (await json_of(cluster, "get", "k", "--level", "stale", "--max-age", "60"))[
            "value"
        ] == "w"
        done = await json_of(
            cluster, "txn", "--put", "a/1=x", "--put", "base64:/w=y", "--read", "k"
        )
        assert done["reads"][0]["value"] == "w"
        assert await acordo(cluster, "list", "a/", "-k") == b"a/1\n"
        assert (
            await acordo(cluster, "delete", "k")
            == f"deleted at revision {done['revision'] + 1}\n".encode()
        )
        await acordo(cluster, "delete", "k", code=1)
        await acordo(cluster, "get", "k", code=1)
        await acordo(cluster, "put", "k", "v", "--ttl=-1", code=2)
        written = await json_of(cluster, "put", "k", "v", "--op-id", "mine")
        assert (await json_of(cluster, "put", "k", "v", "--op-id", "mine"))["again"] is True
        await acordo(cluster, "put", "k", "another", "--op-id", "mine", code=2)
        assert (await json_of(cluster, "operation", "mine"))["revision"] == written["revision"]
        await acordo(cluster, "operation", "nobody's", code=4)
        assert (await json_of(cluster, "operation", "nobody's", "--settle"))["outcome"] == "expired"
        events = await acordo(cluster, "watch", "k", "--after", "0", "--count", "4", "--json")
        assert [msgspec.json.decode(line)["event"] for line in events.splitlines()] == [
            "put",
            "put",
            "delete",
            "put",
        ]
        now = await json_of(cluster, "transfer", "n2")
        assert now["leader"] == (await json_of(cluster, "leader"))["id"] == "n2"
        assert len(await json_of(cluster, "members")) == 3
        assert b"n2 leads" in await acordo(cluster, "status")
        assert b"the chain holds" in await acordo(cluster, "ledger", "verify")
        await acordo(cluster, "dump", str(tmp_path / "out"))
        assert (tmp_path / "out").read_bytes().count(b"\n") == 3


async def test_a_load_cut_by_sigkill_goes_on_and_the_death_of_the_leader_does_not_stop_it(
    start: Start, tmp_path: Path
) -> None:
    """INV-2, INV-3: one version of every key, whoever died meanwhile."""
    path = tmp_path / "in.ndjson"
    large = "x" * 100_000
    path.write_bytes(
        b"".join(
            msgspec.json.encode({"key": f"k/{n:05}", "value": large if n % 500 == 3 else f"v{n}"})
            + b"\n"
            for n in range(12_000)
        )
    )
    async with start() as cluster, Client(urls(cluster)) as client:

        async def some_are_in(count: int) -> bool:
            return (await client.cluster()).settled >= count

        process = await begin(cluster, "load", str(path))
        await until(lambda: some_are_in(1000), "the load is under way")
        process.kill()
        await process.wait()
        assert (tmp_path / "in.ndjson.acordo-load").exists()
        seen = (await client.cluster()).settled
        process = await begin(cluster, "load", str(path))
        await until(lambda: some_are_in(seen + 1000), "it went on")
        leader = await cluster.leader()
        assert leader is not None
        cluster.kill(leader)
        out, err = await process.communicate()
        assert process.returncode == 0, (out, err)
        assert b"went on after line" in out
        dumped = await bulk_of(client)
        assert len(dumped) == 12_000
        assert all(value == (large if n % 500 == 3 else f"v{n}") for n, value in enumerate(dumped))
        changes = [event async for event in changes_of(client, 12_000)]
        assert len({change.key for change in changes}) == len(changes) == 12_000


async def bulk_of(client: Client) -> list[str]:
    return [found.text async for found in client.list("k/", timeout_s=30)]


async def changes_of(client: Client, count: int) -> Any:
    async for event in client.watch("k/", after=0):
        if isinstance(event, Change):
            yield event
            count -= 1
            if not count:
                return


async def test_a_watch_survives_the_death_of_its_node(start: Start) -> None:
    """In order, nothing twice, nothing left out, through two SIGKILLs of the node that feeds it."""
    async with (
        start() as cluster,
        Client(urls(cluster)) as client,
        Client(urls(cluster)) as watching,
    ):
        seen: list[Change] = []

        async def follow() -> None:
            async for event in watching.watch("w/", after=0):
                assert isinstance(event, Change)
                seen.append(event)
                if event.key == b"w/end":
                    return

        async with asyncio.TaskGroup() as group:
            task = group.create_task(follow())
            written: set[tuple[bytes, int]] = set()
            for n in range(60):
                done = await client.txn(writes=[put(f"w/{n % 7}", str(n)), put(f"w/{n}b", "x")])
                written |= {
                    (f"w/{n % 7}".encode(), done.revision),
                    (f"w/{n}b".encode(), done.revision),
                }
                if n in (20, 40):
                    await until(lambda: len(seen) > 10, "the watch is fed")
                    fed_by = list(cluster.nodes)[watching._caller.nodes._at]
                    cluster.kill(fed_by, signal.SIGKILL)
            end = await client.put("w/end", "")
            written.add((b"w/end", end.revision))
            await task
        assert [c.revision for c in seen] == sorted(c.revision for c in seen)
        assert len(seen) == len(written)
        assert {(c.key, c.revision) for c in seen} == written
