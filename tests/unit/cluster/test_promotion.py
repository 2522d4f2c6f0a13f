"""A member that may not vote yet is asked for again, and each new reason is told once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from acordo import NotApplied
from cluster.local import membership
from cluster.local.layout import ClusterFile, keep_cluster
from cluster.local.membership import Membership


class Refusing:
    """A cluster that takes a voter at the fourth time of asking."""

    def __init__(self) -> None:
        self.asked = 0

    async def add_member(self, member: str, **_: Any) -> None:
        self.asked += 1
        if self.asked < 4:
            detail = "it lags" if self.asked < 3 else "it is silent"
            raise NotApplied(detail, reason="no_quorum")


async def test_a_member_that_may_not_vote_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "PAUSE_S", 0.0)
    keep_cluster(tmp_path, ClusterFile(1, "c", 3, 8001))
    said: list[str] = []
    client: Any = Refusing()
    http: Any = None
    await Membership(tmp_path, client, http, said.append)._promoted("n4", "h:1", "http://h:2")
    assert client.asked == 4
    assert said == ["n4 may not vote yet: it lags", "n4 may not vote yet: it is silent"]
