"""PostgreSQL's back ends, the Redis master, the RabbitMQ leader and the Acordo leader die in turn,
under load.

INV-1 to INV-6: the history is linearizable, nothing is lost or applied twice, and the broadcast
tells everything that was settled, in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from pathlib import Path
from typing import Final

import asyncpg  # type: ignore[import-untyped]  # ships no types
import pytest
from aiormq.abc import AbstractChannel, DeliveredMessage

from acordo import Client
from backends.rabbitmq.amqp import FAILURES, BrokerLink
from backends.rabbitmq.broadcast import change_of
from chaos.checkers.registers.register import check
from chaos.checkers.verdict import Verdict
from cluster.services.postgres import PostgresServer
from cluster.services.rabbitmq import RabbitCluster
from cluster.services.redis import SentinelSet
from kv.errors import BackendUnavailable
from kv.ports import Change
from tests.e2e.test_kills import Recorder
from tests.integration.backends.conftest import started, until
from tests.services import needs

CLIENTS: Final = 6
KEYS: Final = 24
BETWEEN: Final = 60
"""Operations that succeed between two deaths."""
SEED: Final = int(os.environ.get("ACORDO_TEST_SEED", "5"))


class Subscriber:
    """Record what the broadcast tells, from a durable queue of its own, as an outside system would.

    What was on its way to a connection that died is delivered again, after what came later to the
    next one: the broker marks it. So the order of publishing shows in `fresh`, the revisions of
    what is delivered for the first time.
    """

    def __init__(self, kind: str = "quorum") -> None:
        self.heard: list[Change] = []
        self.fresh: list[int] = []
        self._kind = kind

    def check_order(self) -> None:
        """Hold first deliveries to the order of revisions. A publisher that begins again repeats,
        and skips nothing.
        """
        firsts = list(dict.fromkeys(self.fresh))
        assert firsts == sorted(firsts), f"the broadcast was out of order: {self.fresh}"
        assert len(firsts) > len({change.revision for change in self.heard}) / 2, (
            "nearly all was delivered again"
        )

    async def begin(self, url: str, urls: list[str]) -> asyncio.Task[None]:
        """Subscribe to the exchange that the cluster names; return what goes on listening."""
        async with Client(urls, timeout_s=20) as client:
            names = (await client.cluster()).raw["channels"]
        assert isinstance(names, dict)
        hearing = asyncio.Event()
        listening = asyncio.create_task(self.run(url, names["changes"], hearing))
        await asyncio.wait_for(hearing.wait(), 60)
        return listening

    async def run(self, url: str, exchange: str, bound: asyncio.Event) -> None:
        while True:

            async def setup(channel: AbstractChannel) -> None:
                await channel.exchange_declare(exchange, exchange_type="topic", durable=True)
                await channel.queue_declare(
                    "outside", durable=True, arguments={"x-queue-type": self._kind}
                )
                await channel.queue_bind("outside", exchange, "change.#")

                async def take(message: DeliveredMessage) -> None:
                    self.heard.append(change_of(message.body))
                    if not message.redelivered:
                        self.fresh.append(self.heard[-1].revision)
                    assert message.delivery_tag is not None
                    await channel.basic_ack(message.delivery_tag)

                await channel.basic_consume("outside", take)

            with contextlib.suppress(*FAILURES, BackendUnavailable):
                async with BrokerLink(url, "outside", setup) as link:
                    channel = await link.channel(timeout_s=10)
                    bound.set()
                    closing = asyncio.ensure_future(channel.closing)
                    await asyncio.wait({closing})
            await asyncio.sleep(0.2)


@pytest.mark.timeout(400)
async def test_everything_dies_in_turn(tmp_path: Path) -> None:
    needs("postgresql", "redis", "rabbitmq")
    print(f"seed {SEED}")
    recorder, subscriber = Recorder(), Subscriber()
    with PostgresServer() as postgres, SentinelSet() as redis, RabbitCluster() as rabbit:
        async with started(
            tmp_path, store=postgres.url, cache=redis.url, broadcast=rabbit.url
        ) as cluster:
            urls = [node.url for node in cluster.nodes.values()]
            listening = await subscriber.begin(rabbit.url, urls)  # before anything is written
            async with contextlib.AsyncExitStack() as stack:
                clients = [
                    await stack.enter_async_context(
                        Client(urls[n % 3 :] + urls[: n % 3], timeout_s=20)
                    )
                    for n in range(CLIENTS)
                ]

                async def succeed(what: str) -> None:
                    wanted = recorder.succeeded() + BETWEEN
                    await until(
                        lambda: recorder.succeeded() >= wanted, f"operations succeed {what}"
                    )

                async with asyncio.TaskGroup() as tasks:
                    for name, client in enumerate(clients):
                        tasks.create_task(
                            recorder.work(name, client, random.Random(f"{SEED}/{name}"))
                        )
                    await succeed("before anything died")
                    connection = await asyncpg.connect(postgres.url)
                    ended = await connection.fetch(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE application_name = 'acordo' AND pid <> pg_backend_pid()"
                    )
                    await connection.close()
                    assert ended
                    await succeed("after the store's back ends were ended")
                    postgres.kill()
                    postgres.start()
                    await succeed("after the store was killed and recovered")
                    redis.current().kill()
                    await succeed("after the Redis master died")
                    (await asyncio.to_thread(rabbit.leader, "outside")).kill()
                    await succeed("after the broker that led the queue died")
                    leader = await cluster.leader()
                    assert leader is not None
                    cluster.kill(leader, signal.SIGKILL)
                    await succeed("after the leader died")
                    recorder.ended.set()
                for key in range(KEYS):
                    await recorder.get(100, clients[0], f"kills/{key}")
                ledger = [row async for row in clients[0].ledger()]
                changed = [
                    (row.first + n, recorded["op_id"])
                    for row in ledger
                    for n, recorded in enumerate(row.body)
                    if recorded.get("keys")
                ]
                wanted = [revision for revision, _ in changed]
                await until(
                    lambda: set(wanted) <= {c.revision for c in subscriber.heard},
                    "all is broadcast",
                )
        listening.cancel()
    judged = check(recorder.operations)
    assert judged.verdict is Verdict.OK, judged.findings
    effective = [op_id for _, op_id in changed]
    assert len(effective) == len(set(effective)), "an operation took effect twice"
    firsts = list({c.revision: c for c in subscriber.heard}.values())
    subscriber.check_order()
    assert {c.revision for c in firsts} == set(wanted), "told what is not in the ledger"
    assert {(c.revision, c.op_id) for c in firsts} == set(changed)
    print(
        f"{recorder.succeeded()} of {len(recorder.operations)} operations succeeded, {len(firsts)} "
        "changes were told"
    )
