"""Locks and leases by etcd's gateway while leaders are killed: no lock is held by two, and no lease
ends early.

A holder writes under the condition that its key is still there (a fence). The revisions of those
writes, in order, then belong to one holder after another, never to an earlier one again.
"""

from __future__ import annotations

import asyncio
import base64
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import aiohttp
import pytest

from cluster.local.runner import LocalCluster
from tests.e2e.conftest import Start, until
from tests.kinds_of_store import KINDS

pytestmark = pytest.mark.timeout(240)

CLIENTS: Final = 6
KILLS: Final = 4
TURNS: Final = 40
"""How often a lock is taken at least, by all clients together."""
TTL_S: Final = 3
NAME: Final = b"locks/one"


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


class Failed(Exception):
    """An answer that says that it is not known, or not done: the client begins anew."""


class Contender:
    """A client that takes the lock, writes under its fence, and gives it back, again and again."""

    def __init__(self, number: int, urls: Sequence[str], http: aiohttp.ClientSession) -> None:
        self.number, self._urls, self._http = number, urls, http
        self._asked = 0
        self.turns = 0
        self.fenced: list[tuple[int, int]] = []
        """(revision of a write, create_revision of the key that fenced it)."""
        self.early: list[float] = []
        """Seconds after its last renewal of leases that were gone before their ttl was over."""

    async def ask(self, path: str, **body: Any) -> Any:
        self._asked += 1
        url = self._urls[(self._asked + self.number) % len(self._urls)]
        try:
            async with self._http.post(f"{url}/v3/{path}", json=body) as response:
                answer = await response.json()
                if response.status != 200:
                    raise Failed(answer)
                return answer
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as exc:
            raise Failed from exc

    async def work(self, ended: asyncio.Event) -> None:
        while not ended.is_set():
            with suppress(Failed):
                await self.one_turn()

    async def one_turn(self) -> None:
        granted = time.monotonic()
        lease = (await self.ask("lease/grant", TTL=TTL_S))["ID"]
        renewing = asyncio.ensure_future(self.renew(lease, granted))
        try:
            key = (await self.ask("lock/lock", name=b64(NAME), lease=lease))["key"]
            held = (await self.ask("kv/range", key=key)).get("kvs")
            if not held:
                return
            created = held[0]["create_revision"]
            same = {"key": key, "target": "CREATE", "create_revision": created}
            put = {"request_put": {"key": b64(b"fenced"), "value": b64(b"%d" % self.number)}}
            for _ in range(2):
                done = await self.ask("kv/txn", compare=[same], success=[put])
                if done.get("succeeded"):
                    self.fenced.append((int(done["header"]["revision"]), int(created)))
            await self.ask("lock/unlock", key=key)
            self.turns += 1
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            with suppress(Failed):
                await self.ask("lease/revoke", ID=lease)

    async def renew(self, lease: str, renewed: float) -> None:
        """Keep a lease alive; note when it is gone although its time since the last renewal, which
        the node received later than it was sent, is not over.
        """
        while True:
            await asyncio.sleep(TTL_S / 6)
            sent = time.monotonic()
            with suppress(Failed):
                told = (await self.ask("lease/keepalive", ID=lease))["result"]
                if "TTL" not in told:
                    gone_after = time.monotonic() - renewed
                    if gone_after < TTL_S:
                        self.early.append(gone_after)
                    return
                renewed = sent


async def kill_leaders(cluster: LocalCluster, contenders: Sequence[Contender]) -> None:
    """Kill the leader, each time once the lock has changed hands again."""
    for _ in range(KILLS):
        before = sum(each.turns for each in contenders)

        def moved(before: int = before) -> bool:
            return sum(each.turns for each in contenders) >= before + 3

        await until(moved, "the lock changes hands")
        leader = await cluster.leader()
        if leader is not None:
            cluster.kill(leader, signal.SIGKILL)


@pytest.mark.parametrize("start", KINDS, indirect=True)
async def test_no_lock_is_held_by_two_and_no_lease_ends_early(
    start: Start, http: aiohttp.ClientSession
) -> None:
    async with start(etcd=True) as cluster:
        urls = [node.url for node in cluster.nodes.values()]
        contenders = [Contender(number, urls, http) for number in range(CLIENTS)]
        ended = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for each in contenders:
                tasks.create_task(each.work(ended))
            await kill_leaders(cluster, contenders)
            await until(
                lambda: sum(each.turns for each in contenders) >= TURNS, "enough turns were taken"
            )
            ended.set()
        fenced = sorted(write for each in contenders for write in each.fenced)
        assert len(fenced) >= TURNS
        holders = [created for _, created in fenced]
        assert holders == sorted(holders)
        assert len(set(holders)) >= TURNS // 2
        assert [each.early for each in contenders] == [[]] * CLIENTS
