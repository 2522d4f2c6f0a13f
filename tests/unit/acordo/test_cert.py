"""`acordo cert`: what it makes is trusted as meant, and it neither overwrites nor exposes."""

from __future__ import annotations

import asyncio
import builtins
import json
import ssl
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from acordo import client_tls
from acordo._cli import main as _commands
from acordo._cli.shell import app, hoisted
from coordinator.raft.net.security import Certificates, certified_names, tls_contexts
from node.http.tls import HttpTls, TlsFiles

assert _commands.COMMANDS  # importing it registers the commands


def acordo(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, hoisted([str(each) for each in arguments]))
    return done.exit_code, " ".join(done.output.split())


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    directory = tmp_path / "authority"
    assert acordo("cert", "init", directory) == (0, f"{directory}/ca.pem and ca.key")
    return directory


async def meet(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> tuple[Any, Any]:
    """Return the certificates that each end has proved to the other."""
    shown: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shown.set_result(writer.get_extra_info("peercert"))
        writer.write(b"!")
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0, ssl=server) as listening:
        port = listening.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client, server_hostname=host if client.check_hostname else None
        )
        assert await reader.read() == b"!"  # in TLS 1.3 a server refuses a client only here
        found = writer.get_extra_info("peercert")
        writer.close()
        return await shown, found


async def test_members_prove_their_ids_to_each_other(authority: Path) -> None:
    for member in ("n1", "n2"):
        assert acordo("cert", "issue", member, "-d", authority)[0] == 0
    ends = [
        tls_contexts(
            Certificates(
                str(authority / f"{member}.pem"),
                str(authority / f"{member}.key"),
                str(authority / "ca.pem"),
            )
        )
        for member in ("n1", "n2")
    ]
    dialler, listener = await meet(ends[0][0], ends[1][1], "")
    assert (certified_names(dialler), certified_names(listener)) == (
        frozenset({"n2"}),
        frozenset({"n1"}),
    )


async def test_a_node_and_a_client(authority: Path) -> None:
    hosts = ("--host", "127.0.0.1", "--host", "node1.example")
    assert acordo("cert", "issue", "n1", "-d", authority, *hosts)[0] == 0
    assert acordo("cert", "issue", "ada", "-d", authority, "--client")[0] == 0
    ca = authority / "ca.pem"
    node = HttpTls(TlsFiles(authority / "n1.pem", authority / "n1.key", client_ca=ca)).context
    ada = client_tls(ca=ca, cert=authority / "ada.pem", cert_key=authority / "ada.key")
    assert ada is not None
    ada.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python 3.13 does
    for host in ("127.0.0.1", "node1.example", "n1"):
        shown, _ = await meet(node, ada, host)
        assert certified_names(shown) == {"ada"}
    with pytest.raises(ssl.SSLCertVerificationError):
        await meet(node, ada, "node2.example")
    serving = HttpTls(TlsFiles(authority / "ada.pem", authority / "ada.key")).context
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        await meet(serving, ada, "ada")


def test_keys_are_private_and_nothing_is_overwritten(authority: Path) -> None:
    assert acordo("cert", "issue", "n1", "-d", authority)[0] == 0
    for stem in ("ca", "n1"):
        assert stat.S_IMODE((authority / f"{stem}.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(authority.stat().st_mode) == 0o700
    before = {file.name: file.read_bytes() for file in authority.iterdir()}
    assert set(before) == {"ca.key", "ca.pem", "n1.key", "n1.pem"}
    for again in (("init", authority), ("issue", "n1", "-d", authority)):
        code, said = acordo("cert", *again)
        assert code == 2
        assert "is there already" in said
    assert {file.name: file.read_bytes() for file in authority.iterdir()} == before
    assert acordo("cert", "issue", "n1", "-d", authority, "--replace")[0] == 0
    after = {file.name: file.read_bytes() for file in authority.iterdir()}
    assert {name for name in after if after[name] != before.get(name)} == {"n1.key", "n1.pem"}
    assert HttpTls(TlsFiles(authority / "n1.pem", authority / "n1.key")).context is not None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("ca",), "is no name of a certificate"),
        (("../n1",), "is no name of a certificate"),
        (("",), "is no name of a certificate"),
        (("n1", "--host", "knoten.exämple"), "is no name of a host"),
        (("n1", "--days", "3651"), "the authority ends on"),
    ],
)
def test_what_cannot_be_issued_leaves_nothing(
    authority: Path, given: tuple[str, ...], said: str
) -> None:
    code, told = acordo("cert", "issue", *given, "-d", authority)
    assert code == 2
    assert said in told
    assert {file.name for file in authority.iterdir()} == {"ca.key", "ca.pem"}


def test_an_authority_that_is_not_whole_issues_nothing(authority: Path, tmp_path: Path) -> None:
    code, told = acordo("cert", "issue", "n1", "-d", tmp_path)
    assert code == 2
    assert "acordo cert init" in told
    assert acordo("cert", "init", tmp_path / "other")[0] == 0
    (authority / "ca.pem").write_bytes((tmp_path / "other" / "ca.pem").read_bytes())
    code, told = acordo("cert", "issue", "n1", "-d", authority)
    assert code == 2
    assert "do not belong together" in told


def test_what_a_certificate_says(authority: Path) -> None:
    acordo("cert", "issue", "n1", "-d", authority, "--host", "10.0.0.11", "--days", "30")
    code, told = acordo("cert", "show", authority / "n1.pem")
    assert code == 0
    assert "CN=n1 names n1, 10.0.0.11 signed CN=acordo" in told
    assert "30 days left" in told
    code, told = acordo("--json", "cert", "show", authority / "n1.pem")
    assert json.loads(told)["names"] == ["n1", "10.0.0.11"]
    for wrong in (authority / "n1.key", authority / "none.pem"):
        assert acordo("cert", "show", wrong)[0] == 2


def test_without_the_library_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "acordo._cli.authority", raising=False)
    monkeypatch.delattr(sys.modules["acordo._cli"], "authority", raising=False)
    real = builtins.__import__

    def absent(name: str, *more: Any) -> Any:
        if name.startswith("cryptography"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", absent)
    code, told = acordo("cert", "init", tmp_path / "a")
    monkeypatch.undo()
    assert code == 2
    assert "pip install acordo[cert]" in told
    assert not (tmp_path / "a").exists()
