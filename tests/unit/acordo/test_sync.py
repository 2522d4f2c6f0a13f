"""The synchronous client: that it is what would be made, and what only threads can show."""

from __future__ import annotations

import asyncio
import inspect
import os
import random
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import trustme

import acordo
from acordo import Client, OutcomeUnknown, SyncClient, Unreachable
from acordo._calls.nodes import Nodes
from tests.unit.acordo.fake_cluster import FakeCluster
from tests.unit.acordo.scripted import Play, Scripted, http

ROOT = Path(__file__).parents[3]


def test_what_is_there_is_what_would_be_made() -> None:
    command = [sys.executable, ".ci/sync.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), "make sync"


def test_both_have_the_same_face() -> None:
    def face(client: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(call).parameters)
            for name, call in inspect.getmembers(client, callable)
            if not name.startswith("_")
        }

    assert face(SyncClient) == face(Client)
    assert "put" in face(SyncClient)


async def test_threads_share_one_client_and_no_connection() -> None:
    async with FakeCluster() as cluster:
        with SyncClient(cluster.urls, connections_max=3) as client:
            await asyncio.gather(
                *(asyncio.to_thread(client.put, f"k{n}", str(n)) for n in range(40))
            )
            keys = await asyncio.to_thread(lambda: [found.key for found in client.list()])
    assert sorted(keys) == sorted(f"k{n}".encode() for n in range(40))
    assert cluster.applied == 40


async def test_an_answer_that_comes_byte_by_byte_does_not_outlast_the_time_out() -> None:
    """Each byte comes in time; the answer does not."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for byte in http(200, b"v" * 1000, headers={"ETag": '"5"'}):
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with SyncClient(url, timeout_s=0.3, retries=False) as client, pytest.raises(OutcomeUnknown):
        await asyncio.to_thread(client.delete, "k")
    server.close()


async def test_closing_ends_a_watch_of_another_thread() -> None:
    async with FakeCluster() as cluster:
        client = SyncClient(cluster.urls).open()
        seen, ended = threading.Event(), list[BaseException]()

        def follow() -> None:
            try:
                for _ in client.watch("", after=0):
                    seen.set()
            except RuntimeError as exc:
                ended.append(exc)

        following = asyncio.create_task(asyncio.to_thread(follow))
        await asyncio.to_thread(client.put, "k", "v")
        await asyncio.to_thread(seen.wait, 10)
        client.close()
        await asyncio.wait_for(following, 10)
        assert "not open" in str(ended[0])


async def test_a_connection_that_the_node_has_closed_is_not_used_again() -> None:
    script = [Play(http(200, b"v", headers={"ETag": '"5"'}), then="close")]
    async with Scripted(script) as server:
        with SyncClient(server.url, retries=False) as client:
            await asyncio.to_thread(client.get, "k")
            while not await asyncio.to_thread(_is_over, client):
                await asyncio.sleep(0.01)
            assert await asyncio.to_thread(client.get, "k") is not None


def _is_over(client: SyncClient) -> bool:
    (idle,) = client._transport._idle.values()
    return not idle[0].is_usable()


async def test_nodes_are_verified_over_tls() -> None:
    authority = trustme.CA()
    server, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(trusting)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(http(200, b"v", headers={"ETag": '"5"'}))

    listening = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server)
    url = f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    with SyncClient(url, tls=trusting) as client:
        for _ in range(2):  # also on a connection that was used before
            found = await asyncio.to_thread(client.get, "k")
            assert found is not None and found.text == "v"
    with SyncClient(url, timeout_s=1) as client, pytest.raises(Unreachable, match="CERTIFICATE"):
        await asyncio.to_thread(client.get, "k")
    listening.close()


async def test_open_and_close_stand_beside_with() -> None:
    async with FakeCluster() as cluster:
        client = await Client(cluster.urls).open()
        await client.put("k", "v")
        await client.close()
        with pytest.raises(RuntimeError, match="not open"):
            await client.get("k")
        await client.open()
        assert (await client.get("k")) is not None
        await client.close()
        with pytest.raises(RuntimeError, match="not open"):
            SyncClient(cluster.urls).get("k")
    assert acordo.SyncClient is SyncClient


def test_a_leader_that_another_thread_forgets_meanwhile_is_no_fault() -> None:
    class Forgetting(Nodes):
        """The leader is forgotten right after it was looked at."""

        looks = 0

        def __getattribute__(self, name: str) -> Any:
            found = super().__getattribute__(name)
            if name != "_leader" or found is None:
                return found
            self.looks += 1
            return found if self.looks == 1 else None

    nodes = Forgetting(("http://a", "http://b"), spread=False, rng=random.Random(1))
    nodes.leads("http://b")
    assert nodes.choose(writes=True) == 1


def test_a_name_with_many_addresses_is_given_no_more_time_than_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each may swallow what it is sent. What is left is shared by those that are left."""
    waited = []

    def connect(sock: socket.socket, address: object) -> None:
        waited.append(sock.gettimeout() or 3600.0)
        raise TimeoutError("timed out")

    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"192.0.2.{n}", 80)) for n in range(4)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(socket.socket, "connect", connect)
    with (
        SyncClient("http://db.example", retries=False, connect_timeout_s=4.0) as client,
        pytest.raises(Unreachable, match="could not connect in time"),
    ):
        client.put("k", "v")
    assert len(waited) == 4, "none is left out because of the others"
    assert max(waited) <= 4.0
    assert waited[0] <= 1.0


async def test_a_forked_process_uses_none_of_its_parents_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both would read each other's answers; and the parent's is not shut down by the child."""
    shut: list[object] = []
    async with FakeCluster() as cluster:
        with SyncClient(cluster.urls[0]) as client:
            await asyncio.to_thread(client.put, "k", "parent")
            (parents,) = client._transport._idle[cluster.urls[0]]
            monkeypatch.setattr(socket.socket, "shutdown", lambda sock, how: shut.append(sock))
            monkeypatch.setattr(os, "getpid", lambda: 1)
            await asyncio.to_thread(client.put, "k", "child")
            (childs,) = client._transport._idle[cluster.urls[0]]
            assert childs is not parents
            assert shut == []
            monkeypatch.undo()
