"""GET /v1/leader: the leader, with the URL at which clients reach it."""

from __future__ import annotations

from aiohttp import web

from node.exchange.exchange import Exchange
from node.wire.answers import LeaderAnswer


async def get(x: Exchange) -> web.Response:
    """Return the leader; 503 while this node knows of none."""
    x.params()
    status = x.services.consensus.status()
    if status.leader is None:
        return x.problem("no_leader", "this node knows no leader")
    return x.json(
        LeaderAnswer(
            status.leader, status.leader_url, status.term, status.quorum, status.leader_since_ms
        )
    )
