"""Convert tokens, roles and certificates' roles to JSON and back. Pure. It never shows what a token
is kept as.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from kv.access import Binding, Role, Rule, Token
from node.wire.byte_forms import Bytes, bytes_from, checked_prefix, json_form

NameForm = Annotated[str, Meta(min_length=1, max_length=64)]


class RuleForm(Struct, frozen=True, forbid_unknown_fields=True):
    """What may be done to the keys under a prefix; "" is all keys but those of the system."""

    prefix: Bytes
    read: bool = False
    write: bool = False


class RoleForm(Struct, frozen=True, forbid_unknown_fields=True):
    """What a role allows. `admin`: everything; `metrics`: /metrics as well."""

    rules: list[RuleForm] = []
    admin: bool = False
    metrics: bool = False


class TokenForm(Struct, frozen=True, forbid_unknown_fields=True):
    """A token to create."""

    principal: NameForm
    roles: list[NameForm]
    ttl: Annotated[float, Meta(description="Seconds until it expires.", gt=0)] | None = None


class BindingForm(Struct, frozen=True, forbid_unknown_fields=True):
    """The roles of those whose certificate has the name in the path."""

    roles: list[NameForm]


class RuleAnswer(Struct, frozen=True):
    """What may be done to the keys under a prefix."""

    prefix: str | dict[str, str]
    read: bool
    write: bool


class RoleAnswer(Struct, frozen=True):
    """A role."""

    name: str
    rules: list[RuleAnswer]
    admin: bool
    metrics: bool


class RolesAnswer(Struct, frozen=True):
    """All roles by name."""

    roles: list[RoleAnswer]


class TokenAnswer(Struct, frozen=True, omit_defaults=True):
    """A token. `token`, what its bearer sends, is told once, when it is created."""

    id: str
    principal: str
    roles: list[str]
    created_ms: int
    expires_ms: int | None = None
    token: str | None = None


class TokensAnswer(Struct, frozen=True):
    """All tokens by principal."""

    tokens: list[TokenAnswer]


class BindingAnswer(Struct, frozen=True):
    """The roles of those whose certificate has a name."""

    name: str
    roles: list[str]


class BindingsAnswer(Struct, frozen=True):
    """All certificates' names with roles."""

    certificates: list[BindingAnswer]


class AccessAnswer(Struct, frozen=True):
    """Whether access is controlled, and who asks."""

    on: bool
    principal: str | None
    admin: bool


def role_of(name: str, form: RoleForm) -> Role:
    """Return a role. Raises BadRequest."""
    rules = tuple(
        Rule(checked_prefix(bytes_from(each.prefix, "prefix")), each.read, each.write)
        for each in form.rules
    )
    return Role(name, rules, form.admin, form.metrics)


def role_answer(role: Role) -> RoleAnswer:
    """Return a role as it is shown."""
    rules = [RuleAnswer(json_form(rule.prefix), rule.read, rule.write) for rule in role.rules]
    return RoleAnswer(role.name, rules, role.admin, role.metrics)


def token_answer(token: Token, text: str | None = None) -> TokenAnswer:
    """Return a token as it is shown, without its hash."""
    return TokenAnswer(
        token.id, token.principal, list(token.roles), token.created_ms, token.expires_ms, text
    )


def binding_answer(binding: Binding) -> BindingAnswer:
    """Return a certificate's name with its roles."""
    return BindingAnswer(binding.name, list(binding.roles))
