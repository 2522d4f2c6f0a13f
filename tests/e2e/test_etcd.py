"""The corpus is answered as etcd did, by three nodes, on both kinds of store."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest

from tests.e2e.conftest import Start
from tests.kinds_of_store import KINDS
from tests.peers.corpus import compared, recorded

pytestmark = pytest.mark.timeout(240)

LATER: Final = ("lease", "lock", "election", "campaign")
"""Words in the names of cases that take leases, which are not there yet."""


@pytest.mark.parametrize("start", KINDS, indirect=True)
async def test_the_corpus_is_answered_as_etcd_did(start: Start) -> None:
    cases = {
        name: case
        for name, case in recorded().items()
        if not any(word in name.lower() for word in LATER)
    }
    async with start(etcd=True) as cluster:
        url = next(iter(cluster.nodes.values())).url
        *wrong, counted = await asyncio.to_thread(compared, url, cases)
        assert not wrong, "\n".join([*wrong, counted])
