"""Leases by the client and by the command line, against a node over fakes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from acordo import BadRequest, Client, put
from acordo._bulk.dump import dump
from tests.unit.acordo.test_cli import Shell
from tests.unit.node.conftest import Api, opened

pytestmark = pytest.mark.usefixtures("both_forms")


@pytest.fixture
async def node() -> AsyncIterator[Api]:
    async with opened() as made:
        yield made


async def test_a_lease_by_the_client(node: Api, tmp_path: Path) -> None:
    async with Client(node.url) as client:
        lease = await client.grant_lease(30)
        assert (len(lease.id), lease.ttl_s) == (16, 30)
        named = await client.grant_lease(5, lease="ab")
        with pytest.raises(BadRequest) as taken:
            await client.grant_lease(5, lease="ab")
        assert taken.value.code == "lease_exists"
        await client.put("a", "1", lease=lease.id)
        await client.txn(writes=[put("b", "2", lease=lease.id), put("c", "3")])
        found = await client.get("a")
        assert found is not None and found.lease == lease.id
        assert {each.key: each.lease async for each in client.list("")} == {
            b"a": lease.id,
            b"acordo/leases/00000000000000ab": None,
            f"acordo/leases/{lease.id}".encode(): None,
            b"b": lease.id,
            b"c": None,
        }
        shown = await client.lease(lease.id, keys=True)
        assert shown is not None and shown.keys == (b"a", b"b")
        kept = await client.keep_alive(lease.id)
        assert kept is not None and kept.left_s == 30
        assert sorted([each.id async for each in client.leases()]) == sorted([lease.id, named.id])
        done = await dump(client, tmp_path / "dump")
        assert done.keys == 1  # neither leases nor what ends with them
        assert b'"c"' in (tmp_path / "dump").read_bytes()
        assert await client.revoke_lease(lease.id) is not None
        assert await client.get("a") is None
        assert await client.revoke_lease(lease.id) is None
        assert await client.keep_alive(lease.id) is None
        assert await client.lease(lease.id) is None
        with pytest.raises(BadRequest) as missing:
            await client.put("a", "1", lease=lease.id)
        assert missing.value.code == "lease_not_found"


async def test_a_lease_by_the_command_line(node: Api) -> None:
    acordo = Shell([node.url])
    granted = await acordo("--json", "lease", "grant", "30", "--id", "5a")
    lease = f"{0x5A:016x}"
    assert (granted.code, granted.json) == (0, {"id": lease, "ttl": 30.0})
    assert (await acordo("put", "k", "v", "--lease", "5a")).code == 0
    kept = await acordo("lease", "keep-alive", "5a")
    assert (kept.code, kept.out) == (0, f"{lease}  ttl 30 s, 30 s left  (alive)\n".encode())
    shown = await acordo("--json", "lease", "show", "5a", "--keys")
    assert shown.json == {"id": lease, "ttl": 30.0, "left": 30.0, "keys": ["k"]}
    assert b"k\n" in (await acordo("lease", "show", "5a", "--keys")).out
    assert (await acordo("--json", "lease", "list")).lines == [{"id": lease, "ttl": 30.0}]
    assert b"revoked at revision" in (await acordo("lease", "revoke", "5a")).out
    for command in ("revoke", "show", "keep-alive"):
        gone = await acordo("lease", command, "5a")
        assert gone.code == 1
        assert "not found" in gone.err
    assert (await acordo("get", "k")).code == 1
    assert (await acordo("lease", "grant", "0")).code == 2
