"""Define what a client asks for: keys, values, guards, writes and transactions. Never how it is
sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

from acordo._errors import BadRequest

Bytes: TypeAlias = str | bytes
"""A key or a value; a str stands for its UTF-8 bytes."""


def as_bytes(given: Bytes, what: str = "key") -> bytes:
    """Return the bytes of a str or bytes. Raises BadRequest for any other type."""
    if isinstance(given, bytes):
        return given
    if isinstance(given, str):
        try:
            return given.encode()
        except UnicodeEncodeError as exc:
            raise BadRequest(
                f"the {what} is not valid Unicode", code="not_utf8", allowed="str or bytes"
            ) from exc
    raise BadRequest(
        f"the {what} is a {type(given).__name__}", code="wrong_type", allowed="str or bytes"
    )


def key_bytes(key: Bytes) -> bytes:
    """Return a key's bytes. Raises BadRequest for an empty key, because its path would be that of
    the listing.
    """
    raw = as_bytes(key)
    if not raw:
        raise BadRequest("the key is empty", code="key_empty", allowed="1 to 1024 bytes")
    return raw


class Guard(msgspec.Struct, frozen=True, kw_only=True):
    """A condition on one key, or on all of a range. Made by `absent`, `exists`, `at_revision`,
    `equals` and `compare`.
    """

    key: bytes
    kind: str
    revisions: tuple[int, ...] = ()
    value: bytes | None = None
    what: str = ""
    relation: str = ""
    operand: int | bytes = 0
    end: bytes | None = None


def absent(key: Bytes) -> Guard:
    """Return a guard that holds if and only if the key is absent.

    A key has 1 to 1024 bytes. Raises BadRequest for an empty key, or one that is neither str nor
    bytes.
    """
    return Guard(key=key_bytes(key), kind="absent")


def exists(key: Bytes) -> Guard:
    """Return a guard that holds if and only if the key is present. Raises BadRequest."""
    return Guard(key=key_bytes(key), kind="exists")


def at_revision(key: Bytes, *revisions: int) -> Guard:
    """Return a guard that holds if and only if the key is present at one of these revisions.

    Takes up to 64 revisions from 1 up; the single revision 0 means absent. Raises BadRequest.
    """
    if revisions == (0,):
        return absent(key)
    if not revisions or any(
        isinstance(r, bool) or not isinstance(r, int) or r < 1 for r in revisions
    ):
        raise BadRequest(
            "no such revision",
            code="bad_revision",
            allowed="integers from 1, or 0 alone for absent",
        )
    return Guard(key=key_bytes(key), kind="revision", revisions=revisions)


def equals(key: Bytes, value: Bytes) -> Guard:
    """Return a guard that holds if and only if the key is present with exactly this value. Raises
    BadRequest.
    """
    return Guard(key=key_bytes(key), kind="value", value=as_bytes(value, "value"))


def compare(
    key: Bytes,
    what: Literal["create_revision", "revision", "version", "lease", "value"],
    relation: Literal["=", "!=", "<", ">"],
    operand: int | Bytes,
    *,
    end: Bytes | None = None,
) -> Guard:
    r"""Return a guard that holds if and only if `what` the key has stands in this relation to the
    operand: a number, for a value the value, for a lease its name (0: none). The numbers of an
    absent key are 0, and no value compares with it.

    With `end` every present key from `key` on and before `end` has to hold (b"\\0": all keys from
    `key` on). Raises BadRequest.
    """
    number = isinstance(operand, int)
    fits = {"value": not number, "lease": operand == 0 or not number}
    if not fits.get(what, number):
        raise BadRequest(
            f"{what} is not compared to that",
            code="bad_guard",
            allowed="a number; a value; a lease or 0",
        )
    return Guard(
        key=key_bytes(key),
        kind="compare",
        what=what,
        relation=relation,
        operand=operand if isinstance(operand, int) else as_bytes(operand, "operand"),
        end=None if end is None else key_bytes(end),
    )


class Put(msgspec.Struct, frozen=True, kw_only=True):
    """A write that sets a key. Made by `put`."""

    key: bytes
    value: bytes
    ttl_s: float | None = None
    lease: str | None = None
    keep_value: bool = False
    keep_lease: bool = False


class Delete(msgspec.Struct, frozen=True, kw_only=True):
    """A write that deletes a key. Made by `delete`."""

    key: bytes


class DeleteRange(msgspec.Struct, frozen=True, kw_only=True):
    """A write that deletes all keys of a range. Made by `delete_range` and `delete_prefix`."""

    key: bytes
    end: bytes


class Nested(msgspec.Struct, frozen=True, kw_only=True):
    """A transaction among the writes of another. Made by `nested`."""

    guards: tuple[Guard, ...]
    then: tuple[Write, ...]
    otherwise: tuple[Write, ...]


Write: TypeAlias = Put | Delete | DeleteRange | Nested


def put(
    key: Bytes,
    value: Bytes,
    *,
    ttl_s: float | None = None,
    lease: str | None = None,
    keep_lease: bool = False,
) -> Put:
    """Return a write that sets a key (1 to 1024 bytes) to a value (up to 1 MiB).

    `ttl_s`: seconds until the key is deleted, 0.001 to ten years (None: never). `lease`: the lease
    that the key ends with; with `keep_lease` it is the one that it has: the transaction is refused
    (key_absent) if the key is absent. Raises BadRequest.
    """
    if keep_lease and lease is not None:
        raise BadRequest("a lease, and keep_lease", code="bad_write", allowed="one of the two")
    raw = as_bytes(value, "value")
    return Put(key=key_bytes(key), value=raw, ttl_s=ttl_s, lease=lease, keep_lease=keep_lease)


def touch(
    key: Bytes,
    *,
    ttl_s: float | None = None,
    lease: str | None = None,
    keep_lease: bool = False,
) -> Put:
    """Return a write that puts a key again with the value that it has. Otherwise like `put`; the
    transaction is refused (key_absent) if the key is absent.
    """
    made = put(key, b"", ttl_s=ttl_s, lease=lease, keep_lease=keep_lease)
    return msgspec.structs.replace(made, keep_value=True)


def nested(
    guards: Sequence[Guard], then: Sequence[Write] = (), otherwise: Sequence[Write] = ()
) -> Nested:
    """Return a transaction among the writes of another: `then` if all guards hold, else
    `otherwise`. The guards see the state before all writes. At most four are in one another.
    """
    return Nested(guards=tuple(guards), then=tuple(then), otherwise=tuple(otherwise))


def delete(key: Bytes) -> Delete:
    """Return a write that deletes the key. Raises BadRequest."""
    return Delete(key=key_bytes(key))


def delete_range(key: Bytes, end: Bytes) -> DeleteRange:
    r"""Return a write that deletes all keys from `key` on and before `end` (b"\\0": all from `key`
    on), 10,000 at most: beyond that it is refused. Raises BadRequest.
    """
    return DeleteRange(key=key_bytes(key), end=key_bytes(end))


def delete_prefix(prefix: Bytes) -> DeleteRange:
    """Return a write that deletes all keys that begin so, 10,000 at most. Raises BadRequest for an
    empty prefix.
    """
    raw = key_bytes(prefix)
    stem = raw.rstrip(b"\xff")
    return DeleteRange(key=raw, end=stem[:-1] + bytes((stem[-1] + 1,)) if stem else b"\0")


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """One operation that changes data: `writes` if all guards hold, else `otherwise` (None: the
    operation is refused). Guards, writes and reads are at most 128 together.
    """

    guards: tuple[Guard, ...] = ()
    writes: tuple[Write, ...] = ()
    otherwise: tuple[Write, ...] | None = None
    reads: tuple[bytes, ...] = ()
    op_id: str | None = None
    """1 to 128 printable ASCII characters; None: the client makes one."""
