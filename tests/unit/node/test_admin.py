"""Cluster, ledger, readiness, metrics, the page, and the OpenAPI document."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import schemathesis

from kv.errors import BackendUnavailable
from kv.model import GENESIS_DIGEST, roll
from node.api.openapi.document import ALL
from node.api.routes import BEGUN, WHOLE
from node.readiness.readiness import ReadinessCheck
from tests.unit.node.conftest import Api, Open


async def test_cluster(api: Api) -> None:
    await api.ask("PUT", "/v1/kv/a", data=b"1")
    form = (await api.ask("GET", "/v1/cluster")).json()
    assert (form["node"], form["leader"], form["settled"], form["fsync"]) == (
        "n1",
        "n1",
        1,
        "always",
    )
    assert form["writes_acknowledged"] == 1
    # refused: nothing was acknowledged as applied
    await api.ask("PUT", "/v1/kv/a", headers={"If-None-Match": "*"})
    assert (await api.ask("GET", "/v1/cluster")).json()["writes_acknowledged"] == 1
    member = form["members"][0]
    assert (member["id"], member["role"], member["settled"], member["digest"]) == (
        "n1",
        "leader",
        1,
        form["digest"],
    )


async def test_members_and_leadership(api: Api) -> None:
    new = {"id": "n2", "raft_address": "127.0.0.1:9002", "url": "http://n2.example"}
    added = await api.ask("POST", "/v1/cluster/members", json=new)
    assert (added.status, added.json()["members"][1]["voter"]) == (201, False)
    promoted = await api.ask("POST", "/v1/cluster/members/n2/promote")
    assert promoted.json()["members"][1]["voter"] is True
    assert (await api.ask("POST", "/v1/cluster/transfer", json={"to": "n2"})).json() == {
        "leader": "n2"
    }
    assert (await api.ask("POST", "/v1/cluster/transfer")).json() == {"leader": "n1"}
    assert api.consensus.transfers == ["n2", None]
    (await api.ask("POST", "/v1/cluster/transfer", json={"to": "n9"})).problem(
        404, "unknown_member"
    )
    (await api.ask("POST", "/v1/cluster/members/n9/promote")).problem(404, "unknown_member")
    assert len((await api.ask("DELETE", "/v1/cluster/members/n2")).json()["members"]) == 1
    (await api.ask("DELETE", "/v1/cluster/members/n2")).problem(404, "unknown_member")
    (await api.ask("POST", "/v1/cluster/members", json={**new, "id": "n1"})).problem(409, "unsafe")
    api.consensus.refusal = "restored"
    assert (await api.ask("POST", "/v1/cluster/adopt")).json() == {"settled": 0}
    assert (await api.ask("POST", "/v1/cluster/limits")).json() == {"changed": ["window_ms"]}
    assert api.consensus.refusal is None


async def test_the_ledger_chain_can_be_recomputed(api: Api) -> None:
    for n in range(5):
        await api.ask("PUT", f"/v1/kv/{n}", data=b"v", headers={"Idempotency-Key": f"o{n}"})
    await api.ask("PUT", "/v1/kv/0", headers={"If-None-Match": "*"})
    rows: list[Any] = []
    at: int | None = 0
    while at is not None:
        page = (await api.ask("GET", f"/v1/ledger?from={at}&limit=2")).json()
        rows += page["rows"]
        at = page["next"]
    digest, revision = GENESIS_DIGEST, 0
    for row in rows:
        assert row["first"] == revision + 1
        for record in row["body"]:
            revision += 1
            assert record["revision"] == revision
            digest = roll(digest, record["op_id"], bytes.fromhex(record["body_hash"]))
        assert (row["digest"], row["last"]) == (digest.hex(), revision)
    assert revision == 6
    assert [row["body"][0]["keys"] for row in rows] == [["0"], ["1"], ["2"], ["3"], ["4"], []]
    assert rows[-1]["body"][0]["outcome"] == "refused"


async def test_readiness_names_what_fails(open_api: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    trouble: list[str | None] = [None]
    checks = (ReadinessCheck("publisher", False, lambda: trouble[0]),)
    async with open_api(checks=checks) as api:
        verbose = await api.ask("GET", "/readyz?verbose")
        assert verbose.body.decode().splitlines() == [
            "[+]drain ok",
            "[+]member ok",
            "[+]leader ok",
            "[+]quorum ok",
            "[+]machine ok",
            "[+]time ok",
            "[+]store ok",
            "[+]ledger ok",
            "[+]members ok",
            "[+]cache ok",
            "[+]broadcast ok",
            "[+]publisher ok",
            "ok",
        ]
        trouble[0] = "900 revisions behind"
        verbose = await api.ask("GET", "/readyz?verbose")
        assert verbose.status == 200
        api.consensus.broadcast_lag = 7
        assert (
            b"[+]broadcast ok, 7 revisions behind" in (await api.ask("GET", "/readyz?verbose")).body
        )
        assert b"[-]publisher degraded (does not count): 900 revisions behind" in verbose.body
        assert (await api.ask("GET", "/health")).json()["status"] == "degraded"

        async def broken(*_: object, **__: object) -> object:
            raise BackendUnavailable("store", "disk full")

        # reads may go on: a write could not
        monkeypatch.setattr(api.server.services.store, "probe", broken)
        api.server.services.readiness.store_probe.forget()
        failing = await api.ask("GET", "/readyz")
        assert failing.status == 503
        assert b"[-]store failed: store: disk full" in failing.body
        assert (await api.ask("GET", "/readyz?exclude=store")).status == 200
        assert (await api.ask("GET", "/health")).status == 503
        assert (await api.ask("GET", "/livez")).status == 200


async def test_readiness_and_status_name_what_keeps_members_apart(api: Api) -> None:
    api.consensus.conflicts = ("n1 and n2 were given different lists of the first members",)
    ready = await api.ask("GET", "/readyz?verbose")
    assert ready.status == 200, "a cluster that goes on does so whoever else asks to join"
    assert (
        b"[-]members degraded (does not count): n1 and n2 were given different lists" in ready.body
    )
    assert (await api.ask("GET", "/v1/cluster")).json()["conflicts"] == list(
        api.consensus.conflicts
    )
    api.consensus.no_leader = "no_leader"
    failing = await api.ask("GET", "/readyz")
    assert failing.status == 503
    assert (
        b"[-]leader failed: no leader is known (n1 and n2 were given different lists"
        in failing.body
    )


async def test_a_promotion_of_a_voter_says_that_there_was_nothing_to_do(api: Api) -> None:
    body = {"id": "n9", "raft_address": "127.0.0.1:9", "url": "http://n9", "voter": True}
    assert (await api.ask("POST", "/v1/cluster/members", json=body)).json()["detail"] == ""
    told = (await api.ask("POST", "/v1/cluster/members/n9/promote")).json()["detail"]
    assert told == "n9 is a voter already: there was nothing to do"


async def test_metrics(api: Api) -> None:
    await api.ask("PUT", "/v1/kv/secret-key", data=b"1")
    for _ in range(3):
        await api.ask("GET", "/v1/kv/secret-key")
    await api.ask("GET", "/nowhere/secret-path")
    text = (await api.ask("GET", "/metrics")).body.decode()
    assert 'acordo_http_requests_total{method="GET",route="/v1/kv/{key}",status="200"} 3.0' in text
    assert 'acordo_http_requests_total{method="PUT",route="/v1/kv/{key}",status="201"} 1.0' in text
    assert 'acordo_http_requests_total{method="GET",route="(unknown)",status="404"} 1.0' in text
    assert (
        'acordo_http_request_seconds_bucket{le="+Inf",method="GET",route="/v1/kv/{key}"} 3.0'
        in text
    )
    assert 'acordo_reads_total{level="linearizable",source="memory"} 3.0' in text
    assert "acordo_revision_settled 1.0" in text
    assert "acordo_groups_committed_total 1.0" in text
    assert "acordo_broadcast_lag_revisions 0.0" in text
    assert "process_resident_memory_bytes" in text
    assert "secret" not in text
    openmetrics = await api.ask(
        "GET", "/metrics", headers={"Accept": "application/openmetrics-text"}
    )
    assert openmetrics.body.endswith(b"# EOF\n")


async def test_the_page_is_served_under_a_strict_policy(open_api: Open, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<!doctype html><title>x</title>")
    (tmp_path / "app.js").write_text("1")
    (tmp_path / "notes.py").write_text("secret")
    async with open_api(page_dir=tmp_path) as api:
        page = await api.ask("GET", "/")
        assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert (
            (await api.ask("GET", "/page/app.js"))
            .headers["Content-Type"]
            .startswith("text/javascript")
        )
        assert (
            await api.ask("GET", "/", headers={"If-None-Match": page.headers["ETag"]})
        ).status == 304
        (await api.ask("GET", "/page/notes.py")).problem(404, "unknown_path")
        (await api.ask("GET", "/page/../conftest.py")).problem(404, "unknown_path")


def test_every_route_is_described() -> None:
    served = {(route.template, method) for route in WHOLE for method in route.handlers}
    served |= {(route.template, method) for _, _, route in BEGUN for method in route.handlers}
    assert served == set(ALL)


async def test_the_document_is_sound(api: Api) -> None:
    document = (await api.ask("GET", "/openapi.json")).json()
    assert document["openapi"] == "3.1.0"
    assert [each["url"] for each in document["servers"]] == ["/", "http://n1.example:8001"]
    refs = set(re.findall(r'"#/components/schemas/(\w+)"', msgspec.json.encode(document).decode()))
    assert refs <= set(document["components"]["schemas"])
    ids = [o["operationId"] for path in document["paths"].values() for o in path.values()]
    assert len(ids) == len(set(ids))
    schemathesis.openapi.from_dict(document)
