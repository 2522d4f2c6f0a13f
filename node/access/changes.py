"""Change who may do what: each change is one transaction on the records of access control.

All changes guard one key, so two of them never pass each other, and none is made by a node that has
not heard of the one before. Nobody locks themselves out: while access is controlled, a valid token
of an admin remains.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import structlog

from kv.access import (
    ACCESS_PREFIX,
    ANONYMOUS,
    BUILT_IN,
    CERTIFICATES,
    NAME,
    ROLES,
    ROLES_MAX,
    RULES_MAX,
    SWITCH_KEY,
    TOKEN_START,
    TOKENS,
    TOKENS_MAX,
    Binding,
    Policy,
    Rights,
    Role,
    Switch,
    Token,
    hash_of,
    is_over,
)
from kv.errors import BadRequest, NotApplied
from kv.leases import SYSTEM_PREFIX
from kv.model import Absent, Applied, AtRevision, Delete, Guard, Intent, Put, Refused
from kv.ports import Consensus
from node.access.access import RESCUE, Access
from node.writes.writes import Writes

EPOCH_KEY: Final = ACCESS_PREFIX + b"epoch"
"""Every change of access writes this key."""
LEVEL_MIN: Final = 2
"""The feature level below which nothing of access is recorded: version 0.2.0, which may still be a
member, controls none, and its deletes of ranges take these records with them.
"""
EXPIRES_S_MAX: Final = 10 * 366 * 86400
_RESERVED: Final = frozenset({ANONYMOUS, RESCUE})

log = structlog.get_logger("acordo.access")


class Changes:
    """The changes of access that one node makes for admins."""

    def __init__(self, consensus: Consensus, access: Access, writes: Writes) -> None:
        self._consensus, self._access, self._writes = consensus, access, writes

    @property
    def policy(self) -> Policy:
        """What stands. Raises NotApplied."""
        policy = self._access.policy
        if policy is None:
            raise NotApplied("starting", "who may do what is not known here yet")
        return policy

    async def switch(self, by: Rights, *, on: bool, deadline: float) -> None:
        """Control access, or stop doing so. Raises BadRequest("no_admin"), NotApplied,
        OutcomeUnknown.
        """
        await self.change(by, SWITCH_KEY, Switch(on), deadline)

    async def create_token(
        self,
        by: Rights,
        principal: str,
        roles: Sequence[str],
        *,
        lives_s: float | None,
        deadline: float,
    ) -> tuple[Token, str]:
        """Create a token; return it with what its bearer sends, which is kept nowhere. Raises
        BadRequest, NotApplied, OutcomeUnknown.
        """
        policy = self.policy
        _check_name(principal, "principal")
        if principal in _RESERVED:
            raise BadRequest("bad_name", f"{principal} is reserved", allowed="another name")
        self._check_roles(policy, roles)
        if len(policy.tokens) >= TOKENS_MAX:
            raise BadRequest("too_many", f"{TOKENS_MAX} tokens", allowed="revoke some")
        now_ms = self._access.now_ms()
        if lives_s is not None and not 0 < lives_s <= EXPIRES_S_MAX:
            raise BadRequest("bad_ttl", "no such time", allowed=f"seconds, up to {EXPIRES_S_MAX}")
        expires_ms = None if lives_s is None else now_ms + round(lives_s * 1000)
        id_, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        token = Token(id_, principal, tuple(roles), hash_of(secret), now_ms, expires_ms)
        await self.change(by, TOKENS + id_.encode(), token, deadline)
        return token, f"{TOKEN_START}{id_}_{secret}"

    async def put_role(self, by: Rights, role: Role, *, deadline: float) -> None:
        """Set a role. Raises BadRequest, NotApplied, OutcomeUnknown."""
        policy = self.policy
        _check_name(role.name, "role")
        if role.name in BUILT_IN:
            raise BadRequest("bad_name", f"{role.name} is built in", allowed="another name")
        if role.name == ANONYMOUS and role.admin:
            raise BadRequest("bad_role", "everybody would be an admin", allowed="rules")
        if len(role.rules) > RULES_MAX or len(policy.roles) > ROLES_MAX:
            raise BadRequest(
                "too_many", "too many roles or rules", allowed=f"{ROLES_MAX}, {RULES_MAX} in each"
            )
        for rule in role.rules:
            if rule.prefix.startswith(SYSTEM_PREFIX):
                raise BadRequest(
                    "reserved_key", "keys of the system are no role's", allowed="admin"
                )
        await self.change(by, ROLES + role.name.encode(), role, deadline)

    async def bind(self, by: Rights, name: str, roles: Sequence[str], *, deadline: float) -> None:
        """Give roles to those whose certificate has a name. Raises BadRequest, NotApplied,
        OutcomeUnknown.
        """
        _check_name(name, "name")
        if name in _RESERVED:
            raise BadRequest("bad_name", f"{name} is reserved", allowed="another name")
        self._check_roles(self.policy, roles)
        if len(self.policy.certificates) >= ROLES_MAX:
            raise BadRequest("too_many", f"{ROLES_MAX} certificates", allowed="remove some")
        await self.change(by, CERTIFICATES + name.encode(), Binding(name, tuple(roles)), deadline)

    async def remove(self, by: Rights, prefix: bytes, name: str, *, deadline: float) -> None:
        """Revoke a token, or delete a role or a binding. Raises BadRequest, NotApplied,
        OutcomeUnknown.
        """
        kept: Mapping[bytes, Mapping[str, object]] = {
            TOKENS: self.policy.tokens,
            ROLES: self.policy.roles,
            CERTIFICATES: self.policy.certificates,
        }
        if name not in kept[prefix] or name in BUILT_IN:
            raise BadRequest("not_there", f"there is no {name[:64]!r}", allowed="one of the list")
        await self.change(by, prefix + name.encode(), None, deadline)

    def _check_roles(self, policy: Policy, roles: Sequence[str]) -> None:
        unknown = [name for name in roles if name not in policy.roles or name == ANONYMOUS]
        if not roles or unknown:
            raise BadRequest(
                "bad_role",
                f"{unknown[0][:64]!r} is no role to give" if unknown else "no role",
                allowed=", ".join(sorted(policy.roles)[:20]),
            )

    async def change(
        self,
        by: Rights,
        key: bytes,
        record: msgspec.Struct | None,
        deadline: float,
        *,
        guards: tuple[Guard, ...] = (),
        also: tuple[Delete, ...] = (),
    ) -> int:
        """Write one record, or remove it (None); return the revision. `guards` hold too, and
        `also` is done with it. Raises BadRequest("access_changed") if access was changed meanwhile,
        or another of the guards does not hold, and NotApplied.
        """
        if 0 < self._consensus.status().feature_level < LEVEL_MIN:  # 0: of a shared store
            raise NotApplied(
                "upgrading", "a member may still be of a version that controls no access"
            )
        records = self._access.records()
        raw = None if record is None else msgspec.json.encode(record)
        after = {k: v for k, v in records.items() if k != key}
        if raw is not None:
            after[key] = raw
        self._check_admin_remains(Policy(after))
        epoch = self._access.revision_of(EPOCH_KEY)
        guard: Guard = AtRevision(EPOCH_KEY, (epoch,)) if epoch else Absent(EPOCH_KEY)
        write = Delete(key) if raw is None else Put(key, raw)
        op_id = by.tagged(self._writes.new_op_id())
        intent = Intent(op_id, 0, (guard, *guards), (write, Put(EPOCH_KEY, b"1"), *also))
        answer = await self._writes.one(intent, deadline=deadline, system=True)
        if isinstance(answer.outcome, Refused):
            raise BadRequest(
                "access_changed", "another change of access came first", allowed="the same again"
            )
        if not isinstance(answer.outcome, Applied):
            raise NotApplied("timeout", "it was ordered too late, and has no effect")
        log.info("access changed", by=by.principal, what=key.decode(), removed=raw is None)
        # The caller finds it in force here from now on.
        left_s = max(deadline - self._access.monotonic(), 0.001)
        try:
            await self._consensus.wait_settled(answer.revision, timeout_s=left_s)
        except TimeoutError:
            return answer.revision
        return answer.revision

    def _check_admin_remains(self, policy: Policy) -> None:
        now_ms = self._access.now_ms()
        if policy.on and not any(
            policy.is_admin(each) and not is_over(each, now_ms) for each in policy.tokens.values()
        ):
            raise BadRequest(
                "no_admin",
                "no valid token of an admin would be there",
                allowed="create a token with the role admin first",
            )


def _check_name(name: str, what: str) -> None:
    if not NAME.fullmatch(name):
        raise BadRequest(
            "bad_name",
            f"{name[:64]!r} is no name of a {what}",
            allowed="1 to 64 letters, digits, . _ and -, beginning with a letter or digit",
        )
