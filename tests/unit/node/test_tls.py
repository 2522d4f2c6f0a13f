"""HTTPS: who is let in, what a certificate says, and what a change of the files changes."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import functools
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
import uvloop

from kv.errors import BadRequest
from node.http import handshakes
from node.http.connections import HttpConnection
from node.http.tls import HttpTls, TlsFiles
from node.startup.renewal import Renewable, Renewal, ends_at
from node.startup.unready_listener import UnreadyListener
from tests.unit.node.conftest import Api, opened

AUTHORITY, STRANGER = trustme.CA(), trustme.CA()


def on_uvloop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on the loop that nodes have: its TLS is not asyncio's."""

    @functools.wraps(test)
    def run(*given: Any, **more: Any) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(test(*given, **more))

    return run


def write(directory: Path, authority: trustme.CA = AUTHORITY, **more: Any) -> TlsFiles:
    """Write a node's pair of files, and the authority's."""
    cert = authority.issue_cert("127.0.0.1", "localhost", **more)
    (directory / "node.pem").write_bytes(cert.cert_chain_pems[0].bytes())
    (directory / "node.key").write_bytes(cert.private_key_pem.bytes())
    AUTHORITY.cert_pem.write_to_path(str(directory / "ca.pem"))
    return TlsFiles(directory / "node.pem", directory / "node.key")


def trusting(
    authority: trustme.CA = AUTHORITY, show: trustme.LeafCert | None = None
) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if show is not None:
        show.configure_cert(context)
    return context


@contextlib.asynccontextmanager
async def serving(tls: HttpTls, **settings: Any) -> AsyncIterator[tuple[Api, int]]:
    async with opened(**settings) as api:
        taken = socket.create_server(("127.0.0.1", 0))
        api.server._acceptor.close()  # type: ignore[union-attr]  # the plain port of the fixture
        await api.server.start(sock=taken, tls=lambda: tls.context)
        yield api, api.server.port


async def ask(port: int, context: ssl.SSLContext, path: str = "/livez") -> int:
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http,
        http.get(f"https://127.0.0.1:{port}{path}") as response,
    ):
        return response.status


@on_uvloop
async def test_a_value_goes_over_tls_and_an_unknown_authority_is_refused(tmp_path: Path) -> None:
    async with serving(HttpTls(write(tmp_path))) as (_, port):
        url = f"https://127.0.0.1:{port}/v1/kv/k"
        connector = aiohttp.TCPConnector(ssl=trusting())
        async with aiohttp.ClientSession(connector=connector) as http:
            large = bytes(range(256)) * 3500
            async with http.put(url, data=large) as put:
                assert put.status == 201
            async with http.get(url) as got:
                assert await got.read() == large
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await ask(port, trusting(STRANGER))


@on_uvloop
async def test_a_reader_that_stops_reading_is_cut_as_over_plain_http(tmp_path: Path) -> None:
    async with serving(HttpTls(write(tmp_path)), answer_stall_s=0.2) as (api, port):
        url = f"https://127.0.0.1:{port}/v1/kv/k"
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting())) as http,
            http.put(url, data=bytes(900_000)) as put,
        ):
            assert put.status == 201
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting(), limit=1024)
        transport = writer.transport
        transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /v1/kv/k HTTP/1.1\r\nHost: h\r\n\r\n" * 40)
        connections = api.server.services.load.connections
        assert connections is not None
        async with asyncio.timeout(20):
            while not connections.stalled_total:
                await asyncio.sleep(0.02)
        assert connections.answer_bytes == 0 or len(connections) <= 1
        transport.abort()


@pytest.mark.parametrize("must", [True, False])
@on_uvloop
async def test_the_names_of_a_clients_certificate(tmp_path: Path, must: bool) -> None:
    files = write(tmp_path)._replace(client_ca=tmp_path / "ca.pem", clients_must=must)
    seen: list[tuple[str, ...]] = []
    async with serving(HttpTls(files)) as (api, port):
        answer = api.server._answer

        async def looked(x: Any, route: Any) -> Any:
            assert isinstance(x.request.protocol, HttpConnection)
            seen.append(x.request.protocol.certificate_names)
            return await answer(x, route)

        api.server._answer = looked  # type: ignore[method-assign]
        shown = AUTHORITY.issue_cert("ada.example", "ada-2.example", common_name="ada")
        assert await ask(port, trusting(show=shown)) == 200
        assert seen == [("ada", "ada.example", "ada-2.example")]
        strange = STRANGER.issue_cert("ada.example", common_name="ada")
        for refused in [strange] + ([None] if must else []):
            with pytest.raises(aiohttp.ClientError):
                await ask(port, trusting(show=refused))
        assert len(seen) == 1, "nobody got in"
        if not must:
            assert await ask(port, trusting()) == 200
            assert seen[-1] == ()


@pytest.mark.parametrize("made", ["missing", "not pem", "of another pair", "client ca"])
def test_unusable_files_are_refused_by_name(tmp_path: Path, made: str) -> None:
    files = write(tmp_path)
    if made == "missing":
        files.key.unlink()
    elif made == "not pem":
        files.cert.write_text("hello")
    elif made == "of another pair":
        files.key.write_bytes(AUTHORITY.issue_cert("a.example").private_key_pem.bytes())
    else:
        files = files._replace(client_ca=tmp_path / "no.pem")
    with pytest.raises(BadRequest) as caught:
        HttpTls(files)
    assert caught.value.code == "certificates_unusable"
    assert str(files.cert) in caught.value.detail


@on_uvloop
async def test_a_changed_pair_is_taken_over_and_connections_stay(tmp_path: Path) -> None:
    files = write(tmp_path)
    tls, renewal = HttpTls(files), Renewal()
    renewal.add(Renewable("HTTPS", files[:2], tls.renew), [files.cert])
    async with serving(tls) as (_, port):
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trusting(), limit=1)
        ) as http:
            url = f"https://127.0.0.1:{port}/livez"
            async with http.get(url) as before:
                assert before.status == 200
            write(tmp_path, STRANGER)
            renewal.look()
            async with http.get(url) as after:  # on the connection that it has
                assert after.status == 200
        assert await ask(port, trusting(STRANGER)) == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await ask(port, trusting())
    assert figures(renewal)["acordo_renewals"] == [1]


@on_uvloop
async def test_a_half_rotated_pair_is_refused_and_the_old_one_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write(tmp_path)
    tls, renewal = HttpTls(files), Renewal()
    renewal.add(Renewable("HTTPS", files[:2], tls.renew), [files.cert])
    async with serving(tls) as (_, port):
        fresh = AUTHORITY.issue_cert("127.0.0.1")
        files.cert.write_bytes(fresh.cert_chain_pems[0].bytes())
        for _ in range(3):
            renewal.look()
        assert "HTTPS" in (renewal.trouble() or "")
        assert figures(renewal)["acordo_renewal_refused"] == [1]
        assert capsys.readouterr().out.count("cannot be used") == 1, "said once"
        assert await ask(port, trusting()) == 200
        files.key.write_bytes(fresh.private_key_pem.bytes())
        renewal.look()
        assert renewal.trouble() is None
        assert figures(renewal) | {"acordo_certificate_expires_seconds": []} == {
            "acordo_renewal_refused": [0],
            "acordo_renewals": [1],
            "acordo_certificate_expires_seconds": [],
        }
        assert await ask(port, trusting()) == 200


def figures(renewal: Renewal) -> dict[str, list[float]]:
    return {m.name: [sample.value for sample in m.samples] for m in renewal.collect()}


def test_when_a_certificate_ends_is_told_and_that_it_has(tmp_path: Path) -> None:
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3)
    files, renewal = write(tmp_path, not_after=soon), Renewal()
    assert ends_at(files.cert) == pytest.approx(soon.timestamp(), abs=1)
    assert ends_at(files.key) is None
    renewal.add(Renewable("HTTPS", files[:2], lambda: None), [files.cert, None])
    (left,) = figures(renewal)["acordo_certificate_expires_seconds"]
    assert 2.9 * 86400 < left <= 3 * 86400
    assert renewal.trouble() is None
    before = datetime.datetime.fromtimestamp(time.time() - 60, datetime.UTC)
    write(tmp_path, not_after=before)
    renewal.look()
    assert renewal.trouble() == f"{files.cert} has ended"
    assert figures(renewal)["acordo_certificate_expires_seconds"][0] < 0


@on_uvloop
async def test_a_client_that_speaks_plain_http_is_told_so(tmp_path: Path) -> None:
    async with serving(HttpTls(write(tmp_path))) as (api, port):
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"http://127.0.0.1:{port}/livez") as response,
        ):
            told = await response.json(content_type=None)
        assert (response.status, told["code"], told["allowed"]) == (
            400, "bad_http", "https:// in the URL",
        )  # fmt: skip
        assert response.headers["Acordo-Node"] == "n1"
        for noise in (b"\x00\x01", b""):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(noise)
            writer.write_eof()
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
        assert api.server._acceptor is not None
        shaking = api.server._acceptor.handshakes
        assert shaking is not None
        async with asyncio.timeout(5):
            while shaking.failed_total < 3 or len(shaking):
                await asyncio.sleep(0.01)
        text = "".join(str(m.samples) for m in api.server.services.metrics.collect())
        assert "name='acordo_http_tls_handshakes_failed_total', labels={}, value=3," in text
        assert await ask(port, trusting()) == 200


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], None]:
    def chosen(silent_s: float, whole_s: float) -> None:
        monkeypatch.setattr(handshakes, "HANDSHAKES_MAX", 4)
        monkeypatch.setattr(handshakes, "SILENT_S", silent_s)
        monkeypatch.setattr(handshakes, "HANDSHAKE_S", whole_s)

    return chosen


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"])
@on_uvloop
async def test_silent_clients_are_bounded_and_keep_nobody_out(
    tmp_path: Path, few: Callable[[float, float], None], sent: bytes
) -> None:
    """Twelve clients that begin a handshake and say no more, where four may be under way."""
    few(0.05, 60.0)
    async with serving(HttpTls(write(tmp_path))) as (api, port):
        assert api.server._acceptor is not None
        shaking = api.server._acceptor.handshakes
        assert shaking is not None
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(12)]
        for _, writer in silent:
            writer.write(sent)
        assert await asyncio.wait_for(ask(port, trusting()), 20) == 200
        assert len(shaking) <= 4
        assert shaking.failed_total >= 9 - 1
        for _, writer in silent:
            writer.close()
    assert len(shaking) == 0


@on_uvloop
async def test_a_handshake_has_its_time(
    tmp_path: Path, few: Callable[[float, float], None]
) -> None:
    few(60.0, 0.1)
    async with serving(HttpTls(write(tmp_path))) as (api, port):
        for sent in (b"", b"\x16\x03\x01\x02\x00\x01"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 20) == b""
            writer.close()
        connections = api.server.services.load.connections
        assert connections is not None
        assert len(connections) == 0


@on_uvloop
async def test_a_node_that_waits_for_its_store_speaks_tls_too(tmp_path: Path) -> None:
    tls = HttpTls(write(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        taken.setblocking(False)
        async with UnreadyListener("n1", tls.context) as listener:
            await listener.listen(taken)
            port = taken.getsockname()[1]
            assert await ask(port, trusting()) == 200
            assert await ask(port, trusting(), "/readyz") == 503
