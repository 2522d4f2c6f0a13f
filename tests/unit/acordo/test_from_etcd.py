"""The keys of an etcd are copied as of one revision, and `load --from-etcd` writes them."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from acordo import BadRequest, Client, ReadFailed
from acordo._bulk.from_etcd import PAGE_KEYS, copy_etcd
from acordo._bulk.leasing import Leases
from acordo._bulk.lines import Line
from acordo._bulk.sending import Sender
from acordo._bulk.tally import Tally
from tests.unit.acordo.scripted import closed_port
from tests.unit.acordo.test_cli import Shell
from tests.unit.node.conftest import opened

ODD = {b"a": b"1", b"\0": b"", b"\xff\xfe": bytes(range(256)), "é".encode(): b"x" * 70_000}


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def lines_of(path: Path) -> list[Any]:
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]


async def test_a_copy_has_every_key_of_one_revision(tmp_path: Path) -> None:
    async with opened(etcd=True) as api:
        for key, value in ODD.items():
            body = {"key": b64(key), "value": b64(value)}
            assert (await api.ask("POST", "/v3/kv/put", json=body)).status == 200
        done = await copy_etcd(api.url, tmp_path / "keys")
    assert (done.keys, done.leased, done.revision) == (len(ODD), 0, len(ODD))
    assert len(lines_of(tmp_path / "keys")) == len(ODD)
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]


async def test_what_was_copied_is_loaded_and_the_file_stays(tmp_path: Path) -> None:
    async with opened(etcd=True) as api, opened() as target:
        for key, value in ODD.items():
            body = {"key": b64(key), "value": b64(value)}
            await api.ask("POST", "/v3/kv/put", json=body)
        acordo, file = Shell([target.url]), str(tmp_path / "keys")
        done = await acordo("load", "--from-etcd", api.url, file)
        assert (done.code, done.out) == (0, b"4 lines loaded, 0 left out\n"), done.err
        assert "4 keys as of etcd's revision 4" in done.err
        assert (await target.ask("GET", "/v1/kv/%FF%FE")).body == bytes(range(256))
        again = await acordo("load", "--from-etcd", api.url, file)
        assert "is loaded as it is" in again.err
        assert (await acordo("load", "--from-etcd", api.url, "-")).code == 2


class Etcd:
    """An etcd that has `count` keys, one in ten with a lease, and counts what it is asked."""

    def __init__(self, count: int, lease: str = "9") -> None:
        self.keys = [b"k%06d" % n for n in range(count)]
        self.lease = lease
        self.asked: list[tuple[str, Any]] = []
        self.status = 200

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = msgspec.json.decode(await request.read())
        self.asked.append((request.path, body))
        if self.status != 200:
            return web.json_response(
                {"error": "no", "message": "no", "code": 3}, status=self.status
            )
        if request.path == "/v3/lease/leases":
            return web.json_response({"leases": [{"ID": each} for each in ("9", "10", "-4")]})
        if request.path == "/v3/lease/timetolive":
            ttl = "-1" if body["ID"] == "8" else "100"
            return web.json_response({"ID": body["ID"], "TTL": ttl, "grantedTTL": "120"})
        begin = base64.b64decode(body["key"])
        left = [key for key in self.keys if key >= begin]
        kvs = [self.form(key) for key in left[: body["limit"]]]
        answer = {"header": {"revision": "77"}, "kvs": kvs, "count": str(len(left))}
        return web.json_response(answer | ({"more": True} if len(left) > len(kvs) else {}))

    def form(self, key: bytes) -> dict[str, str]:
        return {"key": b64(key), "value": b64(b"v")} | (
            {"lease": self.lease} if key[-1:] == b"0" else {}
        )


@asynccontextmanager
async def running(etcd: Etcd) -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(etcd.handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_all_pages_are_of_the_revision_of_the_first(tmp_path: Path) -> None:
    etcd = Etcd(PAGE_KEYS * 2 + 1)
    async with running(etcd) as url:
        done = await copy_etcd(url, tmp_path / "keys")
    assert (done.keys, done.leased, done.leases, done.revision) == (1001, 101, 2, 77)
    ranges = [body["revision"] for path, body in etcd.asked if path == "/v3/kv/range"]
    assert ranges == [0, 77, 77]
    lines = lines_of(tmp_path / "keys")
    leased = [line for line in lines if "lease" in line and "key" in line]
    assert len(leased) == 101
    assert {(line["lease"], line["lease_ttl"]) for line in leased} == {(f"{9:016x}", 120)}
    assert [line for line in lines if "key" not in line] == [
        {"lease": f"{10:016x}", "lease_ttl": 120}
    ]
    asked = [body["ID"] for path, body in etcd.asked if path == "/v3/lease/timetolive"]
    assert asked == ["9", "10", "-4"]  # each once


@pytest.mark.parametrize("lease", ["8", "-4"])
async def test_a_lease_that_has_ended_or_cannot_be_leaves_its_time(
    tmp_path: Path, lease: str
) -> None:
    before_ms = int(time.time() * 1000)
    async with running(Etcd(1, lease)) as url:
        await copy_etcd(url, tmp_path / "keys")
    line = lines_of(tmp_path / "keys")[0]
    assert line["expires_ms"] >= before_ms + (0 if lease == "8" else 100_000)
    assert "lease" not in line


async def test_leases_are_loaded_with_their_ids_their_ttl_and_their_keys(tmp_path: Path) -> None:
    async with opened(etcd=True) as api, opened() as target, Client([target.url]) as client:
        for lease in (7, 8):
            await api.ask("POST", "/v3/lease/grant", json={"ID": lease, "TTL": 600})
        for key in (b"a", b"b" * 1000):
            body = {"key": b64(key), "value": b64(b"x" * 100_000), "lease": 7}
            await api.ask("POST", "/v3/kv/put", json=body)
        acordo, file = Shell([target.url]), str(tmp_path / "keys")
        for _ in range(2):  # what is loaded again finds the leases of the first time
            done = await acordo("load", "--from-etcd", api.url, file)
            assert (done.code, done.out) == (
                0, b"3 lines loaded, 2 leases granted, 0 left out\n",
            ), done.err  # fmt: skip
        shown = await client.lease(f"{7:016x}", keys=True)
        assert shown is not None
        assert (shown.ttl_s, shown.keys) == (600, (b"a", b"b" * 1000))
        assert {each.id async for each in client.leases()} == {f"{7:016x}", f"{8:016x}"}


async def test_a_lease_that_ended_during_the_load_is_granted_anew(tmp_path: Path) -> None:
    async with opened() as target, Client([target.url]) as client:
        tally = Tally(keep_going=False, on_rejected=lambda line, why: None)
        leases = Leases(client, timeout_s=5)
        sender = Sender(client, tally, leases, timeout_s=5)
        lease = f"{5:016x}"
        for number, size in enumerate((1, 100_000)):
            await leases.ensure(lease, 60)
            await client.revoke_lease(lease)
            key = b"k%d" % number
            await sender.send([Line(number, key, b"x" * size, None, f"op{number}", (lease, 60))])
            assert (await client.read(key)).lease == lease


HALVES: list[dict[str, Any]] = [{"lease": "5"}, {"lease_ttl": 5}, {"lease": "z", "lease_ttl": 5}]


@pytest.mark.parametrize("more", HALVES)
async def test_a_line_with_half_a_lease_is_rejected(tmp_path: Path, more: dict[str, Any]) -> None:
    (tmp_path / "keys").write_bytes(msgspec.json.encode({"key": "a", "value": "b"} | more))
    async with opened() as target:
        done = await Shell([target.url])("load", "--keep-going", str(tmp_path / "keys"))
    assert done.out.endswith(b", 1 left out\n")


@pytest.mark.parametrize(("status", "error"), [(400, BadRequest), (503, ReadFailed)])
async def test_an_etcd_that_refuses_leaves_no_file(
    tmp_path: Path, status: int, error: type[Exception]
) -> None:
    etcd = Etcd(1)
    etcd.status = status
    async with running(etcd) as url:
        with pytest.raises(error):
            await copy_etcd(url, tmp_path / "keys")
    assert not (tmp_path / "keys").exists()


async def test_no_etcd_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(ReadFailed):
        await copy_etcd(f"http://127.0.0.1:{await closed_port()}", tmp_path / "keys")
    async with opened() as api:
        with pytest.raises(BadRequest):
            await copy_etcd(api.url, tmp_path / "keys")
