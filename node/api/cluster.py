"""/v1/cluster and /v1/leader: show every member as this node knows it; transfer the leadership;
add, promote and remove members; amend limits; adopt a store.
"""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from kv.errors import BadRequest
from kv.names import channels
from kv.ports import Member
from node.api.openapi.answers import ActivityAnswer, ControlAnswer, LatencyHistogram
from node.exchange.exchange import Exchange
from node.exchange.parameters import percent_decoded
from node.http.origin import of_this_machine
from node.readiness.findings import unready
from node.wire.answers import LeaderAnswer
from node.wire.requests import AdoptForm, MemberForm, TransferForm
from node.writes.activity import BOUNDS_MS


async def get(x: Exchange) -> web.Response:
    """Return this node's view of the cluster."""
    x.params()
    await x.services.readiness.store_probe.ask()
    return x.json(_view(x))


async def leader(x: Exchange) -> web.Response:
    """Return the leader, with the URL at which clients reach it; 503 while this node knows none."""
    x.params()
    status = x.services.consensus.status()
    if status.leader is None:
        return x.problem("no_leader", "this node knows no leader")
    return x.json(
        LeaderAnswer(
            status.leader, status.leader_url, status.term, status.quorum, status.leader_since_ms
        )
    )


async def activity(x: Exchange) -> web.Response:
    """Return what this node acknowledged since it started, and the changes of leader it saw."""
    x.params()
    status, done = x.services.consensus.status(), x.services.writes.activity
    return x.json(
        ActivityAnswer(
            node=status.node,
            url=x.services.settings.advertised_url,
            role=status.role,
            leader=status.leader,
            term=status.term,
            quorum=status.quorum,
            leader_since_ms=status.leader_since_ms,
            wall_ms=x.services.clock.wall_ms(),
            incarnation=x.services.settings.incarnation,
            writes_acknowledged=done.total,
            write_ms=LatencyHistogram(BOUNDS_MS, tuple(done.buckets)),
            waits=tuple(done.waits),
            leaderships=status.leaderships,
            control=x.services.settings.control is not None,
        )
    )


async def control(x: Exchange) -> web.Response:
    """Return where the runner of this node is told to disturb members, to a caller of this machine
    alone.
    """
    x.params()
    found = x.services.settings.control
    transport = x.request.transport
    local = None if transport is None else transport.get_extra_info("sockname")
    here = of_this_machine(
        x.request.remote or "", str(local[0]) if isinstance(local, tuple) else ""
    )
    if found is None or not here:
        return x.problem("no_control", "no local runner lets this caller disturb members")
    return x.json(ControlAnswer(*found))


async def transfer(x: Exchange) -> web.Response:
    """Transfer the leadership to a member; without a body, to the most advanced one."""
    x.params()
    form = await x.form(TransferForm) if x.request.can_read_body else TransferForm()
    x.mutation = True
    return x.json({"leader": await x.services.consensus.transfer(form.to, timeout_s=x.left_s)})


async def add(x: Exchange) -> web.Response:
    """Add a member as an observer, or as a voter."""
    x.params()
    form = await x.form(MemberForm)
    x.mutation = True
    detail = await x.services.consensus.add_member(
        form.id, form.raft_address, form.url, voter=form.voter, timeout_s=x.left_s
    )
    return x.json(_view(x) | {"detail": detail}, 201)


async def promote(x: Exchange) -> web.Response:
    """Make an observer a voter."""
    x.params()
    member = _member(x, x.rest.removesuffix("/promote"))
    x.mutation = True
    detail = await x.services.consensus.add_member(
        member.id, member.raft_address, member.url, voter=True, timeout_s=x.left_s
    )
    return x.json(_view(x) | {"detail": detail})


async def remove(x: Exchange) -> web.Response:
    """Remove a member."""
    x.params()
    name = percent_decoded(x.rest).decode("utf-8", "replace")
    x.mutation = True
    detail = await x.services.consensus.remove_member(name, timeout_s=x.left_s)
    return x.json(_view(x) | {"detail": detail})


async def amend(x: Exchange) -> web.Response:
    """Make this node's own settings the limits of all members."""
    x.params()
    x.mutation = True
    return x.json({"changed": await x.services.consensus.amend(timeout_s=x.left_s)})


async def adopt(x: Exchange) -> web.Response:
    """Adopt the store's head after a restore. This is an operator's decision, because what was lost
    stays lost.
    """
    x.params()
    form = await x.form(AdoptForm) if x.request.can_read_body else AdoptForm()
    status = x.services.consensus.status()
    if status.leader is not None and status.leader != status.node:
        detail = f"{status.leader} leads, at {status.leader_url}; only the leader adopts"
        return x.problem("ask_leader", detail, leader=status.leader, allowed=status.leader_url)
    x.mutation = True
    settled = await x.services.consensus.adopt(gives_up=form.gives_up, timeout_s=x.left_s)
    return x.json({"settled": settled}, revision=settled)


def _member(x: Exchange, raw: str) -> Member:
    name = percent_decoded(raw).decode("utf-8", "replace")
    for member in x.services.consensus.status().members:
        if member.id == name:
            return member
    raise BadRequest(
        "unknown_member", f"{name[:64]!r} is no member", allowed="an id of /v1/cluster"
    )


def _view(x: Exchange) -> dict[str, Any]:
    status = x.services.consensus.status()
    view: dict[str, Any] = msgspec.to_builtins(status)
    view["unsafe_fsync"] = status.store_kind == "replicated" and status.fsync != "always"
    view["channels"] = channels(status.cluster_id)
    view["url"] = x.services.settings.advertised_url
    view["writes_acknowledged"] = x.services.writes.activity.total
    view["version"] = x.services.settings.version
    view["now_ms"] = x.services.consensus.now_ms()
    view["unready"] = unready(x.services.readiness.known())
    return view
