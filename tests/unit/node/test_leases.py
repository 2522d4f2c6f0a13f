"""/v1/leases over HTTP: grant, keys at a lease, keep-alive, look, list, revoke, and bad input."""

from __future__ import annotations

from typing import Any

import pytest

from node.writes import leases
from tests.unit.node.conftest import Api

TEN_YEARS_S = 10 * 366 * 24 * 3600


async def grant(api: Api, ttl: float = 30, **more: Any) -> str:
    done = await api.ask("POST", "/v1/leases", json={"ttl": ttl, **more})
    assert done.status == 201, done.body
    return str(done.json()["id"])


async def test_a_lease_from_its_grant_to_its_end(api: Api) -> None:
    lease = await grant(api, 30)
    assert len(lease) == 16
    put = await api.ask("PUT", f"/v1/kv/a?lease={lease}", data=b"1")
    assert put.status == 201
    txn = {"writes": [{"put": "b", "value": "2", "lease": lease}, {"put": "c", "value": "3"}]}
    assert (await api.ask("POST", "/v1/txn", json=txn)).status == 200
    read = await api.ask("GET", "/v1/kv/a")
    assert read.headers["Acordo-Lease"] == lease
    assert "Acordo-Lease" not in (await api.ask("GET", "/v1/kv/c")).headers
    shown = (await api.ask("GET", f"/v1/leases/{lease}?keys=true")).json()
    assert shown == {"id": lease, "ttl": 30.0, "left": 30.0, "keys": ["a", "b"]}
    before = (await api.ask("GET", "/v1/kv/a")).headers["Acordo-Revision"]
    kept = await api.ask("POST", f"/v1/leases/{lease}/keep-alive")
    assert kept.json() == {"id": lease, "ttl": 30.0, "left": 30.0}
    assert kept.headers["Acordo-Revision"] == before  # it takes no revision
    assert api.consensus.renewed == [int(lease, 16)]
    ended = await api.ask("DELETE", f"/v1/leases/{lease}")
    assert ended.status == 200
    revision = ended.json()["revision"]
    for key in ("a", "b"):
        gone = await api.ask("GET", f"/v1/kv/{key}")
        gone.problem(404, "key_not_found", None)
    events = api.database.versions(((b"a", revision), (b"b", revision)))
    assert all(version is not None and version.value is None for version in events)
    assert (await api.ask("GET", "/v1/kv/c")).status == 200
    for method, path in (("DELETE", ""), ("GET", ""), ("POST", "/keep-alive")):
        (await api.ask(method, f"/v1/leases/{lease}{path}")).problem(404, "lease_not_found")


async def test_a_repeated_grant_is_the_same_lease(api: Api) -> None:
    headers = {"Idempotency-Key": '"grant-1"'}
    first, second = [
        (await api.ask("POST", "/v1/leases", json={"ttl": 5}, headers=headers)).json()
        for _ in range(2)
    ]
    assert first["id"] == second["id"]
    assert (first["again"], second["again"]) == (False, True)


async def test_one_lease_more_than_there_may_be_is_refused_by_name(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASES_MAX", 5)
    monkeypatch.setattr(leases, "COUNTED", 2)
    some = [await grant(api, 30) for _ in range(5)]
    one_more = await api.ask("POST", "/v1/leases", json={"ttl": 30})
    one_more.problem(503, "too_many_leases")
    monkeypatch.setattr(leases, "COUNT_AGAIN_S", 0.0)
    (await api.ask("POST", "/v1/leases", json={"ttl": 30})).problem(503, "too_many_leases")
    await api.ask("DELETE", f"/v1/leases/{some[0]}")
    await grant(api, 30)


async def test_leases_that_have_ended_count_for_nobody(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASES_MAX", 5)
    monkeypatch.setattr(leases, "COUNT_AGAIN_S", 0.0)
    for _ in range(12):
        await api.ask("DELETE", f"/v1/leases/{await grant(api, 30)}")


async def test_leases_are_listed_by_id(api: Api) -> None:
    for n in range(1, 6):
        await grant(api, n, id=f"{n:x}")
    page = (await api.ask("GET", "/v1/leases?limit=3")).json()
    assert [each["id"][-1] for each in page["leases"]] == ["1", "2", "3"]
    rest = (await api.ask("GET", f"/v1/leases?limit=3&continue={page['continue']}")).json()
    assert rest == {"leases": [{"id": f"{n:016x}", "ttl": float(n)} for n in (4, 5)]}


async def test_many_leases_are_kept_alive_at_once(api: Api) -> None:
    lease = await grant(api, 7)
    ids = [lease, f"{1:016x}"]
    kept = (await api.ask("POST", "/v1/keep-alive", json={"ids": ids})).json()
    assert kept["leases"] == [{"id": lease, "ttl": 7.0, "left": 7.0}, None]
    many = await api.ask("POST", "/v1/keep-alive", json={"ids": ["1"] * 1001})
    many.problem(400, "too_many_operations")


async def test_a_lease_that_ends_fails_no_other_keep_alive(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "ENDING_WAIT_S", 0.1)
    lasting, ended, ending = await grant(api, 7), "4", await grant(api, 7)
    api.consensus.ending = {4: 1, int(ending, 16): 1_000_000}
    kept = await api.ask("POST", "/v1/keep-alive", json={"ids": [lasting, ended, ending]})
    told = kept.json()["leases"]
    assert told[0] == {"id": lasting, "ttl": 7.0, "left": 7.0}
    assert told[1] is None
    assert (told[2]["id"], told[2]["code"]) == (ending, "lease_ending")
    alone = await api.ask("POST", f"/v1/leases/{ending}/keep-alive")
    alone.problem(503, "lease_ending")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"ttl": 0}, "bad_ttl"),
        ({"ttl": -1}, "bad_ttl"),
        ({"ttl": 0.05}, "bad_ttl"),
        ({"ttl": TEN_YEARS_S + 1}, "bad_ttl"),
        ({}, "invalid_body"),
        ({"ttl": "30"}, "invalid_body"),
        ({"ttl": 30, "lease": "1"}, "invalid_body"),
        ({"ttl": 30, "id": "0"}, "bad_lease"),
        ({"ttl": 30, "id": ""}, "bad_lease"),
        ({"ttl": 30, "id": "8000000000000000"}, "bad_lease"),
        ({"ttl": 30, "id": "xyz"}, "bad_lease"),
        ({"ttl": 30, "id": "00000000000000001"}, "bad_lease"),
    ],
)
async def test_what_is_no_grant_is_refused(api: Api, body: Any, code: str) -> None:
    (await api.ask("POST", "/v1/leases", json=body)).problem(400, code)


async def test_ten_years_are_a_ttl(api: Api) -> None:
    lease = await grant(api, TEN_YEARS_S)
    assert (await api.ask("GET", f"/v1/leases/{lease}")).json()["ttl"] == TEN_YEARS_S


async def test_an_id_in_use_is_refused(api: Api) -> None:
    await grant(api, 30, id="ff")
    again = await api.ask("POST", "/v1/leases", json={"ttl": 30, "id": "ff"})
    again.problem(409, "lease_exists")


async def test_no_key_is_attached_to_a_lease_that_is_not_there(api: Api) -> None:
    (await api.ask("PUT", "/v1/kv/k?lease=77", data=b"v")).problem(404, "lease_not_found")
    write = {"writes": [{"put": "k", "value": "v", "lease": "77"}]}
    (await api.ask("POST", "/v1/txn", json=write)).problem(404, "lease_not_found")
    batch = (await api.ask("POST", "/v1/batch", json={"operations": [write]})).json()
    assert (batch["results"][0]["outcome"], batch["results"][0]["code"]) == (
        "refused",
        "lease_not_found",
    )
    (await api.ask("PUT", "/v1/kv/k?lease=zz", data=b"v")).problem(400, "bad_lease")
    (await api.ask("GET", "/v1/kv/k")).problem(404, "key_not_found", None)


async def test_nobody_writes_the_key_of_a_lease_himself(api: Api) -> None:
    lease = await grant(api)
    key = f"acordo/leases/{lease}"
    for method in ("PUT", "DELETE"):
        (await api.ask(method, f"/v1/kv/{key}")).problem(400, "reserved_key")
    write = {"writes": [{"delete": key}]}
    (await api.ask("POST", "/v1/txn", json=write)).problem(400, "reserved_key")
    assert (await api.ask("GET", f"/v1/leases/{lease}")).status == 200


async def test_without_a_quorum_nothing_is_said_of_leases(api: Api) -> None:
    lease = await grant(api)
    api.consensus.no_leader = "no_quorum"
    for method, path in (("GET", ""), ("POST", "/keep-alive")):
        (await api.ask(method, f"/v1/leases/{lease}{path}")).problem(503, "no_quorum")
