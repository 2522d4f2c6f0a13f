"""Members prove themselves to each other by certificates when they are given some."""

from __future__ import annotations

from pathlib import Path

import trustme

from acordo import Client
from tests.e2e.conftest import Start


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


async def test_a_cluster_on_certificates_serves(start: Start, tmp_path: Path) -> None:
    given = certificates(tmp_path, "n1", "n2", "n3")
    shared = {name.removeprefix("ACORDO_").lower(): value for name, value in given["n1"].items()}
    async with start(overrides=given, **shared) as cluster:
        for node in cluster.nodes.values():
            async with Client(node.url, timeout_s=30) as client:
                await client.put(f"by-{node.id}", b"1")
                assert await client.get(f"by-{node.id}") is not None
    assert not (tmp_path / "data" / "secret").exists()
