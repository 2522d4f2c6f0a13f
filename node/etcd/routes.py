"""Define the paths of etcd's JSON gateway, under each of the prefixes that clients use.

What is not spoken is refused by its name, and nothing else of a node's paths is touched.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, TypeAlias

from aiohttp import web

from node.etcd import cluster, election, kv, leases, watch
from node.etcd.call import Call, Identity
from node.etcd.refusals import Refusal, unimplemented
from node.exchange.exchange import Exchange
from node.exchange.headers import JSON
from node.wire.gateway import gateway_error

PREFIXES: Final = ("/v3/", "/v3beta/", "/v3alpha/")

Handler: TypeAlias = Callable[[Call], Awaitable[web.StreamResponse]]


class Spoken(NamedTuple):
    """A path of the gateway. `long`: it is a stream, which is counted apart; `always`: it is served
    also while the node is overloaded.
    """

    handler: Handler
    long: bool = False
    always: bool = False


SPOKEN: Final[dict[str, Spoken]] = {
    "kv/range": Spoken(kv.range_),
    "kv/put": Spoken(kv.put_),
    "kv/deleterange": Spoken(kv.delete_range),
    "kv/txn": Spoken(kv.txn),
    "kv/compaction": Spoken(kv.compaction),
    "watch": Spoken(watch.watch, long=True),
    "lease/grant": Spoken(leases.grant),
    "lease/revoke": Spoken(leases.revoke),
    "lease/keepalive": Spoken(leases.keep_alive),
    "lease/timetolive": Spoken(leases.time_to_live),
    "lease/leases": Spoken(leases.leases),
    "kv/lease/revoke": Spoken(leases.revoke),
    "kv/lease/timetolive": Spoken(leases.time_to_live),
    "kv/lease/leases": Spoken(leases.leases),
    "lock/lock": Spoken(election.lock, long=True),
    "lock/unlock": Spoken(election.unlock),
    "election/campaign": Spoken(election.campaign, long=True),
    "election/proclaim": Spoken(election.proclaim),
    "election/leader": Spoken(election.leader),
    "election/observe": Spoken(election.observe, long=True),
    "election/resign": Spoken(election.resign),
    "cluster/member/list": Spoken(cluster.members, always=True),
    "cluster/member/add": Spoken(cluster.member_add, always=True),
    "cluster/member/remove": Spoken(cluster.member_remove, always=True),
    "cluster/member/promote": Spoken(cluster.member_promote, always=True),
    "maintenance/status": Spoken(cluster.status, always=True),
    "maintenance/hash": Spoken(cluster.hash_),
    "maintenance/alarm": Spoken(cluster.alarm, always=True),
    "maintenance/snapshot": Spoken(cluster.snapshot),
    "auth/authenticate": Spoken(cluster.authenticate),
}
"""Each path behind a prefix."""
_AUTH_WORDS: Final = ("add", "get", "list", "delete", "grant", "revoke")
UNSPOKEN: Final = (
    "cluster/member/update",
    "maintenance/defragment",
    "maintenance/hashkv",
    "maintenance/transfer-leadership",
    *(f"auth/{word}" for word in ("enable", "disable", "status")),
    *(f"auth/{of}/{word}" for of in ("user", "role") for word in _AUTH_WORDS),
    "auth/user/changepw",
)
"""Paths of etcd's gateway that are refused as not spoken."""


def served(
    identity: Identity, spoken: Spoken
) -> Callable[[Exchange], Awaitable[web.StreamResponse]]:
    """Return the handler of a path, which answers refusals in etcd's form."""

    async def handle(x: Exchange) -> web.StreamResponse:
        try:
            return await spoken.handler(Call(x, identity))
        except Refusal as refusal:
            return refused(x, refusal)

    return handle


def refused(x: Exchange, refusal: Refusal) -> web.Response:
    """Return the answer to a refused request."""
    status, body = gateway_error(refusal.code, refusal.message)
    return x.refuse_as(status, body, JSON)


def _unspoken(name: str) -> Spoken:
    async def handle(call: Call) -> web.StreamResponse:
        raise unimplemented(name)

    return Spoken(handle)


def spoken_paths() -> dict[str, Spoken]:
    """Return every path with what serves it."""
    named = SPOKEN | {name: _unspoken(name) for name in UNSPOKEN}
    return {prefix + name: each for prefix in PREFIXES for name, each in named.items()}
