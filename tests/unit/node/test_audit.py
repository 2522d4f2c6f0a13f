"""What admins do can be read afterwards: who, what, when; and a request's name is in the log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from structlog.testing import capture_logs

from kv.access import AUDIT, ROLES
from kv.errors import NotApplied
from kv.model import Applied, Recorded
from kv.ports import Settled
from node.access.access import Need
from node.api.openapi.document import ALL
from node.api.routes import BEGUN, READING, WHOLE
from tests.unit.node.conftest import opened
from tests.unit.node.test_access import Door, controlled
from tests.unit.node.test_access_matrix import NATIVE

READS: Final = {"/v1/ledger", "/v1/verify", "/metrics"}
"""What admins read that is not recorded."""


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async with opened(kind="replicated", etcd=True) as api:
        yield await controlled(api)


async def entries(door: Door) -> list[tuple[str, str]]:
    """Return who wrote which keys of access, from the ledger."""
    found = []
    at: int | None = 0
    while at is not None:
        page = (await door.ask("admin", "GET", f"/v1/ledger?from={at}")).json()
        for record in (each for row in page["rows"] for each in row["body"]):
            keys = [key for key in record.get("keys", ()) if key.startswith("acordo/access/")]
            found += [(record.get("principal", ""), key) for key in keys]
        at = page["next"]
    return found


def admins_operations() -> list[tuple[str, str]]:
    routes = {route.template: route for route in (*WHOLE, *(each[2] for each in BEGUN))}
    return [
        (method, path)
        for path, method in ALL
        if routes[path].needs is Need.ADMIN
        and path not in READS
        and (method not in READING or path == "/v1/backup")
        and not path.endswith("/sign")
    ]


async def test_every_action_of_an_admin_is_in_the_ledger(door: Door) -> None:
    await door.token("second", "admin")
    await door.role("none")
    await door.ask("admin", "PUT", "/v1/access/certificates/none", json={"roles": ["own"]})
    form = {"name": "none", "url": "http://h.example"}
    assert (await door.ask("admin", "POST", "/v1/webhooks", json=form)).status == 201
    operations = sorted(admins_operations(), key=lambda each: each[1].endswith("/disable"))
    assert len(operations) >= 16
    wrong = []
    for method, path in operations:
        before = len(await entries(door))
        ask = NATIVE[path, method][0].asks("a/1", "a/2", "second")
        asked = ask.path.replace("/tokens/none", f"/tokens/{door.ids['writer']}")
        await door.ask("second", method, asked, json=ask.body)
        new = (await entries(door))[before:]
        entry = ("second", f"acordo/access/audit/{method} {asked}")
        writes = path.startswith(("/v1/access", "/v1/webhooks"))
        if {who for who, _ in new} != {"second"} or (not writes and new != [entry]):
            wrong.append((method, path, new))
    assert not wrong


async def test_actions_by_the_door_for_clients_of_etcd_are_recorded(door: Door) -> None:
    before = len(await entries(door))
    await door.ask("admin", "POST", "/v3/kv/compaction", json={"revision": "1"})
    await door.ask("admin", "POST", "/v3/maintenance/hash", json={})
    await door.ask("owner", "POST", "/v3/kv/compaction", json={"revision": "1"})
    assert (await entries(door))[before:] == [
        ("admin", "acordo/access/audit/POST /v3/kv/compaction")
    ]


async def test_an_entrys_key_ends_and_unsettles_nobody(door: Door) -> None:
    await door.ask("admin", "POST", "/v1/cluster/transfer")
    key = AUDIT + b"POST /v1/cluster/transfer"
    head = door.api.database.head().last
    (entry,) = door.api.database.read([key], None, head).versions
    assert entry is not None and entry.expires_ms is not None
    access = door.api.server.services.access
    policy = access.policy
    for name, known in ((key, True), (ROLES + b"r", False)):
        record = Recorded("o", b"", Applied(), (name,))
        access._settled(Settled(8, 9, b"", (record,), None, 0))
        assert (access.policy is policy) is known, name


async def test_nothing_is_held_up_where_nothing_can_be_recorded(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*intent: Any, **how: Any) -> None:
        raise NotApplied("no_quorum", "no majority")

    monkeypatch.setattr(door.api.server.services.writes, "one", refuse)
    with capture_logs() as said:
        done = await door.ask("admin", "POST", "/v1/cluster/transfer")
    assert done.status == 200
    (line,) = [each for each in said if each["event"] == "admin action"]
    assert (line["principal"], line["recorded"]) == ("admin", False)


async def test_what_is_refused_for_its_rate_is_no_write_either() -> None:
    async with opened(kind="replicated", client_rate_max=0.001, client_rate_burst=100) as api:
        door = await controlled(api)
        allowances = api.server.services.allowances
        while True:
            try:
                allowances.enter("admin", stream=False, now_s=api.server.services.clock.monotonic())
            except NotApplied:
                break
        before = api.consensus.settled.last
        (await door.ask("admin", "GET", "/v1/backup")).problem(429, "rate_limited")
        assert api.consensus.settled.last == before


async def test_entries_are_forged_by_nobody(door: Door) -> None:
    path = "/v1/kv/acordo%2Faccess%2Faudit%2Fx"
    (await door.ask("admin", "PUT", path, data=b"")).problem(403, "not_allowed")
    (await door.ask("admin", "DELETE", path)).problem(403, "not_allowed")


async def test_without_access_control_nothing_is_recorded() -> None:
    async with opened(kind="replicated") as api:
        assert (await api.ask("POST", "/v1/cluster/transfer")).status == 200
        assert not await entries(Door(api))
        assert not api.server.services.access.guards


@pytest.mark.parametrize(("sent", "logged"), [("r-1", "r-1"), ("ü", None), ("x" * 300, None)])
async def test_the_name_of_a_request_is_in_the_log_if_it_is_text(
    door: Door, sent: str, logged: str | None
) -> None:
    with capture_logs() as said:
        reply = await door.ask(
            "admin", "POST", "/v1/cluster/transfer", headers={"X-Request-Id": sent}
        )
    (line,) = [each for each in said if each["event"] == "admin action"]
    assert line["request_id"] == logged == reply.headers.get("X-Request-Id")


async def test_the_name_of_a_slow_request_is_in_the_log() -> None:
    async with opened(kind="replicated", slow_request_s=0.0) as api:
        with capture_logs() as said:
            await api.ask("GET", "/v1/kv/k", headers={"X-Request-Id": "slow-1"})
    assert "slow-1" in [each.get("request_id") for each in said if each["event"] == "slow request"]
