"""The keys and leases of a real etcd are loaded, and its clients keep their leases alive here."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from acordo import Client
from acordo._bulk.from_etcd import copy_etcd
from acordo._bulk.load import load
from chaos.workloads.gateway import Gateway, b64
from tests.peers.local import etcd
from tests.unit.node.conftest import opened

pytestmark = pytest.mark.skipif(
    shutil.which("etcd") is None, reason="etcd is not installed: apt-get install etcd-server"
)
KEYS = 1_200
TTL_S = 600


async def asked(url: str, path: str, **body: Any) -> Any:
    async with aiohttp.ClientSession() as http, http.post(f"{url}/v3/{path}", json=body) as reply:
        assert reply.status == 200, await reply.text()
        return await reply.json(content_type=None)


async def test_keys_and_leases_of_a_real_etcd_are_loaded(tmp_path: Path) -> None:
    with etcd(str(tmp_path)) as url:
        with_keys = (await asked(url, "lease/grant", TTL=TTL_S))["ID"]
        alone = (await asked(url, "lease/grant", TTL=TTL_S))["ID"]
        ended = (await asked(url, "lease/grant", TTL=TTL_S))["ID"]
        for n in range(0, KEYS, 100):
            puts = [
                {"request_put": {"key": b64(f"k{n + i:05}"), "value": b64("v" * 2_000)}}
                for i in range(100)
            ]
            await asked(url, "kv/txn", success=puts)
        for key, lease in (("held/a", with_keys), ("held/b", with_keys), ("gone", ended)):
            await asked(url, "kv/put", key=b64(key), value=b64("x"), lease=lease)
        await asked(url, "lease/revoke", ID=ended)
        done = await copy_etcd(url, tmp_path / "keys")
    assert (done.keys, done.leased, done.leases) == (KEYS + 2, 2, 2)
    async with opened(etcd=True) as node, Client([node.url]) as client:
        with (tmp_path / "keys").open("rb") as file:
            loaded = await load(client, file, checkpoint=None)
        assert (loaded.lines, loaded.rejected, loaded.leases) == (KEYS + 3, 0, 2)
        names = [f"{int(each):016x}" for each in (with_keys, alone)]
        assert {each.id async for each in client.leases()} == set(names)
        held = await client.lease(names[0], keys=True)
        assert held is not None and (held.ttl_s, held.keys) == (TTL_S, (b"held/a", b"held/b"))
        async with Gateway([node.url], timeout_s=10) as gateway:  # by the id that etcd gave
            kept = await gateway.ask("lease/keepalive", ID=with_keys)
            assert kept.body["TTL"] == str(TTL_S)
            await gateway.ask("lease/revoke", ID=with_keys)
        assert await client.get("held/a") is None
        assert await client.get("k00000") is not None
