"""/v1/leases and /v1/keep-alive: grant leases, keep them alive, look at them, list and revoke them.
A lease that ends takes all keys that are attached to it.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

from kv.errors import BadRequest, NotApplied
from kv.model import Applied, Refused
from kv.ports import LeaseTime
from node.api.keys import refused
from node.exchange.exchange import Exchange
from node.wire.answers import first_outcome
from node.wire.byte_forms import json_form
from node.wire.lease_forms import (
    IDS_MAX,
    GrantedAnswer,
    GrantForm,
    KeepAliveForm,
    LeaseAnswer,
    LeasesAnswer,
    RenewedAnswer,
    RenewedAnswers,
    RevokedAnswer,
    checked_lease,
    lease_id,
    lease_ttl_ms,
)
from node.wire.text_fields import parse_count, parse_flag

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 1000


def _lease_in(x: Exchange) -> int:
    """Return the lease in the path. Raises BadRequest."""
    return checked_lease(x.rest.removesuffix("/keep-alive"))


async def grant(x: Exchange) -> web.Response:
    """Grant a lease."""
    params = x.text_params("op_id")
    form = await x.form(GrantForm)
    ttl_ms = lease_ttl_ms(form.ttl)
    wanted = None if form.id is None else checked_lease(form.id)
    op_id = x.take_op_id(params, form.op_id)
    lease = x.services.leases.new_id(op_id) if wanted is None else wanted
    answer = await x.services.leases.grant(
        lease, ttl_ms, op_id, deadline=x.deadline, lifetime_s=x.lifetime_s
    )
    revision, outcome, again = first_outcome(answer)
    if isinstance(outcome, Refused):
        return x.problem(
            "lease_exists",
            f"lease {lease_id(lease)} is there already",
            op_id=op_id,
            revision=revision,
            again=again,
            at=revision,
        )
    if not isinstance(outcome, Applied):
        return refused(x, op_id, answer, "refused")
    granted = GrantedAnswer(lease_id(lease), ttl_ms / 1000, revision, again, op_id)
    return x.json(granted, 201, revision=revision, more={"Acordo-Op-Id": op_id})


async def revoke(x: Exchange) -> web.Response:
    """End a lease with its keys."""
    lease, op_id = _lease_in(x), x.take_op_id(x.text_params("op_id"))
    answer = await x.services.leases.revoke(
        lease, op_id, deadline=x.deadline, lifetime_s=x.lifetime_s
    )
    revision, outcome, again = first_outcome(answer)
    if isinstance(outcome, Refused):
        return _not_found(x, lease, at=revision)
    if not isinstance(outcome, Applied):
        return refused(x, op_id, answer, "refused")
    done = RevokedAnswer(lease_id(lease), revision, again, op_id)
    return x.json(done, revision=revision, more={"Acordo-Op-Id": op_id})


async def keep_alive(x: Exchange) -> web.Response:
    """Let one lease live its whole ttl from now on."""
    x.text_params()
    lease = _lease_in(x)
    (time,) = await x.services.leases.renewed([lease], deadline=x.deadline)
    if not isinstance(time, LeaseTime):
        return _not_found(x, lease)
    return x.json(_answer(lease, time))


async def keep_many_alive(x: Exchange) -> web.Response:
    """Let many leases live on: they are renewed as one, and each is answered for itself."""
    x.text_params()
    form = await x.form(KeepAliveForm)
    if len(form.ids) > IDS_MAX:
        raise BadRequest("too_many_operations", f"{len(form.ids)} ids", allowed=f"up to {IDS_MAX}")
    leases = [checked_lease(each) for each in form.ids]
    found = await x.services.leases.renewed(leases, deadline=x.deadline)
    return x.json(RenewedAnswers([_renewed(*each) for each in zip(leases, found, strict=True)]))


def _renewed(lease: int, found: LeaseTime | NotApplied | None) -> RenewedAnswer | None:
    match found:
        case None:
            return None
        case NotApplied():
            code, detail = found.reason, found.detail
            return RenewedAnswer(lease_id(lease), code=code, detail=detail)
        case LeaseTime():
            return RenewedAnswer(lease_id(lease), found.ttl_ms / 1000, found.left_ms / 1000)


async def get(x: Exchange) -> web.Response:
    """Tell how long a lease lives, and with `keys` also which keys are attached to it."""
    params = x.text_params("keys")
    lease = _lease_in(x)
    with_keys = "keys" in params and parse_flag(params["keys"], "keys")
    keys = await x.services.leases.keys(lease, deadline=x.deadline) if with_keys else None
    time = await x.services.leases.time(lease, renew=False, deadline=x.deadline)
    if time is None:
        return _not_found(x, lease)
    shown = None if keys is None else [json_form(key) for key in keys]
    return x.json(_answer(lease, time, shown))


async def listing(x: Exchange) -> web.Response:
    """List leases by id."""
    params = x.text_params("limit", "continue")
    limit = parse_count(params["limit"], "limit", LIMIT_MAX) if "limit" in params else LIMIT_DEFAULT
    after = checked_lease(params["continue"]) if "continue" in params else 0
    found, more = await x.services.leases.page(after, limit, deadline=x.deadline)
    leases = [LeaseAnswer(lease_id(lease), ttl_ms / 1000) for lease, ttl_ms in found]
    return x.json(LeasesAnswer(leases, lease_id(found[-1][0]) if more and found else None))


def _answer(
    lease: int, time: LeaseTime, keys: list[str | dict[str, str]] | None = None
) -> LeaseAnswer:
    return LeaseAnswer(lease_id(lease), time.ttl_ms / 1000, time.left_ms / 1000, keys)


def _not_found(x: Exchange, lease: int, *, at: int | None = None) -> web.Response:
    return x.problem("lease_not_found", f"there is no lease {lease_id(lease)}", at=at)
