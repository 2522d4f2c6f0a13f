"""/v1/kv/{key}: raw bytes in and out, ETags, preconditions, ttl, keys as they were sent."""

from __future__ import annotations

import pytest

from tests.unit.node.conftest import Api


async def test_put_get_delete_round_trip(api: Api) -> None:
    put = await api.ask("PUT", "/v1/kv/a", data=b"\x00\xff")
    assert (put.status, put.headers["ETag"], put.json()["existed"]) == (201, '"1"', False)
    assert put.json()["op_id"].startswith("~n1.i1.")
    got = await api.ask("GET", "/v1/kv/a")
    assert (got.status, got.body, got.headers["ETag"]) == (200, b"\x00\xff", '"1"')
    assert (got.headers["Acordo-Node"], got.headers["Acordo-Revision"]) == ("n1", "1")
    assert got.headers["Acordo-Level"] == "linearizable"
    again = await api.ask("PUT", "/v1/kv/a", data=b"2")
    assert (again.status, again.headers["ETag"], again.json()["existed"]) == (200, '"2"', True)
    gone = await api.ask("DELETE", "/v1/kv/a")
    assert (gone.status, gone.headers["Acordo-Existed"], gone.json()["revision"]) == (
        200,
        "true",
        3,
    )
    missing = await api.ask("GET", "/v1/kv/a")
    missing.problem(404, "key_not_found", None)
    assert missing.headers["Acordo-Revision"] == "3"
    gone = await api.ask("DELETE", "/v1/kv/a")
    assert (gone.status, gone.headers["Acordo-Existed"]) == (200, "false")


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("a%2Fb", b"a/b"),
        ("a/b", b"a/b"),
        ("a//b", b"a//b"),
        ("..", b".."),
        ("a/../b", b"a/../b"),
        ("%2E%2E", b".."),
        ("%ff%00", b"\xff\x00"),
        ("%C3%A9", "é".encode()),
        ("a+b", b"a+b"),
        ("a%20b", b"a b"),
        ("a%3Fb", b"a?b"),
        ("%25", b"%"),
        ("/", b"/"),
        ("a/", b"a/"),
    ],
)
async def test_keys_mean_what_was_sent(api: Api, path: str, key: bytes) -> None:
    assert (await api.ask("PUT", f"/v1/kv/{path}", data=key)).status == 201
    assert (await api.ask("GET", f"/v1/kv/{path}")).body == key
    assert api.database.read((key,), None, 0).versions[0] is not None


async def test_legacy_kv(api: Api) -> None:
    put = await api.ask("PUT", "/kv", json={"data": {"key": "foo", "value": "bar"}})
    assert put.status == 200
    got = await api.ask("GET", "/kv?key=foo")
    assert (got.status, got.json()["data"]) == (200, {"key": "foo", "value": "bar"})
    assert (await api.ask("DELETE", "/kv?key=foo")).status == 200
    (await api.ask("GET", "/kv?key=foo")).problem(404, "key_not_found", None)
    (await api.ask("DELETE", "/kv?key=foo")).problem(404, "key_not_found")


async def test_leader_and_health(api: Api) -> None:
    leader = await api.ask("GET", "/v1/leader")
    assert leader.json() | {"since_ms": 0} == {
        "id": "n1", "url": "http://n1.example:8001", "term": 1, "quorum": True, "since_ms": 0,
    }  # fmt: skip
    assert (await api.ask("GET", "/livez")).body == b"ok\n"
    assert (await api.ask("GET", "/readyz")).body == b"ok\n"
    assert (await api.ask("GET", "/health")).json()["status"] == "ok"
    api.consensus.no_leader = "no_leader"
    (await api.ask("GET", "/v1/leader")).problem(503, "no_leader")
    ready = await api.ask("GET", "/readyz?verbose")
    assert ready.status == 503
    assert b"[-]leader failed" in ready.body
    assert b"[+]store ok" in ready.body
    assert (await api.ask("GET", "/livez")).status == 200


async def test_answers_to_writes_say_who_leads(api: Api) -> None:
    """A client sends its next writes there, which take one hop less."""
    api.consensus.leader = ("n2", "http://n2.example:8001")
    put = await api.ask("PUT", "/v1/kv/a", data=b"1")
    assert put.headers["Acordo-Leader"] == "http://n2.example:8001"
    refused = await api.ask("PUT", "/v1/kv/a", data=b"2", headers={"If-None-Match": "*"})
    assert (refused.status, refused.headers["Acordo-Leader"]) == (412, "http://n2.example:8001")
    assert "Acordo-Leader" not in (await api.ask("GET", "/v1/kv/a")).headers


async def test_every_answer_says_how_often_a_key_was_put_since_it_came(api: Api) -> None:
    await api.ask("PUT", "/v1/kv/k", data=b"1")
    await api.ask("PUT", "/v1/kv/k", data=b"2")
    await api.ask("DELETE", "/v1/kv/k")
    await api.ask("PUT", "/v1/kv/k", data=b"3")
    await api.ask("PUT", "/v1/kv/k", data=b"4")

    async def numbers(query: str) -> tuple[str, str]:
        headers = (await api.ask("GET", f"/v1/kv/k{query}")).headers
        return headers["Acordo-Create-Revision"], headers["Acordo-Version"]

    assert await numbers("") == ("4", "2")
    assert await numbers("?revision=4") == ("4", "1")
    assert await numbers("?revision=2") == ("1", "2")
    (item,) = (await api.ask("GET", "/v1/kv?prefix=k")).json()["items"]
    assert (item["create_revision"], item["version"]) == (4, 2)
    absent = await api.ask("GET", "/v1/kv/absent")
    assert "Acordo-Version" not in absent.headers


async def test_the_history_of_a_key_is_told_from_the_newest_version_on(api: Api) -> None:
    await api.ask("PUT", "/v1/kv/a%2Fb", data=b"1")
    await api.ask("PUT", "/v1/kv/other", data=b"x")
    await api.ask("PUT", "/v1/kv/a%2Fb", data=b"2")
    await api.ask("DELETE", "/v1/kv/a%2Fb")
    await api.ask("PUT", "/v1/kv/a%2Fb", data=b"3")

    async def told(query: str = "") -> tuple[list[tuple[int, str | None, int]], int | None]:
        form = (await api.ask("GET", f"/v1/history/a%2Fb{query}")).json()
        assert form["revision"] == 5
        found = [(i["revision"], i["value"], i.get("version", 0)) for i in form["items"]]
        return found, form.get("before")

    newest, oldest = [(5, "3", 1), (4, None, 0)], [(3, "2", 2), (1, "1", 1)]
    assert await told() == (newest + oldest, None)
    assert await told("?limit=2") == (newest, 4)
    assert await told("?limit=2&before=4") == (oldest, None)
    absent = (await api.ask("GET", "/v1/history/never")).json()
    assert absent == {"revision": 5, "items": []}
    (await api.ask("GET", "/v1/history/a?limit=101")).problem(400, "bad_limit")
    (await api.ask("GET", "/v1/history/a?before=99")).problem(400, "future_revision")
