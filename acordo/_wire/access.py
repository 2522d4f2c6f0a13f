"""Parse answers about access into results. A parser raises `Damaged` when an answer is not what the
API promises.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from acordo import _results as results
from acordo._messages import Reply
from acordo._wire.answers import served
from acordo._wire.forms import Damaged, from_json

T = TypeVar("T")


class _Tokens(msgspec.Struct):
    tokens: tuple[results.AccessToken, ...]


class _Rule(msgspec.Struct):
    prefix: Any
    read: bool
    write: bool


class _Role(msgspec.Struct):
    name: str
    rules: tuple[_Rule, ...]
    admin: bool
    metrics: bool


class _Roles(msgspec.Struct):
    roles: tuple[_Role, ...]


class _Certificate(msgspec.Struct):
    name: str
    roles: tuple[str, ...]


class _Certificates(msgspec.Struct):
    certificates: tuple[_Certificate, ...]


def parse_state(reply: Reply) -> results.AccessState:
    """Return whether access is controlled. Raises Damaged."""
    return _decoded(reply, results.AccessState)


def parse_token(reply: Reply) -> results.AccessToken:
    """Return a token. Raises Damaged."""
    return _decoded(reply, results.AccessToken)


def parse_tokens(reply: Reply) -> tuple[results.AccessToken, ...]:
    """Return tokens. Raises Damaged."""
    return _decoded(reply, _Tokens).tokens


def parse_roles(reply: Reply) -> tuple[results.AccessRole, ...]:
    """Return roles. Raises Damaged."""
    return tuple(
        results.AccessRole(
            name=role.name,
            rules=tuple(
                results.AccessRule(prefix=from_json(rule.prefix), read=rule.read, write=rule.write)
                for rule in role.rules
            ),
            admin=role.admin,
            metrics=role.metrics,
        )
        for role in _decoded(reply, _Roles).roles
    )


def parse_certificates(reply: Reply) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return names of certificates with those of their roles. Raises Damaged."""
    return tuple((each.name, each.roles) for each in _decoded(reply, _Certificates).certificates)


def _decoded(reply: Reply, kind: type[T]) -> T:
    served(reply)
    try:
        return msgspec.json.decode(reply.body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise Damaged(str(exc)) from exc
