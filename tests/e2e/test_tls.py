"""Members prove themselves to each other by certificates when they are given some, and serve HTTPS
to clients.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme

from acordo import Client, Unreachable, client_tls
from tests.e2e.conftest import Start, until


def certificates(directory: Path, *ids: str) -> dict[str, dict[str, str]]:
    """Return the settings of each member: its own certificate, all signed by one authority."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    settings = {}
    for member in ids:
        own = authority.issue_cert(member)
        own.private_key_pem.write_to_path(directory / f"{member}.key")
        own.cert_chain_pems[0].write_to_path(directory / f"{member}.pem")
        settings[member] = {
            "ACORDO_TLS_CERT_FILE": str(directory / f"{member}.pem"),
            "ACORDO_TLS_KEY_FILE": str(directory / f"{member}.key"),
            "ACORDO_TLS_CA_FILE": str(directory / "ca.pem"),
        }
    return settings


def https(directory: Path) -> dict[str, str]:
    """Write a new authority's pair of files for HTTPS; return the settings that name it."""
    authority = trustme.CA()
    own = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(directory / "https-ca.pem")
    own.private_key_pem.write_to_path(directory / "https.key")
    own.cert_chain_pems[0].write_to_path(directory / "https.pem")
    return {
        "http_tls_cert_file": str(directory / "https.pem"),
        "http_tls_key_file": str(directory / "https.key"),
    }


async def test_a_cluster_on_certificates_serves(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = certificates(tmp_path, "n1", "n2", "n3")
    shared = {name.removeprefix("ACORDO_").lower(): value for name, value in given["n1"].items()}
    async with start(overrides=given, **shared, **https(tmp_path)) as cluster:
        trusted = client_tls(ca=tmp_path / "https-ca.pem")
        for node in cluster.nodes.values():
            assert node.url.startswith("https://")
            async with Client(node.url, timeout_s=30, tls=trusted) as client:
                await client.put(f"by-{node.id}", b"1")
                assert await client.get(f"by-{node.id}") is not None
        await renewed_under_writes(list(cluster.nodes.values()), trusted, tmp_path, monkeypatch)
    assert not (tmp_path / "data" / "secret").exists()


async def renewed_under_writes(
    nodes: list[Any], trusted: Any, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exchange the certificate of HTTPS while a client writes, which must not notice."""
    urls = [node.url for node in nodes]
    async with Client(urls, timeout_s=30, retries=False, tls=trusted) as client:
        await client.put("k", b"before")
        https(directory)

        async def taken_over() -> bool:
            await client.put("k", b"meanwhile")
            return all([await _renewals(node.url, directory) >= 1 for node in nodes])

        await until(taken_over, "the new certificate is shown")
        await client.put("k", b"after")
    with pytest.raises(Unreachable):
        async with Client(urls, timeout_s=2, tls=trusted) as client:
            await client.get("k")
    monkeypatch.setenv("ACORDO_CA", str(directory / "https-ca.pem"))
    async with Client(urls, timeout_s=30) as client:
        found = await client.get("k")
        assert found is not None
        assert found.value == b"after"


async def _renewals(url: str, directory: Path) -> float:
    """Return how often a node has taken over files; 0 while it still shows the old certificate."""
    connector = aiohttp.TCPConnector(ssl=client_tls(ca=directory / "https-ca.pem") or True)
    async with aiohttp.ClientSession(connector=connector) as http:
        try:
            async with http.get(f"{url}/metrics") as response:
                text = await response.text()
        except aiohttp.ClientConnectorCertificateError:
            return 0.0
    (value,) = re.findall(r'acordo_renewals_total\{files="HTTPS"\} (\S+)', text)
    return float(value)


OLD, NEW = "the secret that all members had", "the secret that they will have"


async def test_the_members_secret_is_exchanged_under_writes(
    start: Start, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    files = {member: tmp_path / f"{member}.secret" for member in ("n1", "n2", "n3")}
    for file in files.values():
        file.touch(mode=0o600)
        file.write_text(OLD)
    own = {member: {"ACORDO_SECRET_FILE": str(file)} for member, file in files.items()}
    async with start(overrides=own, secret_file=str(files["n1"])) as cluster:
        nodes = cluster.nodes
        urls = [node.url for node in nodes.values()]
        async with Client(urls, timeout_s=30) as client:
            written = 0

            async def taken_over(member: str, times: int) -> bool:
                nonlocal written
                written += 1
                await client.put(f"k{written}", str(written))
                async with http.get(f"{nodes[member].url}/metrics") as response:
                    text = await response.text()
                (value,) = re.findall(r'acordo_renewals_total\{files="members"\} (\S+)', text)
                return float(value) >= times

            for times, lines in enumerate(((OLD, NEW), (NEW, OLD), (NEW,)), 1):
                for member, file in files.items():
                    file.write_text("\n".join(lines))
                    cluster.kill(member, signal.SIGHUP)
                    await until(lambda: taken_over(member, times), f"{member} takes it")  # noqa: B023
            files["n3"].write_text(OLD)
            cluster.kill("n3", signal.SIGHUP)

            async def cut_off() -> bool:
                async with http.get(f"{nodes['n3'].url}/readyz") as response:
                    return response.status == 503

            await until(cut_off, "whoever knows only the old secret is no member any more")
            files["n3"].write_text(NEW)
            cluster.kill("n3", signal.SIGHUP)
            await cluster.wait_ready()
            for at in range(1, written + 1):
                found = await client.get(f"k{at}")
                assert found is not None
                assert found.value == str(at).encode()
