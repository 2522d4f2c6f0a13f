"""/v1/access: switch the control of access on and off; manage tokens, roles and the roles of
certificates.

No answer contains the hash of a token, and its text only the one that creates it.
"""

from __future__ import annotations

from aiohttp import web

from kv.access import CERTIFICATES, ROLES, TOKENS, UNCONTROLLED, Rights
from kv.errors import BadRequest
from node.exchange.exchange import Exchange
from node.exchange.parameters import percent_decoded
from node.wire.access_forms import (
    AccessAnswer,
    BindingForm,
    BindingsAnswer,
    RoleForm,
    RolesAnswer,
    TokenForm,
    TokensAnswer,
    binding_answer,
    role_answer,
    role_of,
    token_answer,
)
from node.wire.requests import NothingForm


def _by(x: Exchange) -> Rights:
    """Return the rights of who asks."""
    return UNCONTROLLED if x.services.grant is None else x.services.grant.rights


def _name(x: Exchange) -> str:
    return percent_decoded(x.rest).decode("utf-8", "replace")


async def get(x: Exchange) -> web.Response:
    """Tell whether access is controlled, and who asks."""
    x.params()
    by, policy = _by(x), x.services.access.policy
    return x.json(AccessAnswer(policy is None or policy.on, by.principal, by.admin))


async def enable(x: Exchange) -> web.Response:
    """Control access from now on."""
    return await _switch(x, on=True)


async def disable(x: Exchange) -> web.Response:
    """Let everybody do everything from now on."""
    return await _switch(x, on=False)


async def _switch(x: Exchange, *, on: bool) -> web.Response:
    x.params()
    if x.request.can_read_body:
        await x.form(NothingForm)
    x.mutation = True
    by = _by(x)
    await x.services.changes.switch(by, on=on, deadline=x.deadline)
    return x.json(AccessAnswer(on, by.principal, by.admin))


async def tokens(x: Exchange) -> web.Response:
    """List the tokens."""
    x.params()
    found = sorted(
        x.services.changes.policy.tokens.values(), key=lambda each: (each.principal, each.id)
    )
    return x.json(TokensAnswer([token_answer(each) for each in found]))


async def create_token(x: Exchange) -> web.Response:
    """Create a token, and tell it this once."""
    x.params()
    form = await x.form(TokenForm)
    x.mutation = True
    token, text = await x.services.changes.create_token(
        _by(x), form.principal, form.roles, lives_s=form.ttl, deadline=x.deadline
    )
    return x.json(token_answer(token, text), 201)


async def revoke_token(x: Exchange) -> web.Response:
    """Revoke a token."""
    return await _removed(x, TOKENS)


async def roles(x: Exchange) -> web.Response:
    """List the roles."""
    x.params()
    found = sorted(x.services.changes.policy.roles.values(), key=lambda each: each.name)
    return x.json(RolesAnswer([role_answer(each) for each in found]))


async def put_role(x: Exchange) -> web.Response:
    """Set a role."""
    x.params()
    role = role_of(_name(x), await x.form(RoleForm))
    x.mutation = True
    await x.services.changes.put_role(_by(x), role, deadline=x.deadline)
    return x.json(role_answer(role))


async def delete_role(x: Exchange) -> web.Response:
    """Delete a role: who has it loses what it allows."""
    return await _removed(x, ROLES)


async def certificates(x: Exchange) -> web.Response:
    """List the names of certificates that have roles."""
    x.params()
    found = sorted(x.services.changes.policy.certificates.values(), key=lambda each: each.name)
    return x.json(BindingsAnswer([binding_answer(each) for each in found]))


async def put_certificate(x: Exchange) -> web.Response:
    """Give roles to those whose certificate has a name."""
    x.params()
    form = await x.form(BindingForm)
    x.mutation = True
    name = _name(x)
    await x.services.changes.bind(_by(x), name, form.roles, deadline=x.deadline)
    return x.json({"name": name, "roles": form.roles})


async def delete_certificate(x: Exchange) -> web.Response:
    """Take the roles of a certificate's name away."""
    return await _removed(x, CERTIFICATES)


async def _removed(x: Exchange, prefix: bytes) -> web.Response:
    x.params()
    name = _name(x)
    if not name.isascii():
        raise BadRequest("bad_name", f"{name[:64]!r} is no name", allowed="ASCII")
    x.mutation = True
    await x.services.changes.remove(_by(x), prefix, name, deadline=x.deadline)
    return x.json({"removed": name})
