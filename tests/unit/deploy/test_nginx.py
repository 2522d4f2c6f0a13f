"""The real nginx with our configuration, on loopback, before nodes that misbehave."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from deploy.balancer import Balancer, upstream
from tests.servers.install import Missing, ensure
from tests.servers.process import free_port

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Node:
    """A node that answers as it is told, and counts."""

    def __init__(self, name: str) -> None:
        self.name, self.port = name, 0
        self.seen: list[tuple[str, str, int]] = []
        self.handler: Handler = self.well

    async def well(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=self.name, headers={"Acordo-Node": self.name})

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/readyz":
            return web.Response(text="ok")
        body = await request.content.read()
        self.seen.append(
            (request.method, request.raw_path if hasattr(request, "raw_path") else request.path, len(body))
        )
        return await self.handler(request)

    async def __aenter__(self) -> Node:
        self.runner = web.ServerRunner(web.Server(self.handle), shutdown_timeout=0.1)  # some is never answered
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.port = self.runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.runner.cleanup()


class World:
    def __init__(self, nodes: list[Node], http: aiohttp.ClientSession, url: str) -> None:
        self.nodes, self.http, self.url = nodes, http, url

    @property
    def seen(self) -> list[tuple[str, str, int]]:
        return [s for n in self.nodes for s in n.seen]

    def all(self, handler: Handler) -> None:
        for node in self.nodes:
            node.handler = handler


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    try:
        ensure("nginx")
    except Missing as exc:
        pytest.skip(f"nginx: {exc}")
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(Node(f"n{i}")) for i in (1, 2, 3)]
        port = free_port()
        balancer = Balancer([f"127.0.0.1:{n.port}" for n in nodes], f"127.0.0.1:{port}", tmp_path, workers="1")
        balancer.choice.chosen = tuple(("127.0.0.1", n.port) for n in nodes)
        balancer.write()
        balancer.start()
        assert balancer.nginx is not None
        nginx = balancer.nginx
        try:
            http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)))
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


async def reset(request: web.BaseRequest) -> web.StreamResponse:
    """Take the whole request, then drop the connection."""
    assert request.transport is not None
    request.transport.abort()
    raise asyncio.CancelledError


async def unavailable(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=503, text="no leader", content_type="application/problem+json")


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
async def test_a_write_that_a_node_refuses_goes_back_as_the_node_said(world: World, method: str) -> None:
    world.all(unavailable)
    async with world.http.request(method, world.url + "/v1/kv/a", data=b"x") as response:
        assert (response.status, await response.text()) == (503, "no leader")
    assert len(world.seen) == 1


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


async def test_one_megabyte_passes_both_ways_and_more_than_two_is_refused_unsent(world: World) -> None:
    big = b"v" * 1_500_000

    async def echo(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=big)

    world.all(echo)
    for method in ("PUT", "POST"):
        async with world.http.request(method, world.url + "/v1/kv/a", data=big) as response:
            assert response.status == 200 and await response.read() == big
    assert [s[2] for s in world.seen] == [len(big)] * 2
    # A real client may see its connection end while it still sends; the head alone shows the answer.
    reader, writer = await asyncio.open_connection("127.0.0.1", int(world.url.rpartition(":")[2]))
    writer.write(f"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: {2 * 1024 * 1024 + 1}\r\n\r\n".encode())
    assert b" 413 " in await reader.readuntil(b"\r\n\r\n")
    assert b'"outcome":"not_applied"' in await reader.readuntil(b"}")
    writer.close()
    assert len(world.seen) == 2


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
        assert await response.content.readexactly(9) == b"data: 1\n\n"  # while the node holds the second one back
        more.set()
        assert await response.content.readexactly(9) == b"data: 2\n\n"


@pytest.mark.parametrize("path", ["/v1/kv/a%2Fb", "/v1/kv/a//b", "/v1/kv/a/../b", "/v1/kv/%C3%A9?consistency=stale"])
async def test_a_path_reaches_the_node_as_it_was_sent(world: World, path: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(world.url.rpartition(":")[2]))
    for method in ("GET", "DELETE"):
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b"200" in await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(2)
    writer.close()
    assert {s[1] for s in world.seen} == {path}


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
        async with world.http.get(world.url + "/v1/kv/b", headers={"Connection": "close"}) as response:
            if await response.text() == "n3":
                break
        await asyncio.sleep(0.02)
    go.set()
    async with await asked as response:
        assert (response.status, await response.text()) == (200, "late")
    assert [s[0] for s in world.seen].count("PUT") == 1
