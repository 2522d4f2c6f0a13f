"""Asynchronous writes through a real broker and real workers: nothing accepted is lost, nothing is
applied twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

import aiohttp
import aiormq
import msgspec
import pytest
from typer.testing import CliRunner

from acordo import Client, absent, put
from acordo._cli.shell import app, hoisted
from backends.rabbitmq.async_writes import Queues, command, declare, publish
from cluster.services.rabbitmq import RabbitServer
from tests.integration.backends.conftest import started, until, worker
from tests.services import needs


async def asked(*arguments: str) -> list[dict[str, object]]:
    from acordo._cli import main as cli

    assert cli.COMMANDS
    result = await asyncio.to_thread(CliRunner().invoke, app, hoisted(["--json", *arguments]))
    assert result.exit_code == 0, result.output
    return [
        msgspec.json.decode(line) for line in result.stdout.splitlines() if line.startswith("{")
    ]


@pytest.mark.timeout(240)
async def test_accepted_writes_are_applied_once_through_deaths_of_worker_and_broker(
    tmp_path: Path,
) -> None:
    """Workers die with commands in hand, the broker restarts: every 202 is applied exactly once,
    poison is buried.
    """
    needs("rabbitmq")
    with RabbitServer() as broker:
        async with started(tmp_path, nodes=3, broadcast=broker.url) as cluster:
            urls = [node.url for node in cluster.nodes.values()]
            settings = {"urls": ",".join(urls), "broadcast": broker.url}
            async with Client(urls, timeout_s=30) as client:
                accepted = []
                for n in range(40):
                    done = await client.submit_async(
                        writes=[put(f"a/{n}", str(n))], op_id=f"job-{n}"
                    )
                    assert done.op_id == f"job-{n}"  # never changed on the way
                    accepted.append(done.op_id)
                # and not cancelled
                assert (await client.operation(accepted[0])).code == "not_ordered"
                async with worker(tmp_path, "w1", settings) as first:
                    await until(lambda: _applied(client, accepted[:1]), "the first is applied")
                    first.send_signal(signal.SIGKILL)
                for n in range(40, 60):
                    accepted.append(
                        (await client.submit_async(writes=[put(f"a/{n}", str(n))])).op_id
                    )
                broker.kill()
                form = {"writes": [{"put": "x", "value": "1"}]}
                async with aiohttp.ClientSession() as http:
                    async with http.post(urls[0] + "/v1/async", json=form) as reply:
                        problem = await reply.json()
                        # the first after the death may have been under way; then it is plainly
                        # unavailable
                        assert reply.status in (503, 504), problem
                    async with http.post(urls[0] + "/v1/async", json=form) as reply:
                        assert (reply.status, (await reply.json())["outcome"]) == (
                            503,
                            "not_applied",
                        )
                assert (await client.put("still", "written")).revision > 0
                broker.start()
                again = await client.submit_async(
                    guards=[absent("a/0")], writes=[put("a/0", "stolen")], op_id="again"
                )
                async with worker(tmp_path, "w2", settings), worker(tmp_path, "w3", settings):
                    await until(lambda: _applied(client, accepted), "all accepted are applied")
                    await until(
                        lambda: _is(client, again.op_id, "refused"),
                        "the guard is refused, definitely",
                    )
                    revisions = {
                        op_id: (await client.operation(op_id)).revision for op_id in accepted
                    }
                    connection = await aiormq.connect(broker.url)
                    channel = await connection.channel(publisher_confirms=True)
                    queues = await _declared(client, channel)
                    body = command(accepted[0], b'{"writes": [{"put": "a/0", "value": "0"}]}')
                    for poison, name in (
                        (b"\xff no JSON", "broken"),
                        (body.replace(b'"schema":1', b'"schema":9'), "newer"),
                        (
                            command(
                                "job-0", b'{"writes": [{"put": "a/0", "value": "other body"}]}'
                            ),
                            "mismatch",
                        ),
                        (command("none", b'{"writes": [{"put": "", "value": ""}]}'), "bad-key"),
                        (
                            command("~n1.foreign.1", b'{"writes": [{"put": "f", "value": ""}]}'),
                            "foreign",
                        ),
                    ):
                        assert await publish(channel, queues.commands, poison, name, {})
                    # a redelivery, harmless
                    assert await publish(channel, queues.commands, body, "again", {})
                    await until(lambda: _length(channel, queues.dead, 5), "five letters are dead")
                    await until(lambda: _length(channel, queues.commands, 0), "the queue is empty")
                    assert {
                        op: (await client.operation(op)).revision for op in accepted
                    } == revisions
                    assert await client.get("f") is None
                    found = await client.get("a/0")
                    assert (
                        found is not None
                        and found.value == b"0"
                        and found.revision == revisions[accepted[0]]
                    )
                    letters = await asked("--url", urls[0], "dead", "list", "--broker", broker.url)
                    assert sorted(str(each["id"]) for each in letters) == [
                        "bad-key", "broken", "foreign", "mismatch", "newer",
                    ]  # fmt: skip
                    assert all(each["reason"] for each in letters)
                    # given back
                    assert (
                        len(await asked("--url", urls[0], "dead", "list", "--broker", broker.url))
                        == 5
                    )
                    await asked(
                        "--url", urls[0], "dead", "replay", "broken", "--broker", broker.url
                    )
                    await until(
                        lambda: _length(channel, queues.dead, 5),
                        "the replayed poison is buried again",
                    )
                    await connection.close()


@pytest.mark.timeout(240)
async def test_the_first_accepted_write_outlives_a_broker_that_is_killed_at_once(
    tmp_path: Path,
) -> None:
    """RabbitMQ 3.10 loses what it confirmed if it is killed a second after the queue was declared:
    so nothing goes into a queue as new as that.
    """
    needs("rabbitmq")
    with RabbitServer() as broker:
        async with (
            started(tmp_path, nodes=1, broadcast=broker.url) as cluster,
            aiohttp.ClientSession() as http,
        ):
            url = next(iter(cluster.nodes.values())).url
            await until(lambda: _accepts(http, url), "a write is accepted")
            broker.kill()
            broker.start()
            await until(lambda: _accepts(http, url), "another one is accepted")
            async with Client([url], timeout_s=30) as client:
                settings = {"urls": url, "broadcast": broker.url}
                async with worker(tmp_path, "w1", settings):
                    await until(lambda: _applied(client, ["first"]), "the first is applied")


@pytest.mark.timeout(240)
async def test_a_queue_without_a_leader_is_named_and_can_be_deleted(tmp_path: Path) -> None:
    """A broker that is killed right after the declaration confirms nothing any more: the node says
    so, and takes writes again once the queue was deleted.
    """
    needs("rabbitmq")
    with RabbitServer() as broker:
        async with (
            started(tmp_path, nodes=1, broadcast=broker.url) as cluster,
            aiohttp.ClientSession() as http,
        ):
            url = next(iter(cluster.nodes.values())).url
            await until(lambda: _accepts(http, url), "a write is accepted")
            async with Client([url], timeout_s=30) as client:
                queues = await _named(client)
            await _made_anew_and_killed(broker, queues)
            broker.start()

            async def named() -> bool:
                if await _accepts(http, url):
                    pytest.skip("this broker keeps the queues that it was killed after declaring")
                async with http.get(url + "/readyz?verbose") as reply:
                    text = await reply.text()
                    assert reply.status == 200, f"it counts for no other request: {text}"
                said = "[-]async degraded (does not count): the broker confirms nothing"
                return said in text and queues.commands in text

            await until(named, "the queue is named")
            broker.control("await_startup")  # it deletes nothing before, though it listens
            for queue in queues:
                broker.control("delete_queue", queue)
            await until(lambda: _accepts(http, url), "writes are accepted again")
            async with http.get(url + "/readyz?verbose") as reply:
                assert "[+]async ok" in await reply.text()


async def _made_anew_and_killed(broker: RabbitServer, queues: Queues) -> None:
    """Delete the queues, declare them, confirm a message, and kill the broker within a second."""
    connection = await aiormq.connect(broker.url)
    channel = await connection.channel(publisher_confirms=True)
    for queue in queues:
        await channel.queue_delete(queue)
    await declare(channel, queues)
    assert await publish(channel, queues.commands, b"lost", "lost", {})
    broker.kill()
    with contextlib.suppress(Exception):  # whatever aiormq makes of it
        await connection.close()


async def _accepts(http: aiohttp.ClientSession, url: str, *, within_s: float = 5.0) -> bool:
    """Ask for one write, as often as it is repeated under the same op_id."""
    form = {"writes": [{"put": "first", "value": "1"}], "op_id": "first"}
    more = {"Acordo-Timeout": str(within_s)}
    async with http.post(url + "/v1/async", json=form, headers=more) as reply:
        assert reply.status in (202, 503, 504), await reply.text()
        return reply.status == 202


async def _declared(client: Client, channel: aiormq.abc.AbstractChannel) -> Queues:
    """Declare the cluster's queues, as it names them."""
    queues = await _named(client)
    await declare(channel, queues)
    return queues


async def _named(client: Client) -> Queues:
    """Return the names of the cluster's queues."""
    names = (await client.cluster()).raw["channels"]
    assert isinstance(names, dict)
    queues = Queues(names["async"], names["dead"])
    assert queues != Queues.of(""), "the runner's clusters have an id, and names of their own"
    return queues


async def _applied(client: Client, op_ids: list[str]) -> bool:
    return all(
        [(await client.operation(op_id, timeout_s=5)).outcome == "applied" for op_id in op_ids]
    )


async def _is(client: Client, op_id: str, outcome: str) -> bool:
    return (await client.operation(op_id, timeout_s=5)).outcome == outcome


async def _length(channel: aiormq.abc.AbstractChannel, queue: str, wanted: int) -> bool:
    found = await channel.queue_declare(queue, passive=True)
    return found.message_count == wanted
