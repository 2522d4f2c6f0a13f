"""A port that other machines reach serves them once they have to sign in, and not before."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.settings.node import NodeSettings
from node import server
from node.http.origin import of_this_machine
from tests.unit.node.conftest import Open

CERT = {"http_tls_cert_file": "a.pem", "http_tls_key_file": "a.key"}
CA = {"http_tls_client_ca_file": "ca.pem"}


@pytest.mark.parametrize(
    ("given", "closed"),
    [
        ({}, False),
        (CERT, False),
        ({"http_host": "192.0.2.7"} | CERT, True),
        ({"http_host": "0.0.0.0"} | CERT, True),
        ({"http_host": "192.0.2.7"} | CERT | CA, False),
        ({"http_host": "192.0.2.7", "http_tls_client_auth": "optional"} | CERT | CA, True),
        ({"http_host": "192.0.2.7", "http_open": True}, False),
        ({"http_host": "192.0.2.7", "http_open": True} | CERT, False),
    ],
)
def test_where_strangers_are_refused(given: dict[str, Any], closed: bool) -> None:
    assert NodeSettings(**given).closed is closed


def test_a_network_without_https_is_refused_unless_it_is_said_to_be_open() -> None:
    for more in ({}, {"http_tls_client_auth": "required"}):
        with pytest.raises(ValueError, match="http_tls_cert_file"):
            NodeSettings(http_host="192.0.2.7", **more)  # type: ignore[arg-type]


def test_what_comes_from_this_machine() -> None:
    here = [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("10.0.0.1", "10.0.0.1")]
    here += [("::ffff:10.0.0.1", "::ffff:10.0.0.1"), ("::ffff:127.0.0.1", "10.0.0.1")]
    assert all(of_this_machine(*pair) for pair in here)
    there = [("10.0.0.2", "10.0.0.1"), ("", ""), ("::2", "::1"), ("", "10.0.0.1")]
    assert not any(of_this_machine(*pair) for pair in there)


async def test_a_stranger_is_served_once_access_is_controlled(
    open_api: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = [False]
    monkeypatch.setattr(server, "of_this_machine", lambda remote, local: not strange[0])
    async with open_api(closed=True, etcd=True) as api:
        form = {"principal": "admin", "roles": ["admin"]}
        made = await api.ask("POST", "/v1/access/tokens", json=form)
        assert made.status == 201, "this machine may"
        for _ in ("before", "with a token, and switched off"):
            strange[0] = True
            for method, path in (
                ("GET", "/v1/kv/k"), ("PUT", "/v1/kv/k"), ("POST", "/v1/access/tokens"),
                ("GET", "/metrics"), ("GET", "/v1/watch"), ("GET", "/v1/cluster"),
            ):  # fmt: skip
                (await api.ask(method, path)).problem(403, "not_open")
            refused = await api.ask("POST", "/v3/kv/range", data=b'{"key": "aw=="}')
            assert (refused.status, refused.json()["code"]) == (403, 7)
            for free in ("/livez", "/readyz", "/health"):
                assert (await api.ask("GET", free)).status == 200, free
            strange[0] = False
        token = {"Authorization": f"Bearer {made.json()['token']}"}
        assert (await api.ask("POST", "/v1/access/enable", headers=token)).status == 200
        strange[0] = True
        (await api.ask("GET", "/v1/kv/k")).problem(401, "not_signed_in")
        put = await api.ask("PUT", "/v1/kv/k", data=b"1", headers=token)
        assert put.status == 201
        assert (await api.ask("POST", "/v1/access/disable", headers=token)).status == 200
        (await api.ask("GET", "/v1/kv/k", headers=token)).problem(403, "not_open")
