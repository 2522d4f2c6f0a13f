"""/version, /v3/cluster/…, /v3/maintenance/…: what etcd's clients ask about members and nodes."""

from __future__ import annotations

from aiohttp import web
from msgspec import UNSET

from kv.ports import Member
from node.etcd.answers import HashResponse, MemberForm, MembersResponse, StatusResponse, number
from node.etcd.call import VERSION, Call, numeric_id
from node.etcd.messages import AlarmAction, AlarmRequest, EmptyRequest, MemberRequest
from node.etcd.refusals import MEMBER_NOT_FOUND, NO_AUTHENTICATION, Refusal, unimplemented
from node.exchange.exchange import Exchange


async def version(x: Exchange) -> web.StreamResponse:
    """Tell the version of etcd whose gateway is spoken, and Acordo's own."""
    own = x.services.settings.version
    return x.json({"etcdserver": VERSION, "etcdcluster": "3.4.0", "acordo": own})


async def members(call: Call) -> web.StreamResponse:
    """List the members."""
    await call.asked(EmptyRequest)
    return call.reply(_members(call))


def _members(call: Call) -> MembersResponse:
    status = call.services.consensus.status()
    return MembersResponse(call.bare_header(), [_form(member) for member in status.members])


def _form(member: Member) -> MemberForm:
    return MemberForm(
        str(numeric_id(member.id)),
        member.id,
        [f"http://{member.raft_address}"],
        [member.url],
        UNSET if member.voter else True,
    )


async def member_add(call: Call) -> web.StreamResponse:
    """Refuse: a member of Acordo has a name and the URL of its clients, which etcd's request does
    not say.
    """
    raise unimplemented("cluster/member/add: POST /v1/cluster/members adds a member")


async def member_remove(call: Call) -> web.StreamResponse:
    """Remove a member."""
    member = await _named(call)
    call.x.mutation = True
    await call.services.consensus.remove_member(member.id, timeout_s=call.x.left_s)
    return call.reply(_members(call))


async def member_promote(call: Call) -> web.StreamResponse:
    """Make an observer, a learner in etcd's words, a voter."""
    member = await _named(call)
    call.x.mutation = True
    await call.services.consensus.add_member(
        member.id, member.raft_address, member.url, voter=True, timeout_s=call.x.left_s
    )
    return call.reply(_members(call))


async def _named(call: Call) -> Member:
    asked = await call.asked(MemberRequest)
    wanted = asked.ID % 2**64
    for member in call.services.consensus.status().members:
        if numeric_id(member.id) == wanted:
            return member
    raise Refusal(*MEMBER_NOT_FOUND)


async def status(call: Call) -> web.StreamResponse:
    """Tell how this node stands. Positions in the log are told as revisions."""
    await call.asked(EmptyRequest)
    own = call.services.consensus.status()
    troubles = [own.refusal or "", own.store_trouble or "", own.store_detail]
    if own.leader is None:
        troubles.append("etcdserver: no leader")
    learner = any(member.id == own.node and not member.voter for member in own.members)
    return call.reply(
        StatusResponse(
            call.header(),
            VERSION,
            UNSET,
            number(0 if own.leader is None else numeric_id(own.leader)),
            number(own.ordered),
            number(own.term),
            number(own.settled),
            [trouble for trouble in troubles if trouble] or UNSET,
            isLearner=learner or UNSET,
        )
    )


async def hash_(call: Call) -> web.StreamResponse:
    """Return a hash of what is settled: the beginning of its digest."""
    await call.asked(EmptyRequest)
    settled = call.services.consensus.settled
    value = int.from_bytes(settled.digest[:4], "big")
    return call.reply(HashResponse(call.header(settled.last), value))


async def alarm(call: Call) -> web.StreamResponse:
    """Tell that there are no alarms: what hinders a node, its status says."""
    asked = await call.asked(AlarmRequest)
    if asked.action is not AlarmAction.GET:
        raise unimplemented("alarms that clients set: /readyz tells what hinders a node")
    return call.reply({})


async def snapshot(call: Call) -> web.StreamResponse:
    """Refuse: a backup of Acordo is another."""
    raise unimplemented("maintenance/snapshot: `acordo dump` makes a backup")


async def authenticate(call: Call) -> web.StreamResponse:
    """Tell that there are no users."""
    raise Refusal(*NO_AUTHENTICATION)


async def authentication(call: Call) -> web.StreamResponse:
    """Refuse: access is a proxy's to control."""
    raise unimplemented("auth/*: a proxy controls access")
