"""How long after a revocation a write may still be ordered: FRESH_S and its own time limit."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from kv.access import BROUGHT
from kv.model import Intent
from node.access.access import FRESH_S
from tests.unit.node.conftest import Api, Reply, opened
from tests.unit.node.fakes import FakeClock
from tests.unit.node.test_access import Door, controlled


class Later(FakeClock):
    """A clock that is ahead by as much as is set."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s


class Lagging:
    """A node that hears nothing of what settles, until it may."""

    def __init__(self, door: Door) -> None:
        self.door, self.access = door, door.api.server.services.access
        self.clock = Later()
        self.access._clock = self.clock
        self._held: list[Any] = []
        self._hear: Callable[[Any], None] = self.access._settled
        door.api.consensus._listeners.remove(self._hear)
        self.access._unlisten = door.api.consensus.listen(self._held.append)
        wait = door.api.consensus.wait_settled

        async def behind(revision: int, *, timeout_s: float) -> None:
            """Settled here is what was heard, as on a real node."""
            await wait(revision, timeout_s=timeout_s)
            if not self.cut:
                self.hear()
                return
            raise TimeoutError

        door.api.consensus.wait_settled = behind  # type: ignore[method-assign]
        self.cut = False

    def hear(self) -> None:
        while self._held:
            self._hear(self._held.pop(0))

    async def revoke(self, who: str) -> None:
        """Revoke a token at another node: this one does not wait for it."""
        self.cut = True
        path = f"/v1/access/tokens/{self.door.ids[who]}"
        assert (await self.door.ask("admin", "DELETE", path)).status == 200
        self.cut = False


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with opened(kind="replicated") as one:
        yield one


async def put(door: Door, who: str) -> Reply:
    return await door.ask(who, "PUT", "/v1/kv/a/1", data=b"late")


async def test_a_node_that_lags_takes_writes_for_so_long_and_no_longer(api: Api) -> None:
    door = await controlled(api)
    node = Lagging(door)
    assert (await put(door, "owner")).status == 200
    await node.revoke("owner")
    assert (await put(door, "owner")).status == 200  # the window, which docs/security.md states
    node.clock.ahead_s = FRESH_S + 0.1
    (await put(door, "owner")).problem(401, "not_signed_in")


async def test_a_node_that_cannot_learn_takes_no_writes(api: Api) -> None:
    door = await controlled(api)
    node = Lagging(door)
    assert (await put(door, "owner")).status == 200
    await node.revoke("owner")
    node.clock.ahead_s = FRESH_S + 0.1
    node.cut = True
    submits = len(api.consensus.submits)
    short = {"Acordo-Timeout": "0.3"}
    late = await door.ask("owner", "PUT", "/v1/kv/a/1", data=b"late", headers=short)
    late.problem(503, "behind")
    api.consensus.no_leader = "no_quorum"
    late = await door.ask("owner", "POST", "/v1/leases", json={"ttl": 60})
    late.problem(503, "no_quorum")
    assert len(api.consensus.submits) == submits


async def test_a_node_that_lags_signs_nothing_for_who_was_revoked(api: Api) -> None:
    door = await controlled(api)
    form = {"name": "w", "url": "https://h.example/", "prefix": "a/"}
    assert (await door.ask("owner", "POST", "/v1/webhooks", json=form)).status == 201
    delivery = b64encode(b'{"type":"put","key":"a/1"}').decode()
    sign = {"id": "w/1-0", "timestamp": 1, "body": delivery}

    async def signed(who: str = "admin") -> Reply:
        return await door.ask(who, "POST", "/v1/webhooks/w/sign", json=sign)

    assert (await signed()).json()["told"] is True
    await door.token("worker", "admin")
    node = Lagging(door)
    await node.revoke("owner")
    node.clock.ahead_s = FRESH_S + 0.1
    assert (await signed()).json() == {"told": False}
    await node.revoke("worker")
    node.clock.ahead_s += FRESH_S + 0.1
    (await signed("worker")).problem(401, "not_signed_in")
    node.clock.ahead_s += FRESH_S + 0.1
    api.consensus.no_leader = "no_quorum"
    (await signed()).problem(503, "no_quorum")


async def test_a_node_asks_once_for_all_writes_of_that_time(api: Api) -> None:
    door = await controlled(api)
    await put(door, "owner")
    before = api.consensus.read_indexes
    for _ in range(5):
        assert (await put(door, "owner")).status == 200
    assert api.consensus.read_indexes == before
    door.api.server.services.access._fresh_at = None
    await put(door, "owner")
    assert api.consensus.read_indexes == before + 1


async def test_a_change_of_access_is_never_ordered_after_its_admin_was_revoked(api: Api) -> None:
    door = await controlled(api)
    await door.token("second", "admin")
    node = Lagging(door)
    await node.revoke("second")
    role = {"rules": [{"prefix": "", "read": True}]}
    late = await door.ask("second", "PUT", "/v1/access/roles/all", json=role)
    late.problem(409, "access_changed")


@pytest.mark.parametrize("revoked", [False, True])
async def test_what_a_worker_brings_is_judged_by_what_its_principal_may_now(
    api: Api, revoked: bool
) -> None:
    door = await controlled(api)
    await door.token("worker", "admin")
    if revoked:
        await door.ask("admin", "DELETE", f"/v1/access/tokens/{door.ids['owner']}")
    form = {"op_id": f"async-1{BROUGHT}owner", "writes": [{"put": "a/1", "value": "brought"}]}
    headers = {"Acordo-Lifetime": "60"}
    sent = await door.ask("worker", "POST", "/v1/txn", json=form, headers=headers)
    if revoked:
        sent.problem(403, "not_allowed")
    else:
        assert sent.status == 200
        await door.ask("admin", "DELETE", f"/v1/access/tokens/{door.ids['owner']}")
        again = await door.ask("worker", "POST", "/v1/txn", json=form, headers=headers)
        assert again.json()["again"] is True  # what happened is told as it was
    form = form | {"op_id": f"async-2{BROUGHT}owner", "writes": [{"put": "b/1", "value": ""}]}
    other = await door.ask("worker", "POST", "/v1/txn", json=form, headers=headers)
    other.problem(403, "not_allowed")


async def test_a_write_is_ordered_within_its_request_or_never(api: Api) -> None:
    door = await controlled(api)
    await put(door, "owner")
    latest_ms = api.consensus.now_ms() + api.server.services.settings.request_timeout_s * 1000
    sent = [i for group in api.consensus.submits for i in group if isinstance(i, Intent)]
    assert sent and all(0 < each.deadline_ms <= latest_ms for each in sent)
