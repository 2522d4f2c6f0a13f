"""Every writing route of the real table × every conditional header: heeded or refused, never passed
over.
"""

from __future__ import annotations

from typing import Final

import pytest

from node.api.routes import BEGUN, ONE_KEY, READING, WHOLE
from node.exchange.screening import CONDITIONAL
from tests.unit.node.conftest import Api, Open

JSON: Final = {"Content-Type": "application/json"}
TXN: Final = b'{"writes": [{"put": "a", "value": "2"}]}'
REQUESTS: Final = {
    ("/v1/kv/{key}", "PUT"): ("/v1/kv/a", b"2", {}),
    ("/v1/kv/{key}", "DELETE"): ("/v1/kv/a", None, {}),
    ("/kv", "PUT"): ("/kv", b'{"data": {"key": "a", "value": "2"}}', JSON),
    ("/kv", "DELETE"): ("/kv?key=a", None, {}),
    ("/v1/txn", "POST"): ("/v1/txn", TXN, JSON),
    ("/v1/batch", "POST"): ("/v1/batch", b'{"operations": [' + TXN + b"]}", JSON),
    ("/v1/async", "POST"): ("/v1/async", TXN, JSON),
    ("/v1/leases", "POST"): ("/v1/leases", b'{"ttl": 60}', JSON),
    ("/v1/leases/{id}", "DELETE"): ("/v1/leases/7", None, {}),
    ("/v1/leases/{id}/keep-alive", "POST"): ("/v1/leases/7/keep-alive", None, {}),
    ("/v1/keep-alive", "POST"): ("/v1/keep-alive", b'{"ids": ["7"]}', JSON),
    ("/v1/cluster/transfer", "POST"): ("/v1/cluster/transfer", b"{}", JSON),
    ("/v1/cluster/members", "POST"): (
        "/v1/cluster/members",
        b'{"id": "n9", "raft_address": "127.0.0.1:9009", "url": "http://n9"}',
        JSON,
    ),
    ("/v1/access/enable", "POST"): ("/v1/access/enable", b"{}", JSON),
    ("/v1/access/disable", "POST"): ("/v1/access/disable", b"{}", JSON),
    ("/v1/access/tokens", "POST"): (
        "/v1/access/tokens",
        b'{"principal": "p", "roles": ["admin"]}',
        JSON,
    ),
    ("/v1/access/tokens/{id}", "DELETE"): ("/v1/access/tokens/x", None, {}),
    ("/v1/access/roles/{name}", "PUT"): ("/v1/access/roles/x", b"{}", JSON),
    ("/v1/access/roles/{name}", "DELETE"): ("/v1/access/roles/x", None, {}),
    ("/v1/access/certificates/{name}", "PUT"): (
        "/v1/access/certificates/x",
        b'{"roles": ["admin"]}',
        JSON,
    ),
    ("/v1/access/certificates/{name}", "DELETE"): ("/v1/access/certificates/x", None, {}),
    ("/v1/session", "POST"): ("/v1/session", b"{}", JSON),
    ("/v1/session", "DELETE"): ("/v1/session", None, {}),
    ("/v1/webhooks", "POST"): ("/v1/webhooks", b'{"name": "w", "url": "http://h.example/"}', JSON),
    ("/v1/webhooks/{name}", "DELETE"): ("/v1/webhooks/w", None, {}),
    ("/v1/webhooks/{name}/owner", "PUT"): ("/v1/webhooks/w/owner", b'{"owner": "p"}', JSON),
    ("/v1/webhooks/{name}/sign", "POST"): (
        "/v1/webhooks/w/sign",
        b'{"id": "d", "timestamp": 1, "body": ""}',
        JSON,
    ),
    ("/v1/cluster/limits", "POST"): ("/v1/cluster/limits", b"{}", JSON),
    ("/v1/cluster/adopt", "POST"): ("/v1/cluster/adopt", b"{}", JSON),
    ("/v1/cluster/members/{id}/promote", "POST"): ("/v1/cluster/members/n1/promote", b"{}", JSON),
    ("/v1/operations/{op_id}", "POST"): ("/v1/operations/x", None, {}),
    ("/v1/cluster/members/{id}", "DELETE"): ("/v1/cluster/members/n1", None, {}),
}
"""A request that works, for each route that writes: a route without one here fails the
first test.
"""
ROUTES: Final = (*WHOLE, *(route for _, _, route in BEGUN))
WRITING: Final = [
    (r.template, method) for r in ROUTES for method in r.handlers if method not in READING
]
LINES: Final = {
    "stale": ['"999"'],
    "any": ["*"],
    "blank": [""],
    "weak": ['W/"1"'],
    "date": ["Sun, 06 Nov 1994 08:49:37 GMT"],
    "several": ['"998"', '"999"'],
    "blank and any": ["", "*"],
}


class Broker:
    """Takes what it is given, and counts it."""

    taken = 0

    async def accept(self, op_id: str, transaction: bytes, *, timeout_s: float) -> None:
        self.taken += 1


def test_every_writing_route_is_tried() -> None:
    assert set(WRITING) == set(REQUESTS)


def test_only_writes_of_one_key_heed_conditions() -> None:
    assert {route.template for route in ROUTES if route.conditions} == {"/v1/kv/{key}", "/kv"}


@pytest.mark.parametrize("name", CONDITIONAL)
@pytest.mark.parametrize(("template", "method"), WRITING)
async def test_no_condition_is_passed_over(
    open_api: Open, template: str, method: str, name: str
) -> None:
    broker = Broker()
    async with open_api(async_writes=broker) as api:
        await api.ask("PUT", "/v1/kv/a", data=b"1")
        before = len(api.consensus.submits)
        path, body, headers = REQUESTS[template, method]
        route = next(route for route in ROUTES if route.template == template)
        for how, lines in LINES.items():
            if (name, how) == ("If-Match", "any") and name in route.conditions:
                continue  # it holds: the key is there
            given = [*headers.items(), *((name, line) for line in lines)]
            reply = await api.ask(method, path, data=body, headers=given)
            if name not in route.conditions:
                reply.problem(400, "unsupported_condition")
            elif (name, how) in {
                ("If-Match", "stale"),
                ("If-Match", "several"),
                ("If-None-Match", "any"),
            }:
                assert reply.problem(412, "precondition_failed")["current"] == 1
            else:
                reply.problem(400, "bad_" + name.lower().replace("-", "_"))
            if name not in route.conditions:
                assert (
                    len(api.consensus.submits) == before
                    and not broker.taken
                    and not api.consensus.transfers
                )
            assert (await api.ask("GET", "/v1/kv/a")).body == b"1"


@pytest.mark.parametrize(
    ("template", "method"), [each for each in WRITING if each[0] in ("/kv", "/v1/kv/{key}")]
)
async def test_a_condition_that_holds_lets_the_write_pass(
    api: Api, template: str, method: str
) -> None:
    path, body, headers = REQUESTS[template, method]
    await api.ask("PUT", "/v1/kv/a", data=b"1")
    assert (
        await api.ask(method, path, data=body, headers={**headers, "If-Match": '"1"'})
    ).status == 200
    after = await api.ask("GET", "/v1/kv/a")
    assert (after.body == b"2") if method == "PUT" else (after.status == 404)
    assert frozenset({"If-Match", "If-None-Match"}) == ONE_KEY
