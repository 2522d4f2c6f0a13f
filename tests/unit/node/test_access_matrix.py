"""Every operation × every kind of principal × own, foreign and mixed keys: who is let in.

The operations are those of the OpenAPI document and of the door for clients of etcd. One without a
row fails, so a new route has to say who may use it.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import msgspec
import pytest
from yarl import URL

from node.access.access import Need
from node.api.openapi.document import ALL
from node.api.openapi.security import need_of
from node.api.routes import BEGUN, WHOLE
from node.etcd.routes import SPOKEN, UNSPOKEN, spoken_paths
from tests.unit.node.conftest import opened
from tests.unit.node.test_access import Door, controlled

WHERE: Final = {"own": ("a/1", "a/2"), "foreign": ("b/1", "b/2"), "mixed": ("a/1", "b/2")}
DENIED: Final = (401, 403)


class Ask(NamedTuple):
    """One request: what to send, with keys from the two given ones."""

    path: str
    body: Any = None
    raw: bytes | None = None


class Row(NamedTuple):
    """Who may use an operation. `does`: what it does to the keys; None: its need says all."""

    needs: Need
    asks: Callable[[str, str, str], Ask]
    does: str | None = None
    one_key: bool = False


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def plain(path: str, body: Any = None) -> Callable[[str, str, str], Ask]:
    return lambda first, second, who: Ask(path, body)


def _transaction(first: str, second: str, **more: object) -> dict[str, object]:
    return {"writes": [{"put": first, "value": ""}, {"put": second, "value": ""}], **more}


def _webhook(prefix: str, who: str) -> dict[str, object]:
    return {"name": who + prefix[0], "url": "http://h.example/", "prefix": prefix}


KEYS, ADMIN, SIGNED, OPEN = Need.KEYS, Need.ADMIN, Need.SIGNED_IN, Need.NOTHING
NATIVE: Final[dict[tuple[str, str], list[Row]]] = {
    ("/v1/kv/{key}", "GET"): [
        Row(KEYS, lambda a, b, w: Ask(f"/v1/kv/{b}"), "r", True),
        Row(KEYS, lambda a, b, w: Ask(f"/v1/kv/{b}?consistency=stale"), "r", True),
        Row(KEYS, lambda a, b, w: Ask(f"/v1/kv/{b}?revision=3"), "r", True),
    ],
    ("/v1/kv/{key}", "PUT"): [Row(KEYS, lambda a, b, w: Ask(f"/v1/kv/{b}", raw=b"x"), "rw", True)],
    ("/v1/kv/{key}", "DELETE"): [Row(KEYS, lambda a, b, w: Ask(f"/v1/kv/{b}"), "rw", True)],
    ("/v1/history/{key}", "GET"): [Row(KEYS, lambda a, b, w: Ask(f"/v1/history/{b}"), "r", True)],
    ("/v1/kv", "GET"): [
        Row(KEYS, lambda a, b, w: Ask(f"/v1/kv?start={a}&end={b}"), "r"),
        Row(KEYS, lambda a, b, w: Ask(f"/v1/kv?start={a}&end={b}&keys_only=true"), "r"),
    ],
    ("/v1/watch", "GET"): [Row(KEYS, lambda a, b, w: Ask(f"/v1/watch?prefix={b}"), "r", True)],
    ("/v1/txn", "POST"): [
        Row(KEYS, lambda a, b, w: Ask("/v1/txn", _transaction(a, b)), "w"),
        Row(KEYS, lambda a, b, w: Ask("/v1/txn", {"reads": [a, b]}), "r"),
        Row(KEYS, lambda a, b, w: Ask("/v1/txn", _transaction(a, b, reads=[b])), "rw"),
        Row(
            KEYS,
            lambda a, b, w: Ask("/v1/txn", {"guards": [{"key": b, "exists": True}]}),
            "r",
            True,
        ),
        Row(
            KEYS,
            lambda a, b, w: Ask(
                "/v1/txn",
                {"guards": [{"key": a, "end": b, "compare": "version", "is": ">", "to": 0}]},
            ),
            "r",
        ),
        Row(KEYS, lambda a, b, w: Ask("/v1/txn", {"writes": [{"delete": a, "end": b}]}), "w"),
        Row(
            KEYS,
            lambda a, b, w: Ask(
                "/v1/txn",
                {"guards": [{"key": a, "absent": True}], "otherwise": [{"delete": b}]},
            ),
            "rw",
        ),
    ],
    ("/v1/batch", "POST"): [
        Row(
            KEYS,
            lambda a, b, w: Ask(
                "/v1/batch",
                {"operations": [{"writes": [{"put": k, "value": ""}]} for k in (a, b)]},
            ),
            "w",
        )
    ],
    ("/v1/async", "POST"): [Row(KEYS, lambda a, b, w: Ask("/v1/async", _transaction(a, b)), "w")],
    ("/v1/operations/{op_id}", "GET"): [Row(KEYS, plain("/v1/operations/x"))],
    ("/v1/operations/{op_id}", "POST"): [Row(KEYS, plain("/v1/operations/x"))],
    ("/v1/leases", "POST"): [Row(KEYS, plain("/v1/leases", {"ttl": 60}), "lease")],
    ("/v1/leases", "GET"): [Row(ADMIN, plain("/v1/leases"))],
    ("/v1/leases/{id}", "GET"): [Row(KEYS, plain("/v1/leases/7"))],
    ("/v1/leases/{id}", "DELETE"): [Row(ADMIN, plain("/v1/leases/7"))],  # it is nobody's
    ("/v1/leases/{id}/keep-alive", "POST"): [Row(KEYS, plain("/v1/leases/7/keep-alive"))],
    ("/v1/keep-alive", "POST"): [Row(KEYS, plain("/v1/keep-alive", {"ids": ["7"]}))],
    ("/v1/leader", "GET"): [Row(SIGNED, plain("/v1/leader"))],
    ("/v1/cluster", "GET"): [Row(SIGNED, plain("/v1/cluster"))],
    ("/v1/activity", "GET"): [Row(SIGNED, plain("/v1/activity"))],
    ("/v1/control", "GET"): [Row(ADMIN, plain("/v1/control"))],
    ("/v1/access", "GET"): [Row(SIGNED, plain("/v1/access"))],
    ("/v1/cluster/transfer", "POST"): [Row(ADMIN, plain("/v1/cluster/transfer"))],
    ("/v1/cluster/members", "POST"): [Row(ADMIN, plain("/v1/cluster/members", {}))],
    ("/v1/cluster/members/{id}", "DELETE"): [Row(ADMIN, plain("/v1/cluster/members/n9"))],
    ("/v1/cluster/members/{id}/promote", "POST"): [
        Row(ADMIN, plain("/v1/cluster/members/n9/promote"))
    ],
    ("/v1/cluster/limits", "POST"): [Row(ADMIN, plain("/v1/cluster/limits"))],
    ("/v1/cluster/adopt", "POST"): [Row(ADMIN, plain("/v1/cluster/adopt"))],
    ("/v1/ledger", "GET"): [Row(ADMIN, plain("/v1/ledger"))],
    ("/v1/backup", "GET"): [Row(ADMIN, plain("/v1/backup"))],
    ("/v1/verify", "GET"): [Row(ADMIN, plain("/v1/verify"))],
    ("/v1/access/enable", "POST"): [Row(ADMIN, plain("/v1/access/enable"))],
    ("/v1/access/disable", "POST"): [Row(ADMIN, plain("/v1/access/disable"))],
    ("/v1/access/tokens", "GET"): [Row(ADMIN, plain("/v1/access/tokens"))],
    ("/v1/access/tokens", "POST"): [
        Row(ADMIN, plain("/v1/access/tokens", {"principal": "n", "roles": ["own"]}))
    ],
    ("/v1/access/tokens/{id}", "DELETE"): [Row(ADMIN, plain("/v1/access/tokens/none"))],
    ("/v1/access/roles", "GET"): [Row(ADMIN, plain("/v1/access/roles"))],
    ("/v1/access/roles/{name}", "PUT"): [Row(ADMIN, plain("/v1/access/roles/n", {}))],
    ("/v1/access/roles/{name}", "DELETE"): [Row(ADMIN, plain("/v1/access/roles/none"))],
    ("/v1/access/certificates", "GET"): [Row(ADMIN, plain("/v1/access/certificates"))],
    ("/v1/access/certificates/{name}", "PUT"): [
        Row(ADMIN, plain("/v1/access/certificates/n", {"roles": ["own"]}))
    ],
    ("/v1/access/certificates/{name}", "DELETE"): [
        Row(ADMIN, plain("/v1/access/certificates/none"))
    ],
    ("/v1/session", "POST"): [Row(SIGNED, plain("/v1/session"))],
    ("/v1/session", "DELETE"): [Row(SIGNED, plain("/v1/session"))],
    ("/v1/webhooks", "GET"): [Row(SIGNED, plain("/v1/webhooks"))],
    ("/v1/webhooks", "POST"): [
        Row(SIGNED, lambda a, b, w: Ask("/v1/webhooks", _webhook(a, w)), "r", True)
    ],
    ("/v1/webhooks/{name}", "GET"): [Row(SIGNED, plain("/v1/webhooks/none"))],
    ("/v1/webhooks/{name}", "DELETE"): [Row(SIGNED, plain("/v1/webhooks/none"))],
    ("/v1/webhooks/{name}/owner", "PUT"): [
        Row(ADMIN, plain("/v1/webhooks/none/owner", {"owner": "n"}))
    ],
    ("/v1/webhooks/{name}/sign", "POST"): [
        Row(ADMIN, plain("/v1/webhooks/none/sign", {"id": "i", "timestamp": 1, "body": ""}))
    ],
    ("/kv", "GET"): [Row(KEYS, lambda a, b, w: Ask(f"/kv?key={b}"), "r", True)],
    ("/kv", "PUT"): [
        Row(KEYS, lambda a, b, w: Ask("/kv", {"data": {"key": b, "value": ""}}), "rw", True)
    ],
    ("/kv", "DELETE"): [Row(KEYS, lambda a, b, w: Ask(f"/kv?key={b}"), "rw", True)],
    ("/metrics", "GET"): [Row(Need.METRICS, plain("/metrics"))],
    **{
        (path, "GET"): [Row(OPEN, plain(path))]
        for path in ("/health", "/livez", "/readyz", "/openapi.json")
    },
}


def _step(of: str, **form: object) -> dict[str, object]:
    return {"success": [{f"request_{of}": form}]}


def _v3(name: str, form: Callable[[str, str, str], Any]) -> Callable[[str, str, str], Ask]:
    return lambda first, second, who: Ask(f"/v3/{name}", form(first, second, who))


def _range(first: str, second: str, who: str) -> dict[str, str]:
    return {"key": b64(first), "range_end": b64(second)}


def _key(first: str, second: str, who: str) -> dict[str, str]:
    return {"key": b64(second)}


def _watched(first: str, second: str, who: str) -> dict[str, object]:
    return {"create_request": {"key": b64(second), "prev_kv": True}}


def _compared(first: str, second: str, who: str) -> dict[str, object]:
    compare = {"key": b64(second), "target": "VALUE", "value": b64("x")}
    return {"compare": [compare]}


def _spanned(first: str, second: str, who: str) -> dict[str, object]:
    compare = {
        "key": b64(first), "range_end": b64(second), "target": "VERSION", "version": "1",
    }  # fmt: skip
    return {"compare": [compare]}


def _name(first: str, second: str, who: str) -> dict[str, object]:
    return {"name": b64(f"{second}/{who}")}


def _leader(first: str, second: str, who: str) -> dict[str, object]:
    of = {"name": b64(second), "key": b64(f"{second}/1"), "rev": "1", "lease": "0"}
    return {"leader": of}


def _led(first: str, second: str, who: str) -> dict[str, object]:
    return {"name": b64(second)}


ETCD: Final[dict[str, list[Row]]] = {
    "kv/range": [
        Row(KEYS, _v3("kv/range", _range), "r"),
        Row(KEYS, _v3("kv/range", _key), "r", True),
    ],
    "kv/put": [
        Row(KEYS, _v3("kv/put", _key), "w", True),
        Row(KEYS, _v3("kv/put", lambda *a: _key(*a) | {"prev_kv": True}), "rw", True),
    ],
    "kv/deleterange": [
        Row(KEYS, _v3("kv/deleterange", _range), "rw"),
        Row(KEYS, _v3("kv/deleterange", lambda *a: _range(*a) | {"prev_kv": True}), "rw"),
        Row(KEYS, _v3("kv/deleterange", _key), "rw", True),
    ],
    "kv/txn": [
        Row(KEYS, _v3("kv/txn", lambda *a: _step("range", **_range(*a))), "r"),
        Row(KEYS, _v3("kv/txn", lambda *a: _step("put", **_key(*a))), "w", True),
        Row(KEYS, _v3("kv/txn", lambda *a: _step("delete_range", **_range(*a))), "rw"),
        Row(KEYS, _v3("kv/txn", _compared), "r", True),
        Row(KEYS, _v3("kv/txn", _spanned), "r"),
    ],
    "kv/compaction": [Row(ADMIN, plain("/v3/kv/compaction", {"revision": "1"}))],
    "watch": [
        Row(KEYS, _v3("watch", lambda *a: {"create_request": _range(*a)}), "r"),
        Row(KEYS, _v3("watch", _watched), "r", True),
    ],
    "lease/grant": [Row(KEYS, plain("/v3/lease/grant", {"TTL": "60"}), "lease")],
    "lease/revoke": [Row(ADMIN, plain("/v3/lease/revoke", {"ID": "7"}))],
    "lease/keepalive": [Row(KEYS, plain("/v3/lease/keepalive", {"ID": "7"}))],
    "lease/timetolive": [Row(KEYS, plain("/v3/lease/timetolive", {"ID": "7", "keys": True}))],
    "lease/leases": [Row(ADMIN, plain("/v3/lease/leases", {}))],
    "kv/lease/revoke": [Row(ADMIN, plain("/v3/kv/lease/revoke", {"ID": "7"}))],
    "kv/lease/timetolive": [Row(KEYS, plain("/v3/kv/lease/timetolive", {"ID": "7"}))],
    "kv/lease/leases": [Row(ADMIN, plain("/v3/kv/lease/leases", {}))],
    "lock/lock": [Row(KEYS, _v3("lock/lock", _name), "rw", True)],
    "lock/unlock": [Row(KEYS, _v3("lock/unlock", _key), "w", True)],
    "election/campaign": [Row(KEYS, _v3("election/campaign", _name), "rw", True)],
    "election/proclaim": [Row(KEYS, _v3("election/proclaim", _leader), "rw", True)],
    "election/leader": [Row(KEYS, _v3("election/leader", _led), "r", True)],
    "election/observe": [Row(KEYS, _v3("election/observe", _led), "r", True)],
    "election/resign": [Row(KEYS, _v3("election/resign", _leader), "rw", True)],
    **{
        name: [Row(SIGNED, plain(f"/v3/{name}", {}))]
        for name in ("cluster/member/list", "maintenance/status", "maintenance/alarm")
    },
    **{
        name: [Row(ADMIN, plain(f"/v3/{name}", {}))]
        for name in (
            "cluster/member/add",
            "cluster/member/remove",
            "cluster/member/promote",
            "maintenance/hash",
            "maintenance/hashkv",
            "maintenance/snapshot",
            *UNSPOKEN,
        )
    },
    "auth/authenticate": [Row(OPEN, plain("/v3/auth/authenticate", {"name": "x"}))],
}


def test_every_operation_has_a_row() -> None:
    assert set(NATIVE) == set(ALL)
    assert set(ETCD) == set(SPOKEN) | set(UNSPOKEN)


def test_a_route_asks_what_its_rows_say_at_least() -> None:
    order = [OPEN, KEYS, SIGNED, Need.METRICS, ADMIN]
    routes = {route.template: route for route in (*WHOLE, *(each[2] for each in BEGUN))}
    for (path, _), rows in NATIVE.items():
        assert all(order.index(routes[path].needs) <= order.index(row.needs) for row in rows), path
    for path, spoken in spoken_paths().items():
        rows = ETCD[path.split("/", 2)[2]]
        assert all(order.index(spoken.needs) <= order.index(row.needs) for row in rows), path


async def test_the_document_says_what_each_operation_needs() -> None:
    routes = {route.template: route for route in (*WHOLE, *(each[2] for each in BEGUN))}
    async with guarded() as door:
        document = (await door.ask(None, "GET", "/openapi.json")).json()
        schemes = document["components"]["securitySchemes"]
        assert {each["type"] for each in schemes.values()} == {"http", "mutualTLS", "apiKey"}
        for path, method in ALL:
            said = document["paths"][path][method.lower()]
            assert need_of(path) is routes[path].needs, path
            ways = {name for way in said["security"] for name in way}
            assert ways == (set() if routes[path].needs is OPEN else set(schemes)), path
            nobody = {} in said["security"] or not said["security"]
            assert nobody == (routes[path].needs in (OPEN, KEYS, Need.METRICS)), path
            assert ("401" in said["responses"]) == (routes[path].needs is not OPEN), path


@pytest.mark.parametrize("where", ["node.access.granted.check", "node.access.granted.check_intent"])
async def test_a_service_that_does_not_judge_is_found(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, lambda *rights: None)
    path, method = ("/v1/kv/{key}", "GET" if where.endswith("check") else "PUT")
    async with guarded() as door:
        for row in NATIVE[path, method]:
            assert not await denied(door, "foreign", method, row.asks("a/1", "a/1", "foreign"))


async def test_a_route_that_asks_too_little_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.access.access.Grant.require", lambda self, need: None)
    async with guarded() as door:
        assert not await denied(door, "reader", "GET", Ask("/metrics"))
        # what stands behind the services is judged all the same
        assert await denied(door, "reader", "GET", Ask("/v1/ledger"))
        assert await denied(door, "reader", "GET", Ask("/v1/backup"))
        assert await denied(door, "reader", "POST", Ask("/v1/cluster/transfer"))
        assert await denied(door, "reader", "GET", Ask("/v1/access/tokens"))
        assert await denied(door, "reader", "POST", Ask("/v1/access/disable"))


class Accepting:
    """A broker that takes everything."""

    async def accept(self, op_id: str, transaction: bytes, *, timeout_s: float) -> None:
        msgspec.json.decode(transaction)

    def trouble(self) -> None:
        return None


@asynccontextmanager
async def guarded() -> AsyncIterator[Door]:
    async with opened(kind="replicated", etcd=True, async_writes=Accepting()) as api:
        door = await controlled(api)
        await door.role("theirs", {"prefix": "b/", "read": True, "write": True})
        await door.token("foreign", "theirs")
        await door.token("revoked", "admin")
        await door.ask("admin", "DELETE", f"/v1/access/tokens/{door.ids['revoked']}")
        await door.token("expired", "admin", ttl=0.001)
        while True:
            if (await door.ask("expired", "GET", "/v1/access")).status == 401:
                break
        door.tokens["malformed"] = "acordo_" + "x" * 56
        yield door


MAY: Final = {
    "reader": {("own", "r")},
    "writer": {("own", "w")},
    "owner": {("own", each) for each in ("r", "w", "rw")},
    "foreign": {("foreign", each) for each in ("r", "w", "rw")},
    "anonymous": {("own", "r")},
}
for _who in ("writer", "owner", "foreign"):  # whoever writes any key has leases, wherever it is
    MAY[_who] |= {(where, "lease") for where in WHERE}
NOBODY: Final = ("none", "expired", "revoked", "malformed")


def let_in(who: str, row: Row, where: str) -> bool:
    if row.needs is OPEN or who == "admin":
        return True
    if who in NOBODY or row.needs in (ADMIN, Need.METRICS):
        return False
    if row.needs is SIGNED and (who == "anonymous" or row.does is None):
        return who != "anonymous"
    return row.does is None or (where, row.does) in MAY[who]


async def denied(door: Door, who: str, method: str, ask: Ask) -> bool:
    """Return whether a request is denied, from the head of its answer, or in its first message."""
    headers = {}
    if who in door.tokens:
        bare = ask.path.startswith("/v3")
        headers["Authorization"] = ("" if bare else "Bearer ") + door.tokens[who]
    more: dict[str, Any] = {"data": ask.raw} if ask.raw is not None else {}
    if ask.body is not None:
        more = {"json": ask.body}
    url = URL(door.api.url + ask.path, encoded=True)
    async with (
        asyncio.timeout(10),
        door.api.session.request(method, url, headers=headers, **more) as response,
    ):
        if response.status in DENIED:
            text = (await response.read()).decode()
            assert '"ETag"' not in text and "current" not in text
            return True
        if response.status == 500:
            assert b"election: no" in await response.read()
        if ask.path == "/v3/watch" and response.status == 200:
            return b"permission denied" in await response.content.readline()
        return False


OPERATIONS: Final = [
    *((method, path, row) for (path, method), rows in NATIVE.items() for row in rows),
    *(("POST", f"/v3/{name}", row) for name, rows in ETCD.items() for row in rows),
]


@pytest.mark.parametrize(
    ("method", "path", "row"),
    OPERATIONS,
    ids=[f"{method} {path} {n}" for n, (method, path, _) in enumerate(OPERATIONS)],
)
async def test_who_is_let_in(method: str, path: str, row: Row) -> None:
    wrong = []
    async with guarded() as door:
        for who in (*NOBODY, "anonymous", "reader", "writer", "owner", "foreign", "admin"):
            if who == "anonymous":
                await door.role("anonymous", {"prefix": "a/", "read": True})
            for where, keys in WHERE.items():
                if (where == "mixed" and row.one_key) or (who == "admin" and where == "mixed"):
                    continue
                refused = await denied(door, who, method, row.asks(*keys, who))
                if refused == let_in(who, row, where):
                    wrong.append((who, where, "denied" if refused else "let in"))
    assert not wrong
