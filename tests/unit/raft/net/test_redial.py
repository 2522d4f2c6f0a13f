"""A node dials its peers again sooner than an election ends: who is back is reached before the next
failure.
"""

from __future__ import annotations

from random import Random

from pysyncobj.node import Node

from cluster.settings.node import NodeSettings
from node.startup.backends import MemberNetwork


async def test_a_node_never_pauses_longer_between_dials_than_an_election_takes() -> None:
    settings = NodeSettings(node_id="n1", raft_address="127.0.0.1:1")
    make = MemberNetwork(settings, "cluster", Random(1))
    transport = make(Node("n1", address="127.0.0.1:1"), lambda: None, lambda exc: None)
    assert transport.limits.retry_max_s < settings.election_timeout_s
