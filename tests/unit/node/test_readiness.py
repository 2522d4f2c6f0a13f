"""/readyz says ok only where a write would succeed; every reason has a name, also on /v1/cluster
and in metrics.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from backends.memory.database import MemoryDatabase
from backends.memory.store import MemoryStore
from kv.errors import BackendUnavailable
from kv.model import GENESIS_DIGEST, Head, LedgerRow
from node.api.openapi.answers import ClusterView
from node.readiness.findings import UNFIT, differs, findings
from node.wire.problems import KINDS
from tests.unit.node.conftest import Api, Open

REASONS = [
    ({"unfit": "removed"}, "member", "removed", "taken out of the cluster"),
    ({"unfit": "disk_lost"}, "member", "disk_lost", "new id"),
    ({"leader": None}, "leader", "no_leader", "no leader is known"),
    ({"quorum": False}, "quorum", "no_quorum", "no quorum answers"),
    ({"stamped": False}, "time", "starting", "no stamp"),
    ({"store_trouble": "sqlite: disk full"}, "store", "store_away", "disk full"),
    (
        {"store_trouble": "the leader's store does not take what it commits"},
        "store",
        "store_away",
        "leader's store",
    ),
    ({"refusal": "store_behind"}, "ledger", "store_refused", "`acordo adopt`"),
    ({"refusal": "store_foreign"}, "ledger", "store_foreign", "cannot be adopted"),
    ({"refusal": "own_store_catching_up"}, "ledger", "starting", "log has not reached"),
    ({"refusal": "own_store_diverged"}, "ledger", "starting", "contents differ from the others"),
    ({"refusal": "own_store_undecided"}, "ledger", "own_store_undecided", "operator decides"),
]


async def seen(api: Api) -> tuple[int, str, list[dict[str, str]], str]:
    """Return /readyz, its text, what /v1/cluster says, and the metrics."""
    ready = await api.ask("GET", "/readyz")
    view = (await api.ask("GET", "/v1/cluster")).json()
    msgspec.convert(view, ClusterView)
    metrics = (await api.ask("GET", "/metrics")).body.decode()
    return ready.status, ready.body.decode(), view["unready"], metrics


@pytest.mark.parametrize(("shown", "check", "code", "why"), REASONS)
async def test_what_makes_a_node_unready_is_said_everywhere(
    api: Api, shown: dict[str, Any], check: str, code: str, why: str
) -> None:
    status, text, unready, metrics = await seen(api)
    assert (status, text, unready) == (200, "ok\n", [])
    assert "acordo_ready 1.0" in metrics and f'acordo_unready{{reason="{code}"}} 1.0' not in metrics
    api.consensus.shown = shown
    status, text, unready, metrics = await seen(api)
    assert status == 503
    assert f"[-]{check} failed: " in text and why in text
    assert [(each["check"], each["code"]) for each in unready] == [
        (check, code)
    ] and why in unready[0]["why"]
    assert "acordo_ready 0.0" in metrics and f'acordo_unready{{reason="{code}"}} 1.0' in metrics
    assert (await api.ask("GET", "/health")).json()["checks"][check] != "ok"


async def test_every_code_is_one_of_refusals_or_of_members(api: Api) -> None:
    found = findings(api.consensus.status(), store_trouble=None, store_differs=None, leaving=False)
    assert {each.code for each in found if each.code} <= {*KINDS, *UNFIT}


class Hung(MemoryStore):
    """A store that stops answering."""

    hangs = False

    async def head(self, **more: Any) -> Any:
        if self.hangs:
            await asyncio.sleep(more["timeout_s"])
            raise BackendUnavailable("store", "no answer in time")
        return await super().head(**more)


async def test_a_store_that_hangs_is_named(open_api: Open) -> None:
    store = Hung(MemoryDatabase())
    async with open_api(store=store) as api:
        assert (await api.ask("GET", "/readyz")).status == 200
        store.hangs = True
        api.server.services.readiness.store_probe.forget()
        status, text, unready, _ = await seen(api)
        assert status == 503 and "[-]store failed" in text and unready[0]["code"] == "store_away"


async def test_a_store_that_is_not_what_was_settled_is_named(api: Api) -> None:
    """Its snapshots are refused, so reads of this node fail, whatever the leader's own connection
    leads to.
    """
    for key in "abcd":
        await api.ask("PUT", f"/v1/kv/{key}", data=b"1")
    assert (await api.ask("GET", "/readyz")).status == 200
    api.database.lose_rows(2)
    api.server.services.readiness.store_probe.forget()
    status, text, unready, _ = await seen(api)
    assert status == 503 and "[-]ledger failed" in text and "acordo adopt" in text
    assert unready[0]["code"] == "store_refused"


async def test_a_store_that_was_never_asked_is_not_called_well(api: Api) -> None:
    assert api.server.services.readiness.store_probe.trouble == "it was not asked yet"


def test_how_a_store_differs() -> None:
    settled = Head(last=5, digest=b"a" * 32)
    ahead = Head(seq=9, last=7, digest=b"c" * 32)

    def row(digest: bytes) -> LedgerRow:
        return LedgerRow(5, 1, "n1", 5, 5, digest, 0)

    assert differs(settled, ahead, row(b"a" * 32)) is None
    assert differs(settled, ahead, None) is None  # pruned: the store is ahead
    assert "another history" in (differs(settled, ahead, row(b"b" * 32)) or "")
    assert "ends at revision 4" in (differs(settled, Head(last=4), None) or "")
    assert differs(Head(digest=GENESIS_DIGEST), Head(), None) is None
