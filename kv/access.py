"""Decide who may read and write which keys: tokens, roles and their rules. Pure.

The records stand as ordinary versions under the system's prefix, so every member has them, and
backups and digests contain them. A record that cannot be read grants nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Final, Literal, TypeAlias, TypeVar

import msgspec

from kv.leases import SYSTEM_PREFIX
from kv.model import FROM_KEY

ACCESS_PREFIX: Final = b"acordo/access/"
"""Keys of access control: nobody reaches them as keys, only by /v1/access."""
SWITCH_KEY: Final = ACCESS_PREFIX + b"switch"
TOKENS: Final = ACCESS_PREFIX + b"tokens/"
ROLES: Final = ACCESS_PREFIX + b"roles/"
CERTIFICATES: Final = ACCESS_PREFIX + b"certificates/"
AUDIT: Final = ACCESS_PREFIX + b"audit/"
"""What admins did that is no write: the rest of the key says what. Nothing is decided by these."""
ANONYMOUS: Final = "anonymous"
"""The principal of requests without credentials, and the role that says what it may do."""
TOKENS_MAX: Final = 10_000
ROLES_MAX: Final = 1_000
RULES_MAX: Final = 100
"""Rules of one role."""
TOKEN_START: Final = "acordo_"
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What names of principals, roles and tokens look like."""
_TOKEN: Final = re.compile(r"acordo_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
OWNER_BITS: Final = 28
"""Bits of a lease's id that name who granted it, while access is on."""
_LEASE_BITS: Final = 63 - OWNER_BITS
OP_ID_TAG: Final = "\x1f"
"""What stands in a recorded op_id before its principal. No client's op_id contains it."""

BROUGHT: Final = ";principal="
"""What stands there in the op_id of an asynchronous write while it is with the broker and a worker,
in whose requests only printable op_ids travel.
"""

Action: TypeAlias = Literal["read", "write"]
_Kind = TypeVar("_Kind", "Token", "Role", "Binding")


class Rule(msgspec.Struct, frozen=True):
    """What may be done to the keys under a prefix."""

    prefix: bytes
    read: bool = False
    write: bool = False


class Role(msgspec.Struct, frozen=True):
    """A named set of rules. `admin`: everything; `metrics`: /metrics as well."""

    name: str
    rules: tuple[Rule, ...] = ()
    admin: bool = False
    metrics: bool = False


class Token(msgspec.Struct, frozen=True):
    """A bearer token as it is kept. `hash`: hexadecimal BLAKE2b-256 of its secret part, which has
    256 random bits, so there is nothing to guess that a slow hash would protect.
    """

    id: str
    principal: str
    roles: tuple[str, ...]
    hash: str
    created_ms: int
    expires_ms: int | None = None


BUILT_IN: Final = {
    "admin": Role("admin", admin=True),
    "metrics": Role("metrics", metrics=True),
}
"""Roles that are always there."""


class Binding(msgspec.Struct, frozen=True):
    """The roles of those whose TLS certificate has a name."""

    name: str
    roles: tuple[str, ...]


class Switch(msgspec.Struct, frozen=True):
    """Whether access is controlled."""

    on: bool


class Spans:
    """Ranges of keys in order, of which no two touch. `None` as an end: there is none."""

    __slots__ = ("_begins", "_ends")

    def __init__(self, prefixes: Iterable[bytes]) -> None:
        begins: list[bytes] = []
        ends: list[bytes | None] = []
        for prefix in sorted(set(prefixes)):
            if ends and ((last := ends[-1]) is None or prefix <= last):
                if last is not None:
                    end = end_of(prefix)
                    ends[-1] = None if end is None else max(last, end)
                continue
            begins.append(prefix)
            ends.append(end_of(prefix))
        self._begins, self._ends = begins, ends

    def __len__(self) -> int:
        return len(self._begins)

    def covers(self, begin: bytes, end: bytes) -> bool:
        """Return whether a range, named as in `kv.model.Compare`, lies wholly in one of them."""
        place = bisect_right(self._begins, begin) - 1
        if place < 0:
            return False
        last = self._ends[place]
        if last is None:
            return True
        if not end:
            return begin < last
        return end != FROM_KEY and end <= last


class Rights:
    """What one principal may do."""

    __slots__ = ("_read", "_write", "admin", "metrics", "principal")

    def __init__(self, principal: str | None, roles: Iterable[Role]) -> None:
        given = tuple(roles)
        self.principal = principal
        """Whose they are; None: access is not controlled."""
        self.admin = any(role.admin for role in given)
        self.metrics = self.admin or any(role.metrics for role in given)
        rules = [rule for role in given for rule in role.rules]
        if self.admin:
            rules.append(Rule(b"", read=True, write=True))
        self._read = Spans(rule.prefix for rule in rules if rule.read)
        self._write = Spans(rule.prefix for rule in rules if rule.write)

    @property
    def writes(self) -> bool:
        """Whether any key may be written."""
        return bool(self._write)

    def may(self, action: Action, begin: bytes, end: bytes = b"") -> bool:
        """Return whether all keys of a range may be read or written, apart from those that are
        hidden. `end` as in `kv.model.Compare`.
        """
        return (self._read if action == "read" else self._write).covers(begin, end)

    @property
    def hidden(self) -> bytes:
        """The prefix whose keys are not there for this principal: only an admin reaches keys of the
        system, and nobody those of access.
        """
        return ACCESS_PREFIX if self.admin else SYSTEM_PREFIX

    def owns(self, lease: int) -> bool:
        """Return whether a lease is one that this principal granted."""
        return self.admin or lease >> _LEASE_BITS == _owner(self.principal or "")

    def lease(self, wanted: int) -> int:
        """Return the id of a new lease, made from one that its operation determines."""
        if self.principal is None:
            return wanted
        return (_owner(self.principal) << _LEASE_BITS | wanted % (1 << _LEASE_BITS)) or 1

    def tagged(self, op_id: str) -> str:
        """Return an op_id as it is recorded: with the principal."""
        return op_id if self.principal is None else f"{op_id}{OP_ID_TAG}{self.principal}"


class Policy:
    """All of access control as it stands at one revision. Immutable."""

    def __init__(self, records: Mapping[bytes, bytes]) -> None:
        self.on = SWITCH_KEY in records and _is_on(records[SWITCH_KEY])
        self.tokens = {each.id: each for each in _of(records, TOKENS, Token)}
        self.roles = {each.name: each for each in _of(records, ROLES, Role)} | BUILT_IN
        self.certificates = {each.name: each for each in _of(records, CERTIFICATES, Binding)}
        self.stands = bool(records)
        """Whether there is any record. Without one nothing has to be hidden."""

        self._of_principals: dict[str, list[Token]] | None = None

    def rights_of(self, principal: str | None, now_ms: int) -> Rights | None:
        """Return what a principal may do by all that it has now, its valid tokens and its
        certificate; None: it has nothing, or no more. A principal of None is nobody in particular.
        """
        if not self.on:
            return UNCONTROLLED
        if principal is None or principal == ANONYMOUS:
            return None if self.anonymous is None else self.rights(ANONYMOUS, (ANONYMOUS,))
        if self._of_principals is None:
            self._of_principals = {}
            for each in self.tokens.values():
                self._of_principals.setdefault(each.principal, []).append(each)
        kept = [
            each for each in self._of_principals.get(principal, ()) if not is_over(each, now_ms)
        ]
        bound = self.certificates.get(principal)
        if not kept and bound is None:
            return None
        roles = [role for token in kept for role in token.roles]
        return self.rights(principal, [*roles, *(() if bound is None else bound.roles)])

    def rights(self, principal: str, roles: Iterable[str]) -> Rights:
        """Return the rights of a principal with these roles; one that is not there gives none."""
        return Rights(principal, (self.roles[name] for name in roles if name in self.roles))

    def token(self, text: str, now_ms: int) -> Token | None:
        """Return the token that a client sent; None: it is none, or is over."""
        parts = _TOKEN.fullmatch(text)
        found = self.tokens.get(parts[1]) if parts else None
        if found is None or parts is None or is_over(found, now_ms):
            return None
        return found if hmac.compare_digest(found.hash, hash_of(parts[2])) else None

    @staticmethod
    def rescued(principal: str) -> Rights:
        """Return the rights of who holds the token of a node's own file."""
        return Rights(principal, (Role(principal, admin=True),))

    @property
    def anonymous(self) -> Role | None:
        """The role of requests without credentials; None: they may do nothing."""
        return self.roles.get(ANONYMOUS)

    def is_admin(self, token: Token) -> bool:
        """Return whether a token makes its bearer an admin."""
        return any(role in self.roles and self.roles[role].admin for role in token.roles)


def is_over(token: Token, now_ms: int) -> bool:
    """Return whether a token has expired."""
    return token.expires_ms is not None and now_ms >= token.expires_ms


def hash_of(secret: str) -> str:
    """Return what is kept of a token's secret part."""
    return hashlib.blake2b(
        secret.encode("utf-8", "replace"), digest_size=32, person=b"acordo token"
    ).hexdigest()


def end_of(prefix: bytes) -> bytes | None:
    """Return the first key behind those under a prefix; None: there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None


def plain_op_id(op_id: str) -> str:
    """Return an op_id as its client knows it."""
    return op_id.partition(OP_ID_TAG)[0]


def brought(op_id: str) -> str | None:
    """Return an op_id as it is recorded, if a worker brought it for a principal; None: it did
    not.
    """
    own, mark, principal = op_id.rpartition(BROUGHT)
    return f"{own}{OP_ID_TAG}{principal}" if mark and NAME.fullmatch(principal) else None


def principal_of(op_id: str) -> str | None:
    """Return whose operation it is, if that was recorded."""
    return op_id.partition(OP_ID_TAG)[2] or None


def _owner(principal: str) -> int:
    digest = hashlib.blake2b(principal.encode(), digest_size=8, person=b"acordo owner").digest()
    return int.from_bytes(digest, "big") >> (64 - OWNER_BITS)


def _is_on(raw: bytes) -> bool:
    try:
        return msgspec.json.decode(raw, type=Switch).on
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return True  # whoever cannot tell must not open the door


def _of(records: Mapping[bytes, bytes], prefix: bytes, kind: type[_Kind]) -> Iterable[_Kind]:
    for key, raw in records.items():
        if key.startswith(prefix):
            try:
                yield msgspec.json.decode(raw, type=kind)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                continue


# These two stand here because they need what is above.
UNCONTROLLED: Final = Rights(None, (Role("all", admin=True),))
"""What everybody may do while access is not controlled."""
NOTHING: Final = Rights(ANONYMOUS, ())
"""What nobody in particular may do."""
