"""Define the paths of etcd's JSON gateway, under each of the prefixes that clients use.

What is not spoken is refused by its name, and nothing else of a node's paths is touched.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, TypeAlias

from aiohttp import web

from node.access.access import Need
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
    also while the node is overloaded; `needs`: what it asks of who calls it.
    """

    handler: Handler
    long: bool = False
    always: bool = False
    needs: Need = Need.ADMIN


SPOKEN: Final[dict[str, Spoken]] = {
    "kv/range": Spoken(kv.range_, needs=Need.KEYS),
    "kv/put": Spoken(kv.put_, needs=Need.KEYS),
    "kv/deleterange": Spoken(kv.delete_range, needs=Need.KEYS),
    "kv/txn": Spoken(kv.txn, needs=Need.KEYS),
    "kv/compaction": Spoken(kv.compaction, needs=Need.ADMIN),
    "watch": Spoken(watch.watch, long=True, needs=Need.KEYS),
    "lease/grant": Spoken(leases.grant, needs=Need.KEYS),
    "lease/revoke": Spoken(leases.revoke, needs=Need.KEYS),
    "lease/keepalive": Spoken(leases.keep_alive, needs=Need.KEYS),
    "lease/timetolive": Spoken(leases.time_to_live, needs=Need.KEYS),
    "lease/leases": Spoken(leases.leases, needs=Need.KEYS),
    "kv/lease/revoke": Spoken(leases.revoke, needs=Need.KEYS),
    "kv/lease/timetolive": Spoken(leases.time_to_live, needs=Need.KEYS),
    "kv/lease/leases": Spoken(leases.leases, needs=Need.KEYS),
    "lock/lock": Spoken(election.lock, long=True, needs=Need.KEYS),
    "lock/unlock": Spoken(election.unlock, needs=Need.KEYS),
    "election/campaign": Spoken(election.campaign, long=True, needs=Need.KEYS),
    "election/proclaim": Spoken(election.proclaim, needs=Need.KEYS),
    "election/leader": Spoken(election.leader, needs=Need.KEYS),
    "election/observe": Spoken(election.observe, long=True, needs=Need.KEYS),
    "election/resign": Spoken(election.resign, needs=Need.KEYS),
    "cluster/member/list": Spoken(cluster.members, always=True, needs=Need.SIGNED_IN),
    "cluster/member/add": Spoken(cluster.member_add, always=True, needs=Need.ADMIN),
    "cluster/member/remove": Spoken(cluster.member_remove, always=True, needs=Need.ADMIN),
    "cluster/member/promote": Spoken(cluster.member_promote, always=True, needs=Need.ADMIN),
    "maintenance/status": Spoken(cluster.status, always=True, needs=Need.SIGNED_IN),
    "maintenance/hash": Spoken(cluster.hash_, needs=Need.ADMIN),
    "maintenance/hashkv": Spoken(cluster.hash_kv, needs=Need.ADMIN),
    "maintenance/alarm": Spoken(cluster.alarm, always=True, needs=Need.SIGNED_IN),
    "maintenance/snapshot": Spoken(cluster.snapshot, needs=Need.ADMIN),
    "auth/authenticate": Spoken(cluster.authenticate, needs=Need.NOTHING),
}
"""Each path behind a prefix."""
_AUTH_WORDS: Final = ("add", "get", "list", "delete", "grant", "revoke")
UNSPOKEN: Final = (
    "cluster/member/update",
    "maintenance/defragment",
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
        call = Call(x, identity)
        try:
            return await spoken.handler(call)
        except Refusal as refusal:
            return refused(x, refusal)
        finally:
            call.budget.release()

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
