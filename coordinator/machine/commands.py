"""Encode the commands that travel through the log: Submit, Settle, Rebase, Adopt, Found, Amend, and
Floor, Cursor and Level of a replicated store.

The encoding is one version byte, then msgpack with a tagged union. Decoding never guesses: a broken
body is a ValueError, which the caller turns into "this command does nothing", on every node alike;
a command that a later version made ends the member. A change that an older decoder would not notice
(a field within a field) needs a new VERSION.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias, get_args

import msgspec

from coordinator.machine.limits import Limits
from coordinator.machine.pending import Mark
from kv.errors import NewerCommand
from kv.model import Cancel, Compare, Delete, Intent, LedgerRow, Put, Recorded

VERSION: Final = 2
"""The newest version of commands. In version 2 intents may hold what version 1 does not know:
Compare, PutWith, DeleteRange, Nested. Only a Submit that holds some says so: members of version 1
apply all others, and stop before one that they would skip.
"""
_PREFIX: Final = b"\1"
_PREFIX_2: Final = bytes([VERSION])


class Submit(
    msgspec.Struct, frozen=True, array_like=True, tag="s", forbid_unknown_fields=True, gc=False
):
    """The command that orders intents. Without any it only carries a time stamp (a tick)."""

    intents: tuple[Intent | Cancel, ...]


class Settle(
    msgspec.Struct, frozen=True, array_like=True, tag="t", forbid_unknown_fields=True, gc=False
):
    """The command that tells all members that the group `first` … `last` is in the store. The n-th
    record (from 0) belongs to revision `first + n`.
    """

    first: int
    last: int
    digest: bytes
    log_time_ms: int
    records: tuple[Recorded, ...]
    resolved: bool = False
    """Whether the row was read back from the ledger while taking over. Another log order may have
    dated its ttls, so the versions are taken from the store rather than made from the pending
    intents.
    """


class Rebase(
    msgspec.Struct, frozen=True, array_like=True, tag="r", forbid_unknown_fields=True, gc=False
):
    """The command that tells all members that the ledger goes on from `settled` with `rows`, which
    this log does not hold in that order.
    """

    settled: Mark
    rows: tuple[LedgerRow, ...]


class Adopt(
    msgspec.Struct, frozen=True, array_like=True, tag="a", forbid_unknown_fields=True, gc=False
):
    """The command by which all members adopt the store as it is, at an operator's request, by the
    row without intents that the leader appended for it.
    """

    row: LedgerRow
    """It ends above every revision ever given, so that none is given twice."""
    namespace: int = 0
    """The new namespace of the caches, drawn by the leader. 0: the command is older than drawn
    namespaces, and the machine counts up by one.
    """


class Found(
    msgspec.Struct, frozen=True, array_like=True, tag="f", forbid_unknown_fields=True, gc=False
):
    """The command that founds a history: it identifies this cluster's order, and sets the limits of
    all members. Only the first one in a log counts; it takes no revision.
    """

    history: bytes
    """HISTORY_BYTES random bytes that name this order; the store carries them too."""
    namespace: int
    """The namespace of the caches: random, NAMESPACE_MIN … NAMESPACE_MAX."""
    cache_key: bytes
    """CACHE_KEY_BYTES random bytes that sign cache entries. They stay in the log, the snapshot and
    memory.
    """
    limits: Limits
    members: bytes = b""
    """The digest of the proposer's first member list; empty: not given."""


class Amend(
    msgspec.Struct, frozen=True, array_like=True, tag="m", forbid_unknown_fields=True, gc=False
):
    """The command that changes the limits of every member."""

    limits: Limits


class Floor(
    msgspec.Struct, frozen=True, array_like=True, tag="o", forbid_unknown_fields=True, gc=False
):
    """The command that lets every member of a replicated store prune below a revision (R8)."""

    revision: int


class Cursor(
    msgspec.Struct, frozen=True, array_like=True, tag="c", forbid_unknown_fields=True, gc=False
):
    """The command that tells all members of a replicated store how far a reader of the ledger has
    come (R10).
    """

    name: str
    position: int


class Level(
    msgspec.Struct, frozen=True, array_like=True, tag="l", forbid_unknown_fields=True, gc=False
):
    """The command that switches on what members of this feature level do (R14)."""

    level: int


Command: TypeAlias = Submit | Settle | Rebase | Adopt | Found | Amend | Floor | Cursor | Level

HISTORY_BYTES: Final = 16
CACHE_KEY_BYTES: Final = 32
NAMESPACE_MIN: Final = 1 << 32
"""Above every namespace that can have been reached by counting, as was done before they were
drawn.
"""
NAMESPACE_MAX: Final = (1 << 53) - 1

TICK: Final = Submit(())

_encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(
    Submit | Settle | Rebase | Adopt | Found | Amend | Floor | Cursor | Level
)
_KINDS: Final[dict[str, int]] = {
    str(kind.__struct_config__.tag): len(kind.__struct_fields__) for kind in get_args(Command)
}
"""The number of fields of each kind."""
_TAG: Final = re.compile(r"[a-z][a-z0-9_]*")
_shape = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_tag = msgspec.msgpack.Decoder(str).decode


def encode(command: Command) -> bytes:
    """Return the bytes of a command, which every member applies."""
    if type(command) is Submit and any(map(_is_of_version_2, command.intents)):
        return _PREFIX_2 + _encode(command)
    return _PREFIX + _encode(command)


def _is_of_version_2(intent: Intent | Cancel) -> bool:
    if type(intent) is not Intent:
        return False
    writes = intent.writes
    if not intent.guards and not intent.otherwise and len(writes) == 1 and type(writes[0]) is Put:
        return False  # as most are
    return any(type(guard) is Compare for guard in intent.guards) or any(
        type(write) is not Put and type(write) is not Delete
        for write in writes + (intent.otherwise or ())
    )


_SETTLE: Final = b"\xa1t"
"""The tag of a Settle, which follows the head of the array."""
_decode_settle = msgspec.msgpack.Decoder(Settle).decode


def decode(command: bytes) -> Command:
    """Decode a command.

    Raises NewerCommand for one that a later version made: it must not be skipped here, because
    members that know it apply it. Raises ValueError for a body that no version can have made.
    """
    if command[:1] > _PREFIX_2:
        raise NewerCommand(f"version {command[0]} of commands; this member knows up to {VERSION}")
    if command[:1] not in {_PREFIX, _PREFIX_2}:
        raise ValueError(f"command of unknown version {command[:1].hex() or 'none'}")
    try:
        return _decoder.decode(memoryview(command)[1:])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as exc:
        newer = _newer(command[1:])
        if newer:
            raise NewerCommand(newer) from exc
        raise ValueError(f"broken command: {exc}") from exc


def settle_in(command: bytes) -> Settle | None:
    """Return the Settle that a command is; None if it is another command, or cannot be decoded."""
    if command[:1] != _PREFIX or command[2:4] != _SETTLE:
        return None
    try:
        return _decode_settle(memoryview(command)[1:])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


def _newer(body: bytes) -> str:
    """Return what in an undecodable body a later version must have made: its kind, or more fields
    than that kind has here. Empty when the body is just broken.
    """
    try:
        kind, *fields = _shape(body)
        tag = _tag(kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, ValueError):
        return ""
    known = _KINDS.get(tag)
    if known is None:
        return f"a command of kind {tag[:20]!r}" if _TAG.fullmatch(tag) else ""
    return f"a command of kind {tag!r} with {len(fields)} fields" if len(fields) > known else ""
