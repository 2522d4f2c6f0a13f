"""/version, /v3/cluster/…, /v3/maintenance/…: what etcd's clients ask about members and nodes."""

from __future__ import annotations

from typing import Final

from aiohttp import web
from msgspec import UNSET

from kv.ports import Member
from node.etcd.answers import (
    AlarmForm,
    AlarmResponse,
    AuthenticateResponse,
    HashKvResponse,
    HashResponse,
    MemberForm,
    MembersResponse,
    StatusResponse,
    number,
)
from node.etcd.call import VERSION, Call, numeric_id
from node.etcd.messages import (
    AlarmAction,
    AlarmRequest,
    AuthenticateRequest,
    EmptyRequest,
    HashKvRequest,
    MemberRequest,
)
from node.etcd.reading import position
from node.etcd.refusals import (
    COMPACTED,
    FUTURE,
    MEMBER_NOT_FOUND,
    NO_AUTHENTICATION,
    WRONG_PASSWORD,
    Refusal,
    unimplemented,
)
from node.exchange.exchange import Exchange

_ALARMS: Final = {"full": "NOSPACE", "diverged": "CORRUPT", "undecided": "CORRUPT"}
"""The alarm that etcd has for a state of a member's store."""

SIGN_IN_BYTES_MAX: Final = 8 * 1024
"""Bytes of a request to sign in: nobody is known yet who could have more of the memory."""


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
    """Return a hash of what is settled."""
    await call.asked(EmptyRequest)
    settled = call.services.consensus.settled
    return call.reply(HashResponse(call.header(settled.last), await _digest(call, settled.last)))


async def hash_kv(call: Call) -> web.StreamResponse:
    """Return a hash of all contents up to a revision: members that hold the same have the same."""
    asked = await call.asked(HashKvRequest)
    await position(call, serializable=False)
    head = call.services.consensus.settled.last
    if asked.revision > head:
        raise Refusal(*FUTURE)
    timeout_s = min(call.x.left_s, call.services.settings.store_timeout_s)
    floor = await call.services.store.floor(timeout_s=timeout_s)
    if 0 < asked.revision < floor:
        raise Refusal(*COMPACTED)
    found = await _digest(call, asked.revision if asked.revision > 0 else head)
    return call.reply(HashKvResponse(call.header(head), found, number(floor)))


async def _digest(call: Call, revision: int) -> int:
    """Return the beginning of the digest after a revision: of contents, where each member has its
    own store, else of the order of all operations. Raises Refusal.
    """
    if not revision:
        return 0
    timeout_s = min(call.x.left_s, call.services.settings.store_timeout_s)
    row = await call.services.store.row_ending(revision, timeout_s=timeout_s)
    if row is None:
        raise unimplemented(
            "a hash within a command, which /v1/ledger shows: ask at the end of one"
        )
    return int.from_bytes((row.content or row.digest)[:4], "big")


async def alarm(call: Call) -> web.StreamResponse:
    """Tell of a store that is full, or not what the members agree on. Nobody can set an alarm."""
    asked = await call.asked(AlarmRequest)
    if asked.action is not AlarmAction.GET:
        raise unimplemented("alarms that clients set: /readyz tells what hinders a node")
    own = call.services.consensus.status()
    kind = _ALARMS.get(own.store_state)
    alarms = [AlarmForm(str(numeric_id(own.node)), kind)] if kind else UNSET
    return call.reply(AlarmResponse(alarms))


async def snapshot(call: Call) -> web.StreamResponse:
    """Refuse: a backup of Acordo is another."""
    raise unimplemented("maintenance/snapshot: `acordo backup` makes one")


async def authenticate(call: Call) -> web.StreamResponse:
    """Give a client, who names a principal or a token and brings a token as its password, that
    token back: later requests bring it.
    """
    asked = await call.asked(AuthenticateRequest, SIGN_IN_BYTES_MAX)
    access = call.services.access
    if access.policy is None or not access.policy.on:
        raise Refusal(*NO_AUTHENTICATION)
    token = access.policy.token(asked.password, access.now_ms())
    if token is None or asked.name not in {token.principal, token.id}:
        raise Refusal(*WRONG_PASSWORD)
    return call.reply(AuthenticateResponse(call.header(), asked.password))
