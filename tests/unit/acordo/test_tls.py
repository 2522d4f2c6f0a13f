"""Whom a client trusts over https, and what it shows."""

from __future__ import annotations

import asyncio
import re
import ssl
from pathlib import Path

import pytest
import trustme
from typer.testing import CliRunner

from acordo import BadRequest, Client, Unreachable, client_tls
from acordo._cli import main as _all_commands  # noqa: F401  # importing it adds them
from acordo._cli.shell import app, hoisted

AUTHORITY = trustme.CA()
MINE = AUTHORITY.issue_cert("ada.example")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    MINE.private_key_pem.write_to_path(tmp_path / "my.key")
    MINE.cert_chain_pems[0].write_to_path(tmp_path / "my.pem")
    return tmp_path


def test_nothing_given_is_the_systems_trust() -> None:
    assert client_tls(environ={}) is None
    assert client_tls(environ={"ACORDO_CA": ""}) is None


def test_an_authority_is_trusted_instead_of_the_systems(files: Path) -> None:
    for context in (
        client_tls(ca=files / "ca.pem", environ={}),
        client_tls(environ={"ACORDO_CA": str(files / "ca.pem")}),
    ):
        assert context is not None
        assert len(context.get_ca_certs()) == 1
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ca": "no.pem"}, "no.pem"),
        ({"ca": "my.key"}, "my.key"),
        ({"cert": "my.pem"}, "my.pem"),
        ({"cert": "my.pem", "cert_key": "ca.pem"}, "ca.pem"),
        ({"cert_key": "my.key"}, "key of no certificate"),
    ],
)
def test_unusable_files_are_named(files: Path, given: dict[str, str], said: str) -> None:
    with pytest.raises(BadRequest, match=said) as caught:
        client_tls(**{name: files / file for name, file in given.items()}, environ={})
    assert caught.value.code == "tls_files"


async def test_a_port_without_tls_is_told_apart() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with Client(f"https://127.0.0.1:{port}", timeout_s=1) as client:
            with pytest.raises(Unreachable, match="this port speaks plain HTTP"):
                await client.get("k")


def test_the_command_line_takes_the_files_anywhere_and_names_a_wrong_one(files: Path) -> None:
    given = ["get", "k", "--ca", "a", "--cert=b", "--cert-key", "c"]
    assert hoisted(given) == ["--ca", "a", "--cert=b", "--cert-key", "c", "get", "k"]
    asked = ["--url", "https://127.0.0.1:1", "get", "k", "--ca", str(files / "no.pem")]
    result = CliRunner().invoke(app, hoisted(asked))
    assert result.exit_code == 2
    assert "no.pem" in re.sub(r"\s", "", result.output)
