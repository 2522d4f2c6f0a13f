"""Name the errors of etcd's gateway by their codes and words. Pure."""

from __future__ import annotations

from typing import Final, TypeAlias

from kv.errors import KvError

UNKNOWN: Final = 2
INVALID_ARGUMENT: Final = 3
NOT_FOUND: Final = 5
RESOURCE_EXHAUSTED: Final = 8
FAILED_PRECONDITION: Final = 9
OUT_OF_RANGE: Final = 11
UNIMPLEMENTED: Final = 12


Words: TypeAlias = tuple[int, str]
"""The code and the message of an error."""


class Refusal(KvError):
    """A request that etcd refuses, with its code and its words. It changed nothing."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


NO_KEY: Final[Words] = (INVALID_ARGUMENT, "etcdserver: key is not provided")
SYSTEM_KEY: Final[Words] = (
    INVALID_ARGUMENT,
    "etcdserver: keys that begin with acordo/ are the system's",
)
KEY_ABSENT: Final[Words] = (INVALID_ARGUMENT, "etcdserver: key not found")
VALUE_PROVIDED: Final[Words] = (INVALID_ARGUMENT, "etcdserver: value is provided")
LEASE_PROVIDED: Final[Words] = (INVALID_ARGUMENT, "etcdserver: lease is provided")
TOO_MANY_OPERATIONS: Final[Words] = (
    INVALID_ARGUMENT,
    "etcdserver: too many operations in txn request",
)
DUPLICATE_KEY: Final[Words] = (
    INVALID_ARGUMENT,
    "etcdserver: duplicate key given in txn request",
)
TOO_LARGE: Final[Words] = (INVALID_ARGUMENT, "etcdserver: request is too large")
COMPACTED: Final[Words] = (
    OUT_OF_RANGE,
    "etcdserver: mvcc: required revision has been compacted",
)
FUTURE: Final[Words] = (
    OUT_OF_RANGE,
    "etcdserver: mvcc: required revision is a future revision",
)
LEASE_NOT_FOUND: Final[Words] = (NOT_FOUND, "etcdserver: requested lease not found")
LEASE_EXISTS: Final[Words] = (FAILED_PRECONDITION, "etcdserver: lease already exists")
TTL_TOO_LARGE: Final[Words] = (OUT_OF_RANGE, "etcdserver: too large lease TTL")
MEMBER_NOT_FOUND: Final[Words] = (NOT_FOUND, "etcdserver: member not found")
NO_AUTHENTICATION: Final[Words] = (
    FAILED_PRECONDITION,
    "etcdserver: authentication is not enabled",
)
WRONG_PASSWORD: Final[Words] = (
    INVALID_ARGUMENT,
    "etcdserver: authentication failed, invalid user ID or password",
)
NO_ELECTION_LEADER: Final[Words] = (UNKNOWN, "election: no leader")
NOT_ELECTION_LEADER: Final[Words] = (UNKNOWN, "election: not leader")
NO_LEADER_FIELD: Final[Words] = (UNKNOWN, '"leader" field must be provided')


def unimplemented(what: str) -> Refusal:
    """Return the refusal of what is not spoken, by its name."""
    return Refusal(UNIMPLEMENTED, f"Acordo does not speak {what}")
