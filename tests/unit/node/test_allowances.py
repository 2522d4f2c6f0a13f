"""What one client may have: decided exactly, told exactly, and nothing of another's."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.http import allowances
from node.http.allowances import PerClient, Rate
from tests.unit.node.conftest import Open, raw_exchange


@given(
    st.integers(1, 50),
    st.integers(1, 20),
    st.lists(st.integers(0, 3000), min_size=1, max_size=120),
)
def test_no_window_has_more_than_burst_and_rate_and_whoever_waits_comes_in(
    per_s: int, burst: int, gaps_ms: list[int]
) -> None:
    rate, now, let_in = Rate(per_s, burst), 1000.0, list[float]()
    for gap in gaps_ms:
        now += gap / 1000
        wait_s = rate.spend("a", now)
        if wait_s:
            assert len(let_in) >= burst, "the first ones of a burst are never refused"
            assert 0 < wait_s <= 1 / per_s + 1e-9
            now += wait_s
            assert rate.spend("a", now) == 0.0, "told when, and then let in"
        let_in.append(now)
    for first, begun in enumerate(let_in):
        for last in range(first, len(let_in)):
            assert last - first + 1 <= burst + (let_in[last] - begun) * per_s + 1e-6


def test_one_client_takes_nothing_from_another_and_few_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(allowances, "CLIENTS_MAX", 3)
    rate = Rate(1.0, 1)
    assert [rate.spend(client, 0.0) for client in "abc"] == [0.0] * 3
    assert rate.spend("a", 0.5) == 0.5
    assert rate.spend("d", 0.5) == 0.0
    assert len(rate) == 3


def test_an_amount_is_taken_and_given_back() -> None:
    amount = PerClient(2)
    assert [amount.take("a"), amount.take("a"), amount.take("a"), amount.take("b")] == [
        True, True, False, True,
    ]  # fmt: skip
    amount.give_back("a")
    assert amount.take("a")
    for client in "aab":
        amount.give_back(client)
    assert len(amount) == 0
    assert all(PerClient(0).take("a") for _ in range(100))


async def test_beyond_its_rate_a_client_gets_429_and_nothing_was_changed(open_api: Open) -> None:
    async with open_api(client_rate_max=0.5, client_rate_burst=3) as api:
        for at in range(3):
            assert (await api.ask("PUT", "/v1/kv/k", data=b"%d" % at)).status in (200, 201)
        before = api.consensus.settled.last
        refused = await api.ask("PUT", "/v1/kv/k", data=b"lost")
        told = refused.problem(429, "rate_limited")
        assert "0.5 times a second" in told["detail"]
        assert refused.headers["RateLimit-Policy"] == '"rate";q=3;w=6'
        assert refused.headers["RateLimit"] == '"rate";r=0;t=2'
        assert refused.headers["Retry-After"] == "2"
        assert api.consensus.settled.last == before
        for free in ("/livez", "/readyz", "/metrics", "/v1/cluster"):
            assert (await api.ask("GET", free)).status == 200, free
        text = (await api.ask("GET", "/metrics")).body.decode()
        assert 'acordo_http_rate_limited_total{limit="rate"} 1.0' in text


async def test_clients_of_etcd_are_told_in_its_words(open_api: Open) -> None:
    async with open_api(client_rate_max=0.001, client_rate_burst=1, etcd=True) as api:
        answers = [await api.ask("POST", "/v3/kv/range", data=b'{"key": "aw=="}') for _ in range(2)]
        assert [answer.status for answer in answers] == [200, 503]
        assert answers[1].json()["code"] == 8
        assert answers[1].headers["RateLimit"].startswith('"rate";r=0')


async def test_requests_and_watches_of_one_client_are_bounded_apart(open_api: Open) -> None:
    async with open_api(client_requests_max=1, client_watchers_max=1) as api:
        api.consensus.hold = True
        short = {"Acordo-Timeout": "0.3"}
        held = asyncio.ensure_future(api.ask("PUT", "/v1/kv/held", data=b"1", headers=short))
        while not api.server.services.load.requests:
            await asyncio.sleep(0)
        more = await api.ask("GET", "/v1/kv/k")
        more.problem(429, "rate_limited")
        assert more.headers["RateLimit-Policy"] == '"requests";q=1'
        assert (await held).status == 504
        api.consensus.hold = False
        assert (await api.ask("PUT", "/v1/kv/k", data=b"0")).status == 201
        async with api.session.get(f"{api.url}/v1/watch") as watch:
            assert watch.status == 200
            second = await api.ask("GET", "/v1/watch")
            second.problem(429, "rate_limited")
            assert second.headers["RateLimit-Policy"] == '"watches";q=1'
            assert (await api.ask("PUT", "/v1/kv/k", data=b"1")).status == 200
        async with asyncio.timeout(10):
            while True:
                async with api.session.get(f"{api.url}/v1/watch") as again:
                    if again.status == 200:
                        break


async def test_connections_of_one_address_are_bounded(open_api: Open) -> None:
    async with open_api(client_connections_max=2) as api:
        kept = [await asyncio.open_connection("127.0.0.1", api.server.port) for _ in range(2)]
        for _, writer in kept:
            writer.write(b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
        for reader, _ in kept:
            assert b"200" in await reader.readline()
        refused = await raw_exchange(api, b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
        told = refused.json()
        assert (refused.status, told["code"]) == (429, "rate_limited")
        kept[0][1].close()
        connections = api.server.services.load.connections
        assert connections is not None
        async with asyncio.timeout(10):
            while len(connections) > 1:
                await asyncio.sleep(0)
        async with aiohttp.ClientSession() as http, http.get(f"{api.url}/metrics") as response:
            assert 'limit="connections"} 1.0' in await response.text()
        kept[1][1].close()


async def test_a_principal_has_a_share_of_its_own_and_who_fails_to_sign_in_its_addresss(
    open_api: Open,
) -> None:
    async with open_api(client_rate_max=0.001, client_rate_burst=6) as api:
        tokens: dict[str, str] = {}
        for name in ("root", "ada"):
            form = {"principal": name, "roles": ["admin"]}
            headers = {"Authorization": f"Bearer {tokens['root']}"} if tokens else {}
            made = await api.ask("POST", "/v1/access/tokens", json=form, headers=headers)
            tokens[name] = made.json()["token"]
        as_root = {"Authorization": f"Bearer {tokens['root']}"}
        assert (await api.ask("POST", "/v1/access/enable", headers=as_root)).status == 200
        wrong = {"Authorization": f"Bearer {tokens['root'][:-4]}0000"}

        async def statuses(headers: dict[str, str]) -> list[int]:
            return [(await api.ask("GET", "/v1/kv", headers=headers)).status for _ in range(8)]

        tried = await statuses(wrong)
        assert set(tried) == {401, 429}
        assert tried[-1] == 429
        assert await statuses({"Authorization": f"Bearer {tokens['ada']}"}) == [200] * 6 + [429] * 2
        assert (await api.ask("GET", "/v1/kv", headers=as_root)).status == 200
