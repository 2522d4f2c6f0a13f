"""The corpus is answered as etcd did, by three nodes, on both kinds of store."""

from __future__ import annotations

import asyncio

import pytest

from tests.e2e.conftest import Start
from tests.kinds_of_store import KINDS
from tests.peers.corpus import compared, recorded
from tests.peers.differences import expected

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize("start", KINDS, indirect=True)
async def test_the_corpus_is_answered_as_etcd_did(
    start: Start, request: pytest.FixtureRequest
) -> None:
    known = expected(shared=request.node.callspec.params["start"] == "shared")
    async with start(etcd=True) as cluster:
        url = next(iter(cluster.nodes.values())).url
        *wrong, counted = await asyncio.to_thread(compared, url, recorded(), known)
        assert not wrong, "\n".join([*wrong, counted])
