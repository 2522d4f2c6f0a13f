"""Encode the commands that travel through the log: Submit, Settle, Rebase, Adopt, Found, Amend.

One version byte, then msgpack with a tagged union. It never guesses: a broken body is a ValueError,
which the caller turns into "this command does nothing", on every node alike; what a later version
has made ends the member. A change that an older decoder would not notice (a field within a field)
is a new VERSION.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias, get_args

import msgspec

from coordinator.machine.limits import Limits
from coordinator.machine.pending import Mark
from kv.errors import NewerCommand
from kv.model import Cancel, Intent, LedgerRow, Recorded

VERSION: Final = 1
_PREFIX: Final = bytes([VERSION])


class Submit(
    msgspec.Struct, frozen=True, array_like=True, tag="s", forbid_unknown_fields=True, gc=False
):
    """The command that orders intents. Without any it only carries a time stamp (a tick)."""

    intents: tuple[Intent | Cancel, ...]


class Settle(
    msgspec.Struct, frozen=True, array_like=True, tag="t", forbid_unknown_fields=True, gc=False
):
    """The news that the group `first` … `last` is in the store; the n-th record belongs to revision
    `first + n`.
    """

    first: int
    last: int
    digest: bytes
    log_time_ms: int
    records: tuple[Recorded, ...]
    resolved: bool = False
    """Read back from the ledger while taking over: another log order may have dated its ttls, so
    the versions are taken from the store rather than made from the pending intents.
    """


class Rebase(
    msgspec.Struct, frozen=True, array_like=True, tag="r", forbid_unknown_fields=True, gc=False
):
    """The news that the ledger goes on from `settled` with `rows`, which this log does not hold in
    that order.
    """

    settled: Mark
    rows: tuple[LedgerRow, ...]


class Adopt(
    msgspec.Struct, frozen=True, array_like=True, tag="a", forbid_unknown_fields=True, gc=False
):
    """An operator's adoption of the store as it is: the row without intents that the leader
    appended for it.
    """

    row: LedgerRow
    """It ends above every revision ever given, so that none is given twice."""
    namespace: int = 0
    """Of the caches from here on, drawn by the leader. 0: written before namespaces were drawn; the
    next one.
    """


class Found(
    msgspec.Struct, frozen=True, array_like=True, tag="f", forbid_unknown_fields=True, gc=False
):
    """The beginning of a history: what tells this cluster's order from any other, and what its
    members go by. The first one of a log counts; it takes no revision.
    """

    history: bytes
    """HISTORY_BYTES random bytes: names this order; the store carries it too."""
    namespace: int
    """Of the caches: random, NAMESPACE_MIN … NAMESPACE_MAX."""
    cache_key: bytes
    """CACHE_KEY_BYTES random bytes that sign cache entries. They stay in log, snapshot and
    memory.
    """
    limits: Limits
    members: bytes = b""
    """Digest of the first member list of whoever proposed it; empty: not said."""


class Amend(
    msgspec.Struct, frozen=True, array_like=True, tag="m", forbid_unknown_fields=True, gc=False
):
    """The limits that every member goes by from here on."""

    limits: Limits


Command: TypeAlias = Submit | Settle | Rebase | Adopt | Found | Amend

HISTORY_BYTES: Final = 16
CACHE_KEY_BYTES: Final = 32
NAMESPACE_MIN: Final = 1 << 32
"""Above all that counted namespaces (before they were drawn) can have reached."""
NAMESPACE_MAX: Final = (1 << 53) - 1

TICK: Final = Submit(())

_encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(
    Submit | Settle | Rebase | Adopt | Found | Amend
)
_KINDS: Final[dict[str, int]] = {
    str(kind.__struct_config__.tag): len(kind.__struct_fields__) for kind in get_args(Command)
}
"""How many fields each kind has."""
_TAG: Final = re.compile(r"[a-z][a-z0-9_]*")
_shape = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_tag = msgspec.msgpack.Decoder(str).decode


def encode(command: Command) -> bytes:
    """Return the bytes of a command, once; they are what every member applies."""
    return _PREFIX + _encode(command)


def decode(command: bytes) -> Command:
    """Return the command.

    Raises NewerCommand for one that a later version has made, and must not be skipped here: members
    that know it apply it. Raises ValueError for a body that is none, to any version.
    """
    if command[:1] > _PREFIX:
        raise NewerCommand(f"version {command[0]} of commands; this member knows up to {VERSION}")
    if command[:1] != _PREFIX:
        raise ValueError(f"command of unknown version {command[:1].hex() or 'none'}")
    try:
        return _decoder.decode(memoryview(command)[1:])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as exc:
        newer = _newer(command[1:])
        if newer:
            raise NewerCommand(newer) from exc
        raise ValueError(f"broken command: {exc}") from exc


def _newer(body: bytes) -> str:
    """Say what of a body that cannot be decoded is not ours: its kind, or more fields than that
    kind has here.
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
