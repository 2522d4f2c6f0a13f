"""Access control of one node: who is let in, what they may do, and what they are never told."""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from acordo import AccessRule, BadRequest, Client
from kv import errors as kv_errors
from kv.access import ACCESS_PREFIX
from node.startup.settings import rescue_hash
from tests.unit.node.conftest import Api, Open, Reply

OWN, FOREIGN = "a/", "b/"


class Door:
    """A node whose access is controlled, and the tokens of those who call it."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.tokens: dict[str, str] = {}
        self.ids: dict[str, str] = {}

    async def token(self, principal: str, *roles: str, ttl: float | None = None) -> str:
        form = {"principal": principal, "roles": list(roles), "ttl": ttl}
        made = await self.ask("admin", "POST", "/v1/access/tokens", json=form)
        assert made.status == 201, made.body
        self.tokens[principal], self.ids[principal] = made.json()["token"], made.json()["id"]
        return str(made.json()["token"])

    async def role(self, name: str, *rules: dict[str, object], **flags: bool) -> None:
        form = {"rules": list(rules), **flags}
        made = await self.ask("admin", "PUT", f"/v1/access/roles/{name}", json=form)
        assert made.status == 200, made.body

    async def ask(self, who: str | None, method: str, path: str, **more: Any) -> Reply:
        headers = dict(more.pop("headers", {}))
        if who is not None and who in self.tokens:
            bare = path.startswith("/v3")
            headers["Authorization"] = ("" if bare else "Bearer ") + self.tokens[who]
        return await self.api.ask(method, path, headers=headers, **more)


async def controlled(api: Api) -> Door:
    door = Door(api)
    await door.token("admin", "admin")
    await door.role("own", {"prefix": OWN, "read": True, "write": True})
    await door.role("reads", {"prefix": OWN, "read": True})
    await door.role("writes", {"prefix": OWN, "write": True})
    for name, role in (("owner", "own"), ("reader", "reads"), ("writer", "writes")):
        await door.token(name, role)
    assert (await door.ask("admin", "POST", "/v1/access/enable")).status == 200
    for key in ("a/1", "a/2", "b/1"):
        put = await door.ask("admin", "PUT", f"/v1/kv/{key}", data=key.encode())
        assert put.status in (200, 201)
    return door


@pytest.fixture
async def door(open_api: Open) -> AsyncIterator[Door]:
    async with open_api(etcd=True) as api:
        yield await controlled(api)


def text(raw: str) -> str:
    return base64.b64encode(raw.encode()).decode()


async def test_without_a_record_of_access_everybody_does_everything(api: Api) -> None:
    assert not api.server.services.access.guards
    assert (await api.ask("PUT", "/v1/kv/a", data=b"1")).status == 201
    assert (await api.ask("GET", "/v1/access")).json() == {
        "on": False, "principal": None, "admin": True,
    }  # fmt: skip


async def test_access_is_not_controlled_before_an_admin_has_a_token(api: Api) -> None:
    (await api.ask("POST", "/v1/access/enable")).problem(409, "no_admin")
    assert (await api.ask("PUT", "/v1/kv/a", data=b"1")).status == 201


async def test_nothing_of_access_is_recorded_while_a_member_may_not_control_it(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = api.consensus.status

    def at_level(level: int) -> None:
        now = msgspec.structs.replace(status(), feature_level=level)
        monkeypatch.setattr(api.consensus, "status", lambda: now)

    form = {"principal": "admin", "roles": ["admin"]}
    at_level(1)
    (await api.ask("POST", "/v1/access/tokens", json=form)).problem(503, "upgrading")
    at_level(2)
    assert (await api.ask("POST", "/v1/access/tokens", json=form)).status == 201


async def test_who_brings_nothing_is_told_how_and_nothing_else(door: Door) -> None:
    reply = await door.ask(None, "GET", "/v1/kv/a/1")
    reply.problem(401, "not_signed_in")
    assert reply.headers["WWW-Authenticate"].startswith("Bearer")
    assert "ETag" not in reply.headers
    for path in ("/livez", "/readyz", "/health", "/openapi.json"):
        assert (await door.ask(None, "GET", path)).status == 200, path


@pytest.mark.parametrize(
    "given",
    ["Bearer", "Bearer x", "Basic YTpi", "acordo_", "Bearer acordo_000000000000_" + "A" * 43, "ü"],
)
async def test_malformed_and_unknown_tokens_are_401(door: Door, given: str) -> None:
    reply = await door.api.ask("GET", "/v1/kv/a/1", headers={"Authorization": given})
    reply.problem(401, "not_signed_in")


async def test_a_token_of_the_right_id_with_another_secret_is_401(door: Door) -> None:
    wrong = door.tokens["owner"][:-43] + "A" * 43
    reply = await door.api.ask("GET", "/v1/kv/a/1", headers={"Authorization": f"Bearer {wrong}"})
    reply.problem(401, "not_signed_in")


async def test_rights_are_by_prefix_and_action(door: Door) -> None:
    assert (await door.ask("reader", "GET", "/v1/kv/a/1")).body == b"a/1"
    (await door.ask("reader", "PUT", "/v1/kv/a/1", data=b"")).problem(403, "not_allowed")
    (await door.ask("reader", "GET", "/v1/kv/b/1")).problem(403, "not_allowed")
    (await door.ask("reader", "GET", "/v1/kv/b/none")).problem(403, "not_allowed")
    assert (await door.ask("owner", "PUT", "/v1/kv/a/1", data=b"new")).status == 200
    (await door.ask("writer", "GET", "/v1/kv/a/1")).problem(403, "not_allowed")
    blind = {"writes": [{"put": "a/1", "value": "blind"}]}
    assert (await door.ask("writer", "POST", "/v1/txn", json=blind)).status == 200
    guarded = blind | {"guards": [{"key": "a/1", "exists": True}]}
    (await door.ask("writer", "POST", "/v1/txn", json=guarded)).problem(403, "not_allowed")


async def test_a_range_has_to_lie_in_what_may_be_read(door: Door) -> None:
    assert (await door.ask("reader", "GET", "/v1/kv?prefix=a/")).status == 200
    for query in ("", "?prefix=a", "?prefix=b/", "?start=a/1&end=b", "?start=a/1"):
        (await door.ask("reader", "GET", f"/v1/kv{query}")).problem(403, "not_allowed")


async def test_a_union_of_adjacent_prefixes_covers_a_range(door: Door) -> None:
    await door.role("both", {"prefix": "a/", "read": True}, {"prefix": "a0", "read": True})
    await door.token("both", "both")
    assert (await door.ask("both", "GET", "/v1/kv?start=a/1&end=a00")).status == 200


async def test_revoking_and_deleting_a_role_work_at_once(door: Door) -> None:
    await door.ask("admin", "DELETE", f"/v1/access/tokens/{door.ids['reader']}")
    (await door.ask("reader", "GET", "/v1/kv/a/1")).problem(401, "not_signed_in")
    await door.ask("admin", "DELETE", "/v1/access/roles/own")
    (await door.ask("owner", "GET", "/v1/kv/a/1")).problem(403, "not_allowed")


async def test_a_token_expires_by_log_time(door: Door) -> None:
    await door.token("short", "own", ttl=3600)
    assert (await door.ask("short", "GET", "/v1/kv/a/1")).status == 200
    access = door.api.server.services.access
    now_ms = access.now_ms()
    access.now_ms = lambda: now_ms + 3_600_001  # type: ignore[method-assign]
    (await door.ask("short", "GET", "/v1/kv/a/1")).problem(401, "not_signed_in")


async def test_the_last_admin_cannot_be_removed(door: Door) -> None:
    path = f"/v1/access/tokens/{door.ids['admin']}"
    (await door.ask("admin", "DELETE", path)).problem(409, "no_admin")
    first = door.tokens["admin"]
    await door.token("admin", "admin")
    assert (await door.ask("admin", "DELETE", path)).status == 200
    door.tokens["old"] = first
    (await door.ask("old", "GET", "/v1/access")).problem(401, "not_signed_in")


async def test_management_is_the_admins(door: Door) -> None:
    for method, path in (
        ("GET", "/v1/access/tokens"), ("GET", "/v1/access/roles"), ("GET", "/v1/ledger"),
        ("POST", "/v1/access/disable"), ("GET", "/metrics"), ("POST", "/v1/cluster/transfer"),
    ):  # fmt: skip
        (await door.ask("owner", method, path)).problem(403, "not_allowed")
        (await door.ask(None, method, path)).problem(401, "not_signed_in")
    assert (await door.ask("owner", "GET", "/v1/access")).json() == {
        "on": True, "principal": "owner", "admin": False,
    }  # fmt: skip


async def test_no_answer_shows_a_hash(door: Door) -> None:
    listed = (await door.ask("admin", "GET", "/v1/access/tokens")).json()["tokens"]
    assert {each["principal"] for each in listed} == {"admin", "owner", "reader", "writer"}
    policy = door.api.server.services.access.policy
    assert policy is not None
    raw = msgspec.json.encode(listed).decode()
    assert not any(token.hash in raw for token in policy.tokens.values())
    assert not any(token in raw for token in door.tokens.values())


async def test_keys_of_access_are_reached_by_nobody_as_keys(door: Door) -> None:
    key = ACCESS_PREFIX.decode() + "switch"
    (await door.ask("admin", "GET", f"/v1/kv/{key}")).problem(403, "not_allowed")
    (await door.ask("admin", "PUT", f"/v1/kv/{key}", data=b"")).problem(403, "not_allowed")
    (await door.ask("admin", "GET", f"/v1/history/{key}")).problem(403, "not_allowed")
    (await door.ask("admin", "GET", "/v1/kv?prefix=acordo/access/")).problem(403, "not_allowed")
    for limit in (1, 2, 100):
        seen, token = [], ""
        while token is not None:
            more = f"&continue={token}" if token else ""
            page = (await door.ask("admin", "GET", f"/v1/kv?limit={limit}{more}")).json()
            seen += [item["key"] for item in page["items"]]
            token = page.get("continue")
        assert seen == ["a/1", "a/2", "b/1"]
    everything = {"key": text("\0"), "range_end": text("\0")}
    found = (await door.ask("admin", "POST", "/v3/kv/range", json=everything)).json()
    assert found["count"] == "3"
    assert not door.api.server.services.store.__class__.__name__.startswith("Granted")


async def test_deleting_everything_leaves_access_as_it_is(door: Door) -> None:
    everything = {"key": text("\0"), "range_end": text("\0")}
    done = (await door.ask("admin", "POST", "/v3/kv/deleterange", json=everything)).json()
    assert done["deleted"] == "3"
    assert (await door.ask("admin", "GET", "/v1/access")).json()["on"] is True
    assert (await door.ask("owner", "PUT", "/v1/kv/a/1", data=b"")).status == 201


async def test_another_principals_operation_is_neither_shown_nor_cancelled(door: Door) -> None:
    headers = {"Acordo-Op-Id": "mine"}
    put = await door.ask("owner", "PUT", "/v1/kv/a/9", data=b"1", headers=headers)
    assert put.json()["op_id"] == "mine"
    await door.token("other", "own")
    seen = (await door.ask("other", "GET", "/v1/operations/mine")).json()
    assert seen["outcome"] == "unknown"
    await door.ask("other", "POST", "/v1/operations/mine")
    assert (await door.ask("owner", "GET", "/v1/operations/mine")).json()["outcome"] == "applied"
    again = await door.ask("owner", "PUT", "/v1/kv/a/9", data=b"1", headers=headers)
    assert again.json()["again"] is True
    await door.token("third", "own")
    same = await door.ask("third", "PUT", "/v1/kv/a/9", data=b"2", headers=headers)
    assert same.json()["again"] is False


async def test_a_lease_is_of_who_granted_it(door: Door) -> None:
    await door.token("other", "own")
    made = (await door.ask("owner", "POST", "/v1/leases", json={"ttl": 60})).json()["id"]
    assert (await door.ask("owner", "POST", f"/v1/leases/{made}/keep-alive")).status == 200
    assert (await door.ask("admin", "POST", f"/v1/leases/{made}/keep-alive")).status == 200
    (await door.ask("other", "POST", f"/v1/leases/{made}/keep-alive")).problem(
        404, "lease_not_found"
    )
    (await door.ask("other", "GET", f"/v1/leases/{made}?keys")).problem(404, "lease_not_found")
    (await door.ask("other", "DELETE", f"/v1/leases/{made}")).problem(403, "not_allowed")
    attach = await door.ask("other", "PUT", f"/v1/kv/a/3?lease={made}", data=b"")
    attach.problem(403, "not_allowed")
    chosen = await door.ask("owner", "POST", "/v1/leases", json={"ttl": 60, "id": "7"})
    chosen.problem(403, "not_allowed")
    (await door.ask("owner", "GET", "/v1/leases")).problem(403, "not_allowed")


async def test_a_lease_shows_the_keys_that_may_be_read(door: Door) -> None:
    made = (await door.ask("owner", "POST", "/v1/leases", json={"ttl": 60})).json()["id"]
    assert (await door.ask("owner", "PUT", f"/v1/kv/a/3?lease={made}", data=b"")).status == 201
    assert (await door.ask("admin", "PUT", f"/v1/kv/b/3?lease={made}", data=b"")).status == 201
    shown = (await door.ask("owner", "GET", f"/v1/leases/{made}?keys=true")).json()
    assert shown["keys"] == ["a/3"]


async def test_what_wrote_a_revision_stands_in_the_ledger(door: Door) -> None:
    await door.ask("owner", "PUT", "/v1/kv/a/5", data=b"1", headers={"Acordo-Op-Id": "audited"})
    rows = (await door.ask("admin", "GET", "/v1/ledger")).json()["rows"]
    recorded = [each["op_id"] for row in rows for each in row["body"]]
    assert "audited\x1fowner" in recorded
    assert {each.get("principal") for row in rows for each in row["body"]} >= {"owner", "admin"}


async def test_an_anonymous_role_is_for_who_brings_nothing(door: Door) -> None:
    await door.role("anonymous", {"prefix": "a/", "read": True})
    assert (await door.ask(None, "GET", "/v1/kv/a/1")).status == 200
    (await door.ask(None, "PUT", "/v1/kv/a/1", data=b"")).problem(403, "not_allowed")
    (await door.ask(None, "GET", "/v1/leader")).problem(401, "not_signed_in")
    headers = {"Authorization": "Bearer nothing"}
    (await door.api.ask("GET", "/v1/kv/a/1", headers=headers)).problem(401, "not_signed_in")


async def test_the_client_and_its_command_line_manage_access(
    open_api: Open, tmp_path: Path
) -> None:
    async with open_api() as api:

        async def command(*words: str, token: Path | None = None) -> tuple[int | None, str]:
            shown = () if token is None else ("--token-file", str(token))
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "acordo", "--url", api.url, *shown, *words),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            out, err = await process.communicate()
            return process.returncode, out.decode() + err.decode() * bool(process.returncode)

        code, text_ = await command("token", "create", "root", "--role", "admin")
        assert code == 0, text_
        root = tmp_path / "root"
        root.write_text(text_)
        assert (await command("access", "on"))[0] == 0
        assert (await command("role", "list"))[0] == 2
        code, text_ = await command(
            "role", "set", "app", "--read", "a/", "--write", "a/", "--read", "b/", token=root
        )
        assert code == 0, text_
        async with Client(api.url, token=root.read_text()) as admin:
            assert [each.name for each in await admin.roles()] == ["admin", "app", "metrics"]
            rules = next(each for each in await admin.roles() if each.name == "app").rules
            assert rules == (
                AccessRule(prefix=b"a/", read=True, write=True),
                AccessRule(prefix=b"b/", read=True),
            )
            made = await admin.create_token("app", ["app"], ttl_s=60)
            assert made.token is not None
            await admin.bind_certificate("node7", ["app"])
            assert await admin.certificates() == (("node7", ("app",)),)
            async with Client(api.url, token=made.token) as client:
                await client.put("a/1", b"1")
                with pytest.raises(BadRequest) as refused:
                    await client.put("b/1", b"1")
                assert refused.value.code == "not_allowed"
                assert (await client.access()).principal == "app"
                await admin.revoke_token(made.id)
                with pytest.raises(BadRequest) as refused:
                    await client.get("a/1")
                assert refused.value.code == "not_signed_in"
            assert [each.principal for each in await admin.tokens()] == ["root"]
        code, text_ = await command("ledger", "list", "--key", "a/1", token=root)
        assert (code, " app  applied " in text_) == (0, True)
        code, text_ = await command("ledger", "list", "--principal", "nobody", token=root)
        assert (code, text_) == (0, "")


async def test_the_token_of_a_nodes_own_file_is_the_way_back(
    open_api: Open, tmp_path: Path
) -> None:
    file = tmp_path / "rescue"
    file.write_text("x" * 40)
    with pytest.raises(kv_errors.BadRequest) as exposed:
        rescue_hash(file)
    assert exposed.value.code == "rescue_token_exposed"
    file.chmod(0o600)
    async with open_api(rescue_token_hash=rescue_hash(file)) as api:
        door = await controlled(api)
        lost = door.tokens.pop("admin")
        door.tokens["admin"] = "x" * 40
        assert (await door.ask("admin", "GET", "/v1/access")).json()["principal"] == "rescue"
        assert await door.token("admin", "admin") != lost
    file.write_text("short")
    with pytest.raises(kv_errors.BadRequest) as short:
        rescue_hash(file)
    assert short.value.code == "rescue_token_short"


async def test_a_watch_ends_with_the_right_to_it(door: Door) -> None:
    headers = {"Authorization": f"Bearer {door.tokens['reader']}"}
    url = f"{door.api.url}/v1/watch?prefix=a/"
    async with door.api.session.get(url, headers=headers) as response:
        assert response.status == 200
        await door.ask("admin", "PUT", "/v1/kv/a/1", data=b"seen")
        while b"event: put" not in await response.content.readline():
            pass
        await door.ask("admin", "DELETE", f"/v1/access/tokens/{door.ids['reader']}")
        await door.ask("admin", "PUT", "/v1/kv/a/1", data=b"hidden")
        rest = await response.content.read()
    assert b"hidden" not in rest
    assert b"not_signed_in" in rest


async def test_a_watch_of_everything_shows_nothing_of_the_system(door: Door) -> None:
    await door.role("all", {"prefix": "", "read": True})
    await door.token("all", "all")
    both = {"writes": [{"put": key, "value": "v"} for key in ("acordo/x", "c", "d")]}
    seen: dict[str, list[str]] = {"all": [], "admin": []}
    for who, keys in seen.items():
        headers = {"Authorization": f"Bearer {door.tokens[who]}"}
        async with door.api.session.get(f"{door.api.url}/v1/watch", headers=headers) as response:
            await door.token("more", "own")
            assert (await door.ask("admin", "POST", "/v1/txn", json=both)).status == 200
            while not keys or keys[-1] != "d":
                line = await response.content.readline()
                if line.startswith(b"data:") and b"key" in line:
                    keys.append(msgspec.json.decode(line[5:])["key"])
    assert seen == {"all": ["c", "d"], "admin": ["acordo/x", "c", "d"]}


async def test_a_watch_of_etcd_ends_with_the_right_to_it(door: Door) -> None:
    form = {"create_request": {"key": text("a/"), "range_end": text("a0")}}
    headers = {"Authorization": door.tokens["reader"]}
    url = f"{door.api.url}/v3/watch"
    async with door.api.session.post(url, json=form, headers=headers) as response:
        assert b"created" in await response.content.readline()
        await door.ask("admin", "DELETE", f"/v1/access/tokens/{door.ids['reader']}")
        await door.ask("admin", "PUT", "/v1/kv/a/1", data=b"hidden")
        rest = await response.content.read()
    assert b"invalid auth token" in rest
    assert text("hidden").encode() not in rest


async def test_clients_of_etcd_sign_in_with_a_token_as_their_password(door: Door) -> None:
    form = {"name": "owner", "password": door.tokens["owner"]}
    given = (await door.api.ask("POST", "/v3/auth/authenticate", json=form)).json()
    assert "token" in given, given
    headers = {"Authorization": given["token"]}
    put = {"key": text("a/1"), "value": text("1")}
    assert (await door.api.ask("POST", "/v3/kv/put", json=put, headers=headers)).status == 200
    put = {"key": text("b/1"), "value": text("1")}
    refused = await door.api.ask("POST", "/v3/kv/put", json=put, headers=headers)
    assert (refused.status, refused.json()["code"]) == (403, 7)
    assert refused.json()["message"] == "etcdserver: permission denied"
    wrong = await door.api.ask("POST", "/v3/auth/authenticate", json=form | {"name": "reader"})
    assert wrong.json()["code"] == 3
    nobody = await door.api.ask("POST", "/v3/kv/put", json=put)
    assert (nobody.status, nobody.json()["code"]) == (401, 16)


async def test_a_name_in_a_certificate_gives_its_roles(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "/v1/access/certificates/node7.example"
    assert (await door.ask("admin", "PUT", path, json={"roles": ["reads"]})).status == 200
    monkeypatch.setattr("node.server.certificate_names", lambda request: ("x", "node7.example"))
    assert (await door.ask(None, "GET", "/v1/kv/a/1")).status == 200
    assert (await door.ask(None, "GET", "/v1/access")).json()["principal"] == "node7.example"
    (await door.ask(None, "PUT", "/v1/kv/a/1", data=b"")).problem(403, "not_allowed")
    assert (await door.ask("admin", "DELETE", path)).status == 200
    (await door.ask(None, "GET", "/v1/kv/a/1")).problem(401, "not_signed_in")


class Broker:
    """A broker that keeps what it accepts."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    async def accept(self, op_id: str, transaction: bytes, *, timeout_s: float) -> None:
        self.messages.append(msgspec.json.decode(transaction))
        assert self.messages[-1]["op_id"] == op_id


async def test_an_asynchronous_write_keeps_its_principal(open_api: Open) -> None:
    broker = Broker()
    async with open_api(async_writes=broker) as api:
        door = await controlled(api)
        form = {"writes": [{"put": "b/1", "value": ""}]}
        (await door.ask("owner", "POST", "/v1/async", json=form)).problem(403, "not_allowed")
        mine: dict[str, object] = {"writes": [{"put": "a/1", "value": ""}], "op_id": "mine"}
        assert (await door.ask("owner", "POST", "/v1/async", json=mine)).json()["op_id"] == "mine"
        (message,) = broker.messages
        headers = {"Acordo-Lifetime": "60", "Idempotency-Key": f'"{message.pop("op_id")}"'}
        stolen = await door.ask("owner", "POST", "/v1/txn", json=message, headers=headers)
        assert stolen.status == 200
        done = await door.ask("admin", "POST", "/v1/txn", json=message, headers=headers)
        assert (done.status, done.json()["again"]) == (200, False)
        found = (await door.ask("owner", "GET", "/v1/operations/mine")).json()
        assert (found["outcome"], found["revision"]) == ("applied", done.json()["revision"])


async def test_clients_of_etcd_sign_in_where_clients_have_shares(open_api: Open) -> None:
    async with open_api(etcd=True, client_requests_max=8) as api:
        door = await controlled(api)
        form = {"name": "owner", "password": door.tokens["owner"]}
        assert (await api.ask("POST", "/v3/auth/authenticate", json=form)).status == 200
        assert (await api.ask("GET", "/nowhere")).status == 404
        large = form | {"password": "x" * 10_000}
        refused = await api.ask("POST", "/v3/auth/authenticate", json=large)
        assert refused.json()["code"] == 3


async def test_who_asks_for_what_it_may_not_is_counted(open_api: Open) -> None:
    async with open_api(client_rate_max=0.001, client_rate_burst=20) as api:
        door = await controlled(api)
        found = [(await door.ask("owner", "GET", "/v1/ledger")).status for _ in range(21)]
        assert set(found) == {403, 429}


async def test_a_lock_that_is_denied_leaves_nothing_in_the_log(open_api: Open) -> None:
    async with open_api(etcd=True) as api:
        door = await controlled(api)
        lease = (await door.ask("owner", "POST", "/v1/leases", json={"ttl": 60})).json()["id"]
        before = len(api.consensus.submits)
        form = {"name": text("b/l"), "lease": str(int(lease, 16))}
        assert (await door.ask("owner", "POST", "/v3/lock/lock", json=form)).status == 403
        await api.server.services.take_backs.wait_done()
        assert len(api.consensus.submits) == before


async def test_who_may_write_nothing_has_no_leases(open_api: Open) -> None:
    async with open_api(etcd=True) as api:
        door = await controlled(api)
        before = len(api.consensus.submits)
        (await door.ask("reader", "POST", "/v1/leases", json={"ttl": 60})).problem(
            403, "not_allowed"
        )
        denied = await door.ask("reader", "POST", "/v3/lease/grant", json={"TTL": "60"})
        assert denied.status == 403
        assert len(api.consensus.submits) == before
        assert (await door.ask("writer", "POST", "/v1/leases", json={"ttl": 60})).status == 201
