"""While nothing is settled here, no digest can say whose a store is: it is asked, and another's is
not served.
"""

from __future__ import annotations

from typing import Any

import pytest

from kv.model import Head
from kv.ports import Identity
from tests.unit.node.conftest import Api

OURS, THEIRS = b"\xaa" * 16, b"\xbb" * 16
PATHS = ["/v1/kv/a", "/v1/kv/b?consistency=stale", "/v1/kv?prefix="]


async def fill(api: Api, held: Identity, **shown: Any) -> None:
    """Let the store hold a key of `held`'s, and this node have settled nothing and hear no
    quorum.
    """
    (await api.ask("PUT", "/v1/kv/a?op_id=theirs", data=b"1")).json()
    api.consensus.shown = shown
    api.consensus._settled = Head()
    api.consensus._answers.clear()
    api.consensus.no_leader = "no_quorum"
    api.server.services.reads.memory.clear()
    api.database.adopt(0, held)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("held", "code"),
    [(Identity("c", THEIRS), "store_refused"), (Identity("d", OURS), "store_foreign")],
    ids=["other history", "other cluster"],
)
async def test_a_store_of_another_is_not_served(
    api: Api, held: Identity, code: str, path: str
) -> None:
    await fill(api, held, cluster_id="c", history=OURS.hex())
    (await api.ask("GET", path)).problem(503, code)


@pytest.mark.parametrize("path", PATHS)
async def test_nothing_is_served_before_the_history_is_founded(
    api: Api, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(api, Identity("c", OURS), cluster_id="c")
    monkeypatch.setattr(type(api.consensus), "space", None)
    (await api.ask("GET", path)).problem(503, "starting")


async def test_the_own_store_is_served_without_a_quorum(api: Api) -> None:
    await fill(api, Identity("c", OURS), cluster_id="c", history=OURS.hex())
    assert (await api.ask("GET", "/v1/kv/a")).body == b"1"


async def test_an_operation_of_another_history_is_not_told_as_ours(api: Api) -> None:
    await fill(api, Identity("c", THEIRS), cluster_id="c", history=OURS.hex())
    told = await api.ask("GET", "/v1/operations/theirs")
    assert "applied" not in told.body.decode() or told.status >= 500, told.body
