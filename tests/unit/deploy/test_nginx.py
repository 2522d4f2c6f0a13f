"""The real nginx with our configuration, on loopback, before nodes that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp import web

from acordo._bulk.lines import BATCH_BYTES
from cluster.ports import free_port
from deploy.balancer import Balancer, Times, Tls, probe, upstream
from kv.model import REQUEST_BYTES_MAX
from node.settings import ServerSettings
from tests.services import needs

PATIENCE_S = 20.0
RESIDENT_MAX = 64 * 1024 * 1024

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Node:
    """A node that answers as it is told, and counts."""

    def __init__(self, name: str, tls: ssl.SSLContext | None = None) -> None:
        self.name, self.port, self.tls = name, 0, tls
        self.seen: list[tuple[str, str, int]] = []
        self.handler: Handler = self.well
        self.early: Handler | None = None
        """Answers before the body was read."""
        self.received = 0

    async def well(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=self.name, headers={"Acordo-Node": self.name})

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/readyz":
            return web.Response(text="ok")
        if self.early is not None:
            return await self.early(request)
        size = 0
        async for part in request.content.iter_any():
            size += len(part)
            self.received += len(part)
        self.seen.append((request.method, request.raw_path, size))
        return await self.handler(request)

    async def __aenter__(self) -> Node:
        # some is never answered
        self.runner = web.ServerRunner(web.Server(self.handle), shutdown_timeout=0.1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0, ssl_context=self.tls)
        await site.start()
        self.port = self.runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.runner.cleanup()


ROOT = Path(__file__).parents[3]


class World:
    def __init__(self, nodes: list[Node], http: aiohttp.ClientSession, url: str) -> None:
        self.nodes, self.http, self.url = nodes, http, url

    @property
    def seen(self) -> list[tuple[str, str, int]]:
        return [s for n in self.nodes for s in n.seen]

    @property
    def received(self) -> int:
        return sum(n.received for n in self.nodes)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", int(self.url.rpartition(":")[2]))

    def all(self, handler: Handler) -> None:
        for node in self.nodes:
            node.handler = handler


@pytest.fixture
def times() -> Times:
    return Times()


@pytest.fixture
async def world(tmp_path: Path, times: Times) -> AsyncIterator[World]:
    needs("nginx")
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(Node(f"n{i}")) for i in (1, 2, 3)]
        port = free_port()
        names = [f"127.0.0.1:{n.port}" for n in nodes]
        balancer = Balancer(names, f"127.0.0.1:{port}", tmp_path, workers="1", times=times)
        balancer.choice.chosen = tuple(("127.0.0.1", n.port) for n in nodes)
        balancer.write()
        balancer.start()
        assert balancer.nginx is not None
        nginx = balancer.nginx
        try:
            http = await stack.enter_async_context(
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))
            )
            url = f"http://127.0.0.1:{port}"
            while True:
                assert nginx.poll() is None, "nginx ended"
                try:
                    async with http.get(url + "/balancer") as response:
                        assert response.status == 200
                        break
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.02)
            yield World(nodes, http, url)
        finally:
            nginx.terminate()
            await asyncio.to_thread(nginx.wait)


@pytest.mark.parametrize("right", [True, False])
async def test_nodes_and_clients_by_https(tmp_path: Path, right: bool) -> None:
    """Nodes are verified by the name that they have in common: another authority's get nothing."""
    needs("nginx")
    ours, others = trustme.CA(), trustme.CA()
    own = ours.issue_cert("acordo-members", "localhost", "127.0.0.1")
    ours.cert_pem.write_to_path(tmp_path / "ca.pem")
    own.private_key_pem.write_to_path(tmp_path / "own.key")
    own.cert_chain_pems[0].write_to_path(tmp_path / "own.pem")
    shown = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    (own if right else others.issue_cert("acordo-members")).configure_cert(shown)
    tls = Tls(
        nodes_ca=str(tmp_path / "ca.pem"), nodes_name="acordo-members",
        cert=str(tmp_path / "own.pem"), key=str(tmp_path / "own.key"),
    )  # fmt: skip
    async with Node("n1", shown) as node, aiohttp.ClientSession() as http:
        address = ("127.0.0.1", node.port)
        said = await asyncio.to_thread(probe, address, tls.context(), tls.nodes_name)
        assert said is (True if right else None)
        assert await asyncio.to_thread(probe, address, tls.context(), "another") is None
        listen = f"127.0.0.1:{free_port()}"
        balancer = Balancer([], listen, tmp_path / "run", workers="1", tls=tls)
        balancer.choice.chosen = (address,)
        balancer.write()
        balancer.start()
        assert balancer.nginx is not None
        trusted = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    assert balancer.nginx.poll() is None, "nginx ended"
                    with contextlib.suppress(aiohttp.ClientConnectionError):
                        async with http.get(f"https://{listen}/v1/kv/k", ssl=trusted) as got:
                            assert got.status == (200 if right else 503)
                            break
                    await asyncio.sleep(0.02)
            async with http.put(f"https://{listen}/v1/kv/k", data=b"v", ssl=trusted) as got:
                assert got.status == (200 if right else 502)
            assert bool(node.seen) is right
        finally:
            balancer.nginx.terminate()
            await asyncio.to_thread(balancer.nginx.wait)


async def reset(request: web.BaseRequest) -> web.StreamResponse:
    """Take the whole request, then drop the connection."""
    assert request.transport is not None
    request.transport.abort()
    raise asyncio.CancelledError


async def unavailable(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=503, text="no leader", content_type="application/problem+json")


async def silent(request: web.BaseRequest) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST", "PATCH"])
async def test_a_write_whose_answer_is_lost_is_never_sent_again(world: World, method: str) -> None:
    world.all(reset)
    async with world.http.request(method, world.url + "/v1/kv/a", data=b"x") as response:
        problem = json.loads(await response.read())
        assert response.status == 502
        assert response.content_type == "application/problem+json"
    assert problem["outcome"] == "unknown" and problem["code"] == "outcome_unknown"
    assert problem["type"] == "urn:acordo:problem:outcome_unknown" and problem["status"] == 502
    assert len(world.seen) == 1


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST"])
async def test_a_write_that_a_node_refuses_goes_back_as_the_node_said(
    world: World, method: str
) -> None:
    world.all(unavailable)
    async with world.http.request(method, world.url + "/v1/kv/a", data=b"x") as response:
        assert (response.status, await response.text()) == (503, "no leader")
    assert len(world.seen) == 1


async def test_a_node_hears_what_the_browser_speaks(world: World) -> None:
    async def tell(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=", ".join(request.headers.getall("X-Forwarded-Proto", [])))

    world.all(tell)
    for sent, heard in (({}, "http"), ({"X-Forwarded-Proto": "https"}, "https")):
        for method in ("GET", "POST"):
            url = world.url + "/v1/session"
            async with world.http.request(method, url, headers=sent) as response:
                assert await response.text() == heard


async def test_a_read_is_asked_of_another_node(world: World) -> None:
    world.nodes[0].handler = reset
    world.nodes[1].handler = unavailable
    for _ in range(6):
        async with world.http.get(world.url + "/v1/kv/a") as response:
            assert (response.status, await response.text()) == (200, "n3")


async def test_a_read_that_nobody_answers_is_no_unknown_outcome(world: World) -> None:
    world.all(reset)
    async with world.http.get(world.url + "/v1/kv/a") as response:
        problem = json.loads(await response.read())
        assert (response.status, problem["outcome"]) == (503, "not_applied")
        assert response.headers["Retry-After"] == "1"


@pytest.mark.parametrize("times", [Times(write="300ms")])
@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST"])
async def test_a_write_that_is_never_answered_is_unknown_and_never_sent_again(
    world: World, method: str
) -> None:
    world.all(silent)
    async with asyncio.timeout(PATIENCE_S):
        async with world.http.request(method, world.url + "/v1/kv/a", data=b"x") as response:
            problem = json.loads(await response.read())
            assert response.status == 504
            assert response.content_type == "application/problem+json"
        while not world.seen:
            await asyncio.sleep(0.01)
    assert problem["outcome"] == "unknown" and problem["code"] == "outcome_unknown"
    assert problem["status"] == 504 and "within 300ms" in problem["detail"]
    assert len(world.seen) == 1


@pytest.mark.parametrize("times", [Times(write="200ms", watch="200ms")])
@pytest.mark.parametrize(
    "path", ["/v3/watch", "/v3beta/watch", "/v3/lock/lock", "/v3/election/campaign"]
)
async def test_what_clients_of_etcd_wait_for_is_waited_for(world: World, path: str) -> None:
    async def late(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(1.0)  # five times what a write has
        return web.Response(text="at last")

    world.all(late)
    async with asyncio.timeout(PATIENCE_S):
        async with world.http.post(world.url + path, data=b"{}") as response:
            assert (response.status, await response.text()) == (200, "at last")
    assert len(world.seen) == 1


@pytest.mark.parametrize("times", [Times(read="1s")])
async def test_a_read_caught_on_a_silent_node_is_answered_by_another(world: World) -> None:
    world.nodes[0].handler = silent
    async with asyncio.timeout(PATIENCE_S):
        for path in ("/v1/kv/a", "/v1/kv/a%2F..%2Fb?consistency=stale", "/kv?key=a"):
            async with world.http.get(world.url + path) as response:
                assert response.status == 200 and await response.text() in ("n2", "n3")
            assert path in {s[1] for n in world.nodes[1:] for s in n.seen}  # as it was sent


@pytest.mark.parametrize("times", [Times(read="200ms")])
async def test_a_slow_read_is_not_cut_where_it_is_asked_again(world: World) -> None:
    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        if len(world.seen) % 2:
            return await silent(request)
        await asyncio.sleep(1.0)  # five times what the first had
        return web.Response(text="late")

    world.all(slow)
    async with asyncio.timeout(PATIENCE_S):
        async with world.http.get(world.url + "/v1/kv/a") as response:
            assert (response.status, await response.text()) == (200, "late")
    assert len(world.seen) == 2


@pytest.mark.parametrize("times", [Times(read="200ms")])
@pytest.mark.parametrize("between", [0, 1, 2])
async def test_a_silent_node_is_not_asked_again(world: World, between: int) -> None:
    """Whoever's turn it is by then: other reads, as many as `between`, moved it."""

    async def first_is_silent(request: web.BaseRequest) -> web.StreamResponse:
        if request.raw_path == "/v1/kv/a" and sum(s[1] == "/v1/kv/a" for s in world.seen) == 1:
            return await silent(request)
        return web.Response(text="well")

    world.all(first_is_silent)
    asked = asyncio.create_task(world.http.get(world.url + "/v1/kv/a"))
    async with asyncio.timeout(PATIENCE_S):
        while not world.seen:
            await asyncio.sleep(0.01)
        for _ in range(between):
            async with world.http.get(world.url + "/v1/kv/b") as response:
                assert response.status == 200
        async with await asked as response:
            assert response.status == 200
    assert max(sum(s[1] == "/v1/kv/a" for s in node.seen) for node in world.nodes) == 1


@pytest.mark.parametrize("times", [Times(read="200ms", again="400ms")])
async def test_a_read_of_silent_nodes_ends_and_may_be_repeated(world: World) -> None:
    world.all(silent)
    async with asyncio.timeout(PATIENCE_S):
        async with world.http.get(world.url + "/v1/kv/a") as response:
            problem = json.loads(await response.read())
            assert (response.status, problem["status"], problem["outcome"]) == (
                503,
                503,
                "not_applied",
            )
            assert response.content_type == "application/problem+json"
            assert response.headers["Retry-After"] == "1"
        assert len(world.seen) == 2
        # To give an operation up is a write, looking it up is not.
        async with world.http.get(world.url + "/v1/operations/a") as response:
            problem = json.loads(await response.read())
            assert (response.status, problem["status"], problem["outcome"]) == (
                503,
                503,
                "not_applied",
            )


@pytest.mark.parametrize("times", [Times(read="500ms", again="500ms")])
async def test_a_client_that_reads_slowly_is_not_cut(world: World) -> None:
    big = b"v" * 30_000_000  # more than the sockets between take

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=big)

    world.all(answer)
    async with asyncio.timeout(PATIENCE_S):
        async with world.http.get(world.url + "/v1/kv?prefix=") as response:
            await asyncio.sleep(1.5)  # three times what a node has for its answer
            assert await response.read() == big
    assert len(world.seen) == 1


@pytest.mark.parametrize("times", [Times(read="100ms", again="200ms")])
async def test_a_watch_that_says_nothing_for_a_while_goes_on(world: World) -> None:
    async def stream(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(1.0)  # a watch from far back reads the ledger before it begins
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        await asyncio.sleep(1.0)
        await response.write(b"data: 2\n\n")
        return response

    world.all(stream)
    async with asyncio.timeout(PATIENCE_S):
        async with world.http.get(world.url + "/v1/watch?prefix=a") as response:
            assert await response.content.readexactly(18) == b"data: 1\n\ndata: 2\n\n"
    assert len(world.seen) == 1


def test_as_configured_a_read_ends_within_ten_seconds_and_none_before_its_node_answers() -> None:
    times = {name: float(text.removesuffix("s")) for name, text in asdict(Times()).items()}
    node = ServerSettings(node_id="n1", advertised_url="", incarnation="")
    assert times["read"] + times["again"] <= 10
    assert times["again"] >= 2 * node.read_index_timeout_s + node.store_timeout_s
    assert times["write"] > node.request_timeout_s
    assert times["watch"] > 2 * node.watch_heartbeat_s
    assert times["shutdown"] > times["write"]


def test_the_balancer_takes_what_a_node_takes() -> None:
    text = (ROOT / "deploy" / "nginx" / "nginx.conf").read_text()
    (megabytes,) = re.findall(r"client_max_body_size (\d+)m;", text)
    assert int(megabytes) << 20 == REQUEST_BYTES_MAX
    assert f"a body has at most {megabytes} MiB here" in text
    assert BATCH_BYTES + 1024 < REQUEST_BYTES_MAX


async def test_one_megabyte_passes_both_ways_and_more_than_a_node_takes_is_refused_unsent(
    world: World,
) -> None:
    big = b"v" * 1_500_000

    async def echo(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=big)

    world.all(echo)
    for method in ("PUT", "POST"):
        async with world.http.request(method, world.url + "/v1/kv/a", data=big) as response:
            assert response.status == 200 and await response.read() == big
    assert [s[2] for s in world.seen] == [len(big)] * 2
    # A real client may see its connection end while it still sends; the head alone shows the
    # answer.
    reader, writer = await world.connect()
    writer.write(
        "PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: "
        f"{REQUEST_BYTES_MAX + 1}\r\n\r\n".encode()
    )
    assert b" 413 " in await reader.readuntil(b"\r\n\r\n")
    assert b'"outcome":"not_applied"' in await reader.readuntil(b"}")
    writer.close()
    assert len(world.seen) == 2


async def test_a_chunked_body_that_grows_too_large_is_refused_and_no_node_has_it_whole(
    world: World,
) -> None:
    reader, writer = await world.connect()
    writer.write(b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    async with asyncio.timeout(PATIENCE_S):
        answer = asyncio.create_task(reader.readuntil(b"}"))
        with contextlib.suppress(ConnectionError):
            for _ in range(REQUEST_BYTES_MAX // 65536 + 1):
                writer.write(b"10000\r\n" + b"v" * 65536 + b"\r\n")
                await writer.drain()
        head, _, body = (await answer).partition(b"\r\n\r\n")
    assert b" 413 " in head.splitlines()[0] and b"application/problem+json" in head
    assert json.loads(body)["outcome"] == "not_applied"
    writer.close()
    assert world.seen == []


@pytest.mark.parametrize("status", [408, 413, 429, 503])
async def test_an_answer_that_comes_before_the_body_is_whole_reaches_the_client(
    world: World, status: int
) -> None:
    async def refuse(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=status, text="as the node said", headers={"Acordo-Node": "n"})

    for node in world.nodes:
        node.early = refuse
    reader, writer = await world.connect()
    writer.write(
        b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"v" * 300_000
    )
    async with asyncio.timeout(PATIENCE_S):
        head = await reader.readuntil(b"\r\n\r\n")
        assert f" {status} ".encode() in head.splitlines()[0] and b"Acordo-Node: n" in head
        assert await reader.readexactly(16) == b"as the node said"
        writer.close()
        for node in world.nodes:
            node.early = None
        for _ in world.nodes:  # on no connection on which the rest of that body is awaited
            async with world.http.put(world.url + "/v1/kv/b", data=b"x") as response:
                assert response.status == 200
    assert [s[1:] for s in world.seen] == [("/v1/kv/b", 1)] * 3


async def test_a_node_that_goes_away_while_the_body_comes_leaves_it_unknown(world: World) -> None:
    asked = 0

    async def go_away(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        return await reset(request)

    for node in world.nodes:
        node.early = go_away
    reader, writer = await world.connect()
    writer.write(
        b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"v" * 300_000
    )
    async with asyncio.timeout(PATIENCE_S):
        assert b" 502 " in (await reader.readuntil(b"\r\n\r\n")).splitlines()[0]
        assert b'"outcome":"unknown"' in await reader.readuntil(b"}")
    writer.close()
    assert asked == 1


@pytest.mark.parametrize("times", [Times(write="600ms")])
async def test_a_client_that_sends_slowly_is_not_cut(world: World) -> None:
    reader, writer = await world.connect()
    writer.write(b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
    async with asyncio.timeout(PATIENCE_S):
        writer.write(b"v" * 50_000)
        await asyncio.sleep(1.5)  # more than twice what a node has for its answer
        writer.write(b"v" * 50_000)
        assert b" 200 " in (await reader.readuntil(b"\r\n\r\n")).splitlines()[0]
    writer.close()
    assert [s[2] for s in world.seen] == [100_000]


async def test_many_large_bodies_take_little_memory(world: World, tmp_path: Path) -> None:
    """100 bodies of 1 MB, nearly whole: the container has 96 MB for nginx and the balancer
    together.
    """
    most, rest = b"v" * 950_000, b"v" * 50_000
    connections = await asyncio.gather(*(world.connect() for _ in range(100)))
    master = int((tmp_path / "nginx.pid").read_text())
    try:
        async with asyncio.timeout(60):
            for _, writer in connections:
                writer.write(
                    b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + most
                )
            while world.received < 100 * len(most):
                assert resident_bytes(master) < RESIDENT_MAX
                await asyncio.sleep(0.02)
            for _, writer in connections:
                writer.write(rest)
            for reader, _ in connections:
                assert b" 200 " in (await reader.readuntil(b"\r\n\r\n")).splitlines()[0]
    finally:
        for _, writer in connections:
            writer.close()
    assert [s[2] for s in world.seen] == [1_000_000] * 100
    assert resident_bytes(master) < RESIDENT_MAX  # what nginx takes it keeps, so this is the peak


def resident_bytes(master: int) -> int:
    """Return what nginx's processes hold, what they share counted for each."""
    children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    pages = sum(
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in (master, *children)
    )
    return pages * os.sysconf("SC_PAGE_SIZE")


async def test_events_come_as_they_are_sent(world: World) -> None:
    more = asyncio.Event()

    async def stream(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        await more.wait()
        await response.write(b"data: 2\n\n")
        return response

    world.all(stream)
    async with world.http.get(world.url + "/v1/watch?prefix=a") as response:
        # while the node holds the second one back
        assert await response.content.readexactly(9) == b"data: 1\n\n"
        more.set()
        assert await response.content.readexactly(9) == b"data: 2\n\n"


@pytest.mark.parametrize(
    "path", ["/v1/kv/a%2Fb", "/v1/kv/a//b", "/v1/kv/a/../b", "/v1/kv/%C3%A9?consistency=stale"]
)
async def test_a_path_reaches_the_node_as_it_was_sent(world: World, path: str) -> None:
    reader, writer = await world.connect()
    for method in ("GET", "DELETE"):
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b"200" in await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(2)
    writer.close()
    assert {s[1] for s in world.seen} == {path}


async def test_a_key_is_never_mistaken_for_the_balancer_itself(world: World) -> None:
    reader, writer = await world.connect()
    for method, path in (
        ("PUT", "/v1/kv/../../balancer"),
        ("GET", "/v1/kv/../../balancer"),
        ("PUT", "/balancer"),
    ):
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
        assert b"Acordo-Node" in await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(2)
    writer.close()
    assert [s[:2] for s in sorted(world.seen)] == [
        ("GET", "/v1/kv/../../balancer"),
        ("PUT", "/balancer"),
        ("PUT", "/v1/kv/../../balancer"),
    ]


UNREADABLE = (
    "PUT /v1/kv/../../../a HTTP/1.1\r\nHost: x\r\n\r\n",
    f"GET /{'k' * 20000} HTTP/1.1\r\nHost: x\r\n\r\n",
    "TRACE /v1/kv/a HTTP/1.1\r\nHost: x\r\n\r\n",
    "PUT /v1/kv/a HTTP/2.0\r\nHost: x\r\n\r\n",
    "PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
    "PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\nno chunk\r\n",
)


@pytest.mark.parametrize(
    "sent", UNREADABLE, ids=["above", "long", "method", "version", "coding", "chunks"]
)
async def test_what_nginx_cannot_read_is_refused_as_a_problem(world: World, sent: str) -> None:
    reader, writer = await world.connect()
    writer.write(sent.encode())
    async with asyncio.timeout(PATIENCE_S):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 400 ") and b"application/problem+json" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["outcome"] == "not_applied"
    writer.close()
    assert world.seen == []


async def test_what_nginx_has_no_connection_for_is_told_as_a_problem(
    world: World, tmp_path: Path
) -> None:
    world.all(silent)
    path, master = tmp_path / "nginx.conf", int((tmp_path / "nginx.pid").read_text())
    children = Path(f"/proc/{master}/task/{master}/children")
    old = children.read_text().split()
    path.write_text(path.read_text().replace("worker_connections 4096", "worker_connections 9"))
    os.kill(master, signal.SIGHUP)
    async with asyncio.timeout(PATIENCE_S):
        while not (now := children.read_text().split()) or set(now) & set(old):
            await asyncio.sleep(0.02)
        held: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        # two connections each, until there is none left to a node
        while len(held) == len(world.seen):
            held.append(await world.connect())
            held[-1][1].write(b"PUT /v1/kv/held HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    while len(world.seen) < len(held):
                        await asyncio.sleep(0.02)
        head = await held[-1][0].readuntil(b"\r\n\r\n")
        assert b" 502 " in head.splitlines()[0] and b"application/problem+json" in head
        assert b'"outcome":"unknown"' in await held[-1][0].readuntil(b"}")
        held[-1][1].close()
        held.append(await world.connect())
        held[-1][1].write(b"GET /v1/kv/a HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await held[-1][0].readuntil(b"\r\n\r\n")
        assert b" 503 " in head.splitlines()[0] and b"application/problem+json" in head
        assert b'"outcome":"not_applied"' in await held[-1][0].readuntil(b"}")
    for _, writer in held:
        writer.close()


async def test_a_read_with_a_body_is_passed_with_it_and_never_again(world: World) -> None:
    async with world.http.get(world.url + "/v1/kv/a", data=b"v" * 100_000) as response:
        assert response.status == 200
    world.all(reset)
    async with world.http.get(world.url + "/v1/kv/a", data=b"v" * 100_000) as response:
        assert response.status == 502
    assert [s[2] for s in world.seen] == [100_000] * 2


async def test_connections_to_the_nodes_are_kept(world: World) -> None:
    peers: set[object] = set()

    async def note(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return web.Response(text="ok")

    world.all(note)
    for _ in range(30):
        async with world.http.get(world.url + "/v1/kv/a") as response:
            await response.read()
    assert len(peers) <= 6


async def test_a_new_list_is_taken_without_losing_a_request(world: World, tmp_path: Path) -> None:
    """What is being answered when nginx reads a new list is answered by the old worker."""
    started, go = asyncio.Event(), asyncio.Event()

    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        if request.method != "PUT":
            return web.Response(text="old")
        started.set()
        await go.wait()
        return web.Response(text="late")

    world.all(slow)
    asked = asyncio.create_task(world.http.put(world.url + "/v1/kv/a", data=b"x"))
    await started.wait()
    (tmp_path / "upstream.conf").write_text(upstream([("127.0.0.1", world.nodes[2].port)]))
    pid = int((tmp_path / "nginx.pid").read_text())
    os.kill(pid, signal.SIGHUP)
    world.nodes[2].handler = world.nodes[2].well
    while True:  # until only the third node is asked
        async with world.http.get(
            world.url + "/v1/kv/b", headers={"Connection": "close"}
        ) as response:
            if await response.text() == "n3":
                break
        await asyncio.sleep(0.02)
    go.set()
    async with await asked as response:
        assert (response.status, await response.text()) == (200, "late")
    assert [s[0] for s in world.seen].count("PUT") == 1


async def test_the_balancer_serves_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """The whole program: what is still open once the time to drain is over is closed, by nginx's
    workers too.
    """
    needs("nginx")
    port = free_port()
    async with Node("n1") as node, aiohttp.ClientSession() as http, asyncio.timeout(60):
        node.handler = silent
        program = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "deploy.balancer",
            env=os.environ
            | {
                "ACORDO_BALANCER_NODES": f"127.0.0.1:{node.port}",
                "ACORDO_BALANCER_LISTEN": f"127.0.0.1:{port}",
                "ACORDO_BALANCER_DIR": str(tmp_path),
                "ACORDO_BALANCER_WORKERS": "1",
                "ACORDO_BALANCER_DRAIN_S": "0.5",
            },
        )
        workers: list[str] = []
        try:
            while True:
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    async with http.get(f"http://127.0.0.1:{port}/balancer") as response:
                        if await response.text() == f"127.0.0.1:{node.port}\n":
                            break
                await asyncio.sleep(0.02)
            held = asyncio.create_task(http.get(f"http://127.0.0.1:{port}/v1/watch"))
            while not node.seen:
                await asyncio.sleep(0.02)
            master = (tmp_path / "nginx.pid").read_text().strip()
            workers = Path(f"/proc/{master}/task/{master}/children").read_text().split()
            program.terminate()
            assert await program.wait() == 0
            with pytest.raises(aiohttp.ClientError):
                await held
            assert [pid for pid in workers if Path(f"/proc/{pid}").exists()] == []
        finally:
            with contextlib.suppress(ProcessLookupError):
                program.kill()
            for pid in workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)


async def test_a_worker_may_hold_as_many_connections_as_it_is_told(
    world: World, tmp_path: Path
) -> None:
    master = int((tmp_path / "nginx.pid").read_text())
    (worker,) = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    (limit,) = [
        x
        for x in Path(f"/proc/{worker}/limits").read_text().splitlines()
        if x.startswith("Max open files")
    ]
    assert limit.split()[3] == "8192"


@pytest.mark.parametrize("times", [Times(shutdown="1s")])
async def test_an_old_worker_does_not_stay_for_watches(world: World, tmp_path: Path) -> None:
    async def stream(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"id: 7\n\n")
        return await silent(request)

    world.all(stream)
    master = int((tmp_path / "nginx.pid").read_text())
    async with asyncio.timeout(PATIENCE_S):
        async with world.http.get(world.url + "/v1/watch") as response:
            assert await response.content.readexactly(7) == b"id: 7\n\n"
            (old,) = Path(f"/proc/{master}/task/{master}/children").read_text().split()
            os.kill(master, signal.SIGHUP)
            # cut, so that the client takes it up again elsewhere
            with pytest.raises(aiohttp.ClientError):
                await response.content.read()
        while Path(f"/proc/{old}").exists():
            await asyncio.sleep(0.02)
        async with world.http.get(
            world.url + "/v1/watch", headers={"Last-Event-ID": "7"}
        ) as response:
            assert await response.content.readexactly(7) == b"id: 7\n\n"
