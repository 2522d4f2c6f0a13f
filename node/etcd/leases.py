"""/v3/lease/…: grant, revoke, keep alive, time to live, list."""

from __future__ import annotations

from typing import Final

from aiohttp import web
from msgspec import UNSET

from kv.errors import NotApplied
from kv.leases import LEASE_ID_MAX
from kv.model import Refused
from kv.ports import LeaseTime
from node.etcd.answers import (
    HeaderResponse,
    LeaseResponse,
    LeasesResponse,
    LeaseStatus,
    Streamed,
    StreamedError,
    TimeToLiveResponse,
    number,
)
from node.etcd.call import Call, applied
from node.etcd.messages import EmptyRequest, LeaseGrantRequest, LeaseRequest
from node.etcd.refusals import (
    INVALID_ARGUMENT,
    LEASE_EXISTS,
    LEASE_NOT_FOUND,
    TTL_TOO_LARGE,
    Refusal,
)
from node.etcd.streams import streamed_error

TTL_S_MIN: Final = 2
"""A shorter ttl is granted as this one, as etcd does."""
TTL_S_MAX: Final = 9_000_000_000
"""What etcd refuses beyond."""
PAGE: Final = 1000
LEASES_MAX: Final = 1000
"""Messages of one request for keep-alives."""


async def grant(call: Call) -> web.StreamResponse:
    """Begin a lease."""
    asked = await call.asked(LeaseGrantRequest)
    lease, ttl_s = await granted(call, asked.ID, asked.TTL)
    return call.reply(LeaseResponse(call.header(), number(lease), str(ttl_s)))


async def granted(call: Call, wanted: int, ttl_s: int) -> tuple[int, int]:
    """Begin a lease; return its id and ttl in seconds. Raises Refusal, NotApplied,
    OutcomeUnknown.
    """
    if ttl_s > TTL_S_MAX:
        raise Refusal(*TTL_TOO_LARGE)
    if not 0 <= wanted <= LEASE_ID_MAX:
        raise Refusal(INVALID_ARGUMENT, "etcdserver: ids of leases are positive")
    ttl_s = max(ttl_s, TTL_S_MIN)
    op_id = call.new_op_id()
    lease = wanted or call.services.leases.new_id(op_id)
    answer = await call.services.leases.grant(lease, ttl_s * 1000, op_id, deadline=call.x.deadline)
    if isinstance(answer.outcome, Refused):
        raise Refusal(*LEASE_EXISTS)
    applied(answer)
    return lease, ttl_s


async def revoke(call: Call) -> web.StreamResponse:
    """End a lease with its keys."""
    lease = (await call.asked(LeaseRequest)).ID
    if not 0 < lease <= LEASE_ID_MAX:
        raise Refusal(*LEASE_NOT_FOUND)
    answer = await call.services.leases.revoke(lease, call.new_op_id(), deadline=call.x.deadline)
    if isinstance(answer.outcome, Refused) and not answer.outcome.reason:
        raise Refusal(*LEASE_NOT_FOUND)
    applied(answer)
    return call.reply(HeaderResponse(call.header(answer.revision)), revision=answer.revision)


async def keep_alive(call: Call) -> web.StreamResponse:
    """Let leases live their whole ttl from now on, one for each message of the body. Without a ttl
    in its answer there is no such lease.
    """
    asked = [each.ID for each in await call.each_asked(LeaseRequest, LEASES_MAX)]
    known = [lease for lease in asked if 0 < lease <= LEASE_ID_MAX]
    found = await call.services.leases.renewed(known, deadline=call.x.deadline)
    times = dict(zip(known, found, strict=True))
    return call.streamed(*(_renewed(call, lease, times.get(lease)) for lease in asked))


def _renewed(
    call: Call, lease: int, found: LeaseTime | NotApplied | None
) -> Streamed | StreamedError:
    if isinstance(found, NotApplied):
        return streamed_error(found)
    ttl = UNSET if found is None else str(found.ttl_ms // 1000)
    return Streamed(LeaseResponse(call.header(), number(lease), ttl))


async def time_to_live(call: Call) -> web.StreamResponse:
    """Tell how long a lease lives, and which keys end with it."""
    asked = await call.asked(LeaseRequest)
    time, keys = None, list[bytes]()
    if 0 < asked.ID <= LEASE_ID_MAX:
        if asked.keys:
            keys = list(await call.services.leases.keys(asked.ID, deadline=call.x.deadline))
        time = await call.services.leases.time(asked.ID, renew=False, deadline=call.x.deadline)
    if time is None:
        return call.reply(TimeToLiveResponse(call.header(), number(asked.ID), "-1"))
    return call.reply(
        TimeToLiveResponse(
            call.header(),
            str(asked.ID),
            number(time.left_ms // 1000),
            str(time.ttl_ms // 1000),
            keys or UNSET,
        )
    )


async def leases(call: Call) -> web.StreamResponse:
    """List all leases."""
    await call.asked(EmptyRequest)
    found: list[LeaseStatus] = []
    after, more = 0, True
    while more:
        page, more = await call.services.leases.page(after, PAGE, deadline=call.x.deadline)
        found += [LeaseStatus(str(lease)) for lease, _ in page]
        after = page[-1][0] if page else 0
        more = more and bool(page)
    return call.reply(LeasesResponse(call.header(), found or UNSET))
